"""Segmentations of many cases -> a shape model, its card and its report."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shapefit.build import build_model
from shapefit.io.atomic import atomic_folder, prepare_output_dir, write_text
from shapefit.io.case import Case, case_names, model_labels
from shapefit.io.kept_case import read_cases
from shapefit.io.label_names import Structures
from shapefit.io.model import write_model
from shapefit.io.pieces import Pieces
from shapefit.report import model_page
from shapefit.settings import BuildSettings, MeshSettings, SurfaceSettings
from shapefit.shape_model import ShapeModel
from shapefit.template import reason
from shapefit.workers import Workers, peak_memory

SUFFIXES = (".h5", ".hdf5")
READING = 0.1  # share of the time that reading takes, for the progress


def build_job(
    cases: Sequence[Path],
    labels: Structures,
    output: Path,
    settings: BuildSettings,
    surface_settings: SurfaceSettings | None = None,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
    meshes: MeshSettings | None = None,
    fresh: bool = False,
) -> ShapeModel:
    """Train a model -> MODEL.h5, MODEL.card.json, MODEL.html; returns it.

    Without `labels`, the structures are the meshes of the first case's folder, with labels 1, 2, ...
    What is finished is kept in the `work_folder` until the model is there: the same job goes on from it,
    unless it is to start `fresh`. On a cluster, all workers see the cases and that folder at these paths.
    Raises ValueError for fewer than two cases and, naming them all, for cases that `read_case` refuses or
    that cannot be registered; `settings.allow_failures` leaves those out instead.
    """
    report = progress or (lambda what, fraction: None)
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{output} does not end like a shape model; expected {' or '.join(SUFFIXES)}")
    if len(cases) < 2:
        raise ValueError(f"a shape model needs at least 2 shapes, got {len(cases)}")
    names = case_names(cases)
    began = time.monotonic()
    with (
        _kept_pieces(output, fresh) as pieces,
        atomic_folder(output.parent) as folder,
        Workers(settings.workers, settings.cluster) as workers,
    ):
        read: list[Case] = []
        findings: dict[str, dict] = {}
        failures: dict[str, str] = {}
        found = read_cases(
            cases,
            names,
            labels or None,
            surface_settings or SurfaceSettings(),
            meshes or MeshSettings(),
            workers,
            pieces,
        )
        for number, (name, outcome) in enumerate(zip(names, found, strict=True), 1):
            if isinstance(outcome, Exception):
                failures[name] = reason(outcome)
            else:
                case, findings[name] = outcome
                read.append(case)
            report(f"reading {name}", READING * number / len(cases))
        numbers = model_labels(labels, read[0]) if labels and read else None
        model, card = build_model(
            read,
            settings,
            numbers,
            lambda what, s: report(what, READING + (1 - READING) * s),
            pieces,
            failures,
        )
        card |= {
            "command": command,
            "findings": {name: warnings for name, warnings in findings.items() if warnings},
            "pieces": {"taken_over": pieces.taken, "made": pieces.made},
            "seconds_in_all": time.monotonic() - began,
            "peak_memory_gib": peak_memory() + workers.peak_memory(),
        }
        write_model(folder / output.name, model)
        write_text(folder / f"{output.stem}.card.json", json.dumps(card, indent=2) + "\n")
        model_page(folder / f"{output.stem}.html", model, card)
    return model


def work_folder(output: Path) -> Path:
    """Where an unfinished build of a model keeps what is finished."""
    return output.parent / f".{output.stem}.build"


@contextmanager
def _kept_pieces(output: Path, fresh: bool) -> Iterator[Pieces]:
    folder, absent = work_folder(output), not output.parent.exists()
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    prepare_output_dir(folder)
    try:
        yield Pieces(folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        if absent and output.parent.exists() and not any(output.parent.iterdir()):
            output.parent.rmdir()
