"""What commands share: types of arguments, what they tell, progress."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro

from shapefit.settings import MeshSettings

BAD_INPUT, FIT_FAILED, INTERRUPTED = 2, 3, 130  # exit statuses

Folder = Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="DIR")]
File = Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="FILE")]
Files = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")]
Cases = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="CASE [CASE ...]")]
Meshes = Annotated[MeshSettings, tyro.conf.arg(name="")]
Start = Annotated[str, tyro.conf.arg(metavar="auto|scene|prior|FILE")]
Labels = Annotated[tuple[str, ...], tyro.conf.arg(metavar="STRUCTURE[=LABEL] [...]")]


def label_numbers(given: Sequence[str]) -> dict[str, int | None]:
    """STRUCTURE=LABEL as a mapping; None for a STRUCTURE alone, whose label is known by its name.

    Raises ValueError for an entry that is neither, and for a structure that is given twice.
    """
    labels: dict[str, int | None] = {}
    for entry in given:
        name, equals, label = entry.rpartition("=") if "=" in entry else (entry, "", "")
        if not name or (equals and not label.isdecimal()):
            raise ValueError(
                f"--labels {entry!r} is not STRUCTURE=LABEL, as in sacrum=1, nor a structure's name"
            )
        if name in labels:
            raise ValueError(f"--labels gives {name} twice")
        labels[name] = int(label) if equals else None
    return labels


def tell(findings: Mapping[str, Sequence[str]], place: str = "") -> None:
    """What was met and changed in the input, structure by structure, on stderr."""
    for name, sentences in findings.items():
        print(f"shapefit: {place}{name}: {'; '.join(sentences)}", file=sys.stderr)


def command_line() -> str:
    """The command as it was typed, for records."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, and the function `progress(what, fraction)` that moves it."""
    from tqdm import tqdm

    with tqdm(total=1.0, desc=what, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}") as bar:

        def report(stage: str, fraction: float) -> None:
            bar.set_description_str(f"{what}, {stage}", refresh=False)
            bar.update(min(max(fraction, bar.n), 1.0) - bar.n)

        report("reading", 0.0)
        yield report
        report("done", 1.0)
