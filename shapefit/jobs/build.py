"""Segmentations of many cases -> a shape model, its card and its report."""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shapefit.build import build_model
from shapefit.io.atomic import atomic_folder, write_text
from shapefit.io.case import case_names, read_case
from shapefit.io.model import write_model
from shapefit.report import model_page
from shapefit.settings import BuildSettings, MeshSettings, SurfaceSettings
from shapefit.shape_model import ShapeModel

SUFFIXES = (".h5", ".hdf5")
READING = 0.1  # share of the time that reading takes, for the progress


def build_job(
    cases: Sequence[Path],
    labels: Mapping[str, int] | None,
    output: Path,
    settings: BuildSettings,
    surface_settings: SurfaceSettings | None = None,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
    meshes: MeshSettings | None = None,
) -> ShapeModel:
    """Train a model -> MODEL.h5, MODEL.card.json, MODEL.html; returns it.

    Without `labels`, the structures are the meshes of the first case's folder, with labels 1, 2, ...
    Raises ValueError for fewer than two cases and for what `read_case` refuses.
    """
    report = progress or (lambda what, fraction: None)
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{output} does not end like a shape model; expected {' or '.join(SUFFIXES)}")
    if len(cases) < 2:
        raise ValueError(f"a shape model needs at least 2 shapes, got {len(cases)}")
    names = case_names(cases)
    began = time.monotonic()
    with atomic_folder(output.parent) as folder:
        read = []
        for number, (name, path) in enumerate(zip(names, cases, strict=True)):
            report(f"reading {name}", READING * number / len(cases))
            case = read_case(path, labels or None, settings=surface_settings, meshes=meshes)
            read.append(replace(case, name=name))
        model, card = build_model(
            read, settings, labels or None, lambda what, s: report(what, READING + (1 - READING) * s)
        )
        found = {case.name: case.warnings() for case in read}
        card |= {
            "command": command,
            "findings": {name: warnings for name, warnings in found.items() if warnings},
            "seconds_in_all": time.monotonic() - began,
            "peak_memory_gib": _peak_memory(settings.workers),
        }
        write_model(folder / output.name, model)
        write_text(folder / f"{output.stem}.card.json", json.dumps(card, indent=2) + "\n")
        model_page(folder / f"{output.stem}.html", model, card)
    return model


def _peak_memory(workers: int) -> float:
    """GiB held at most: of this process, and of its largest worker times their number."""
    unit = 2**30 if sys.platform == "darwin" else 2**20
    mine, largest = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return (mine + (largest * workers if workers > 1 else 0)) / unit
