"""The command line: one function per command, nothing else. Everything heavy is imported inside them."""

import sys
from collections.abc import Callable
from importlib.metadata import version

import tyro

from shapefit.cli.commands import build, evaluate, fit, project, render
from shapefit.cli.inspect import inspect
from shapefit.cli.locate import locate
from shapefit.cli.model import model
from shapefit.cli.options import BAD_INPUT
from shapefit.cli.register import register
from shapefit.cli.simulate import simulate
from shapefit.cli.train_scene import train_scene


def main() -> None:
    """Run a command and exit: 0 done, 2 bad input, 3 no fit was found."""
    if sys.argv[1:] == ["--version"]:
        print(f"shapefit {version('shapefit')}")
        sys.exit(0)
    commands: dict[str, Callable] = {
        "inspect": inspect,
        "build": build,
        "project": project,
        "fit": fit,
        "locate": locate,
        "register": register,
        "simulate": simulate,
        "evaluate": evaluate,
        "render": render,
        "model": model,
        "train-scene": train_scene,
    }
    description = "From one or a few fluoroscopy images to a patient's bone in 3D. `--version` says which."
    run(lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="shapefit", description=description))


def fit_shape() -> None:
    """`fit-shape`, a synonym of `shapefit fit`."""
    run(lambda: tyro.cli(fit, prog="fit-shape"))


def run(command: Callable[[], int]) -> None:
    """What a person can put right is a line on stderr; anything else is a defect and keeps its traceback."""
    try:
        status = command()
    except (ValueError, OSError) as error:
        print(f"shapefit: error: {error}", file=sys.stderr)
        status = BAD_INPUT
    sys.exit(status)
