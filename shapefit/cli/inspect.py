"""Prepared segmentations as they come, before they go into a model."""

from pathlib import Path
from typing import Annotated

import tyro

from shapefit.cli.options import Folder, Labels, command_line, label_numbers, progress_bar
from shapefit.settings import InspectSettings


def inspect(
    cases: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CASE [CASE ...]")],
    /,
    *,
    output: Folder,
    labels: Labels = (),
    source: str = "auto",
    settings: Annotated[InspectSettings, tyro.conf.arg(name="")] = InspectSettings(),
) -> int:
    """Look at segmentations before a model is built of them: pictures side by side, flagged.

    Args:
        cases: label maps (NIfTI, NRRD), or folders of meshes, of one mask per structure, or with a label map
        output: for inspect.html, inspect.json and inspect.csv
        labels: which label is which structure, as in sacrum=1 hip_left=2; a name alone (sacrum) where the
            file or TotalSegmentator's table knows its label; totalsegmentator for all bones of that table
        source: what is read of a folder with both: auto (meshes first), meshes or labels
    """
    from shapefit.jobs import inspect_job

    with progress_bar("inspect") as progress:
        table = inspect_job(cases, label_numbers(labels), output, settings, source, command_line(), progress)
    for case in table["cases"]:
        if case["flags"]:
            print(f"{case['case']}: {'; '.join(flag['reason'] for flag in case['flags'])}")
    print(table["summary"])
    print(output / "inspect.html")
    return 0
