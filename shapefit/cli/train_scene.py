"""A network that starts fits learns from simulated X-rays."""

import sys
from typing import Annotated

import tyro

from shapefit.cli.options import FIT_FAILED, INTERRUPTED, File, command_line, progress_bar
from shapefit.settings import SimulateSettings, TrainSceneSettings


def train_scene(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR_OR_MODEL")],
    /,
    *,
    output: File,
    init: str | None = None,
    on_the_fly: bool = False,
    settings: Annotated[TrainSceneSettings, tyro.conf.arg(name="")] = TrainSceneSettings(),
    simulate: SimulateSettings = SimulateSettings(),
) -> int:
    """Train a scene network: where on the bone does each ray of an X-ray enter and leave it?

    A training that was ended goes on from its last checkpoint when it is asked for again, bit for bit.
    Several processes share each batch: `torchrun --no-python --nproc-per-node N shapefit train-scene ...`.
    Exit status 3: the loss was no longer a number.

    Args:
        source: a folder that `shapefit simulate` wrote; with --on-the-fly a shape model by file or
            name (pelvis), or one bone: a closed mesh or a folder of meshes
        output: file of the network (.safetensors); <output without suffix>.training gets checkpoint, curves
            for TensorBoard and training.json
        init: a network to begin from, of the same layout: its file or name
        on_the_fly: simulate the X-rays while the network learns, with --simulate.*, instead of reading them
    """
    from shapefit.jobs import train_scene_job

    with progress_bar("train") as progress:
        try:
            record = train_scene_job(
                source, output, settings, simulate if on_the_fly else None, init, command_line(), progress
            )
        except KeyboardInterrupt:
            print(
                "\nshapefit: interrupted; the same command goes on from the last checkpoint", file=sys.stderr
            )
            return INTERRUPTED
        except FloatingPointError as error:
            print(f"\nshapefit: error: {error}", file=sys.stderr)
            return FIT_FAILED
    if not record["history"]:  # the first of several processes speaks for all
        return 0
    best = min(record["history"], key=lambda found: found["error"])
    print(
        f"step {best['step']:.0f}: median error {best['error']:.1f} mm, Dice {best['dice']:.3f}, "
        f"error / predicted std {best['std_ratio']:.2f}"
    )
    print(output)
    return 0
