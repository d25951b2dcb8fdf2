"""Segmentations of many cases -> a shape model and the record (card) that tells how good it is."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import torch

from shapefit.correspondence import correspond
from shapefit.io.case import Case
from shapefit.landmarks import carry_landmarks
from shapefit.model_card import model_card
from shapefit.settings import BuildSettings
from shapefit.shape_model import ShapeModel, train

Progress = Callable[[str, float], None]


def build_model(
    cases: Sequence[Case],
    settings: BuildSettings | None = None,
    labels: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> tuple[ShapeModel, dict]:
    """Shape model of cases (closed meshes in world mm), and its JSON-able card.

    `labels` are the structures' ids in segmentations, which also give their order (1, 2, ... in the order
    of the first case if absent). The card holds frame, units, licence, source, subjects, registration
    residuals in mm, quality curves, the leave-one-out table and times in seconds.
    Raises ValueError for fewer than 2 cases, for names that occur twice and for a missing structure.
    """
    settings = settings or BuildSettings()
    report = progress or (lambda what, fraction: None)
    names = _names(cases, labels)
    started = time.perf_counter()
    surfaces = [{name: case.surfaces[name] for name in names} for case in cases]
    laid = correspond(surfaces, settings, lambda what, fraction: report(what, 0.7 * fraction))
    registered = time.perf_counter()
    rows = [cases[row].name + ("~" if m else "") for row, m in zip(laid.rows, laid.mirrored, strict=True)]
    shapes, faces = torch.from_numpy(laid.shapes), torch.from_numpy(laid.faces)
    metadata = {
        "id": settings.name,
        "license": settings.license,
        "source": settings.source,
        "subjects": " ".join(case.name for case in cases),
        "created_by": f"shapefit {version('shapefit')}",
    }
    model = train(
        shapes,
        faces,
        torch.from_numpy(laid.structure),
        names,
        [labels[name] for name in names] if labels else range(1, len(names) + 1),
        cases=rows,
        metadata=metadata,
    )
    marks = carry_landmarks(model, [case.landmarks for case in cases], shapes[: len(cases)])
    model = replace(model, landmarks=marks)
    report("quality", 0.72)
    card = model_card(model, cases, shapes, settings, metadata, lambda what, f: report(what, 0.75 + 0.25 * f))
    finished = time.perf_counter()
    card["seconds"] = {"correspondence": registered - started, "quality": finished - registered}
    report("done", 1.0)
    return model, card


def _names(cases: Sequence[Case], labels: Mapping[str, int] | None) -> list[str]:
    if len(cases) < 2:
        raise ValueError(f"a shape model needs at least 2 shapes, got {len(cases)}")
    called = [case.name for case in cases]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise ValueError(f"several cases are called {', '.join(twice)}; each needs a name of its own")
    names = list(labels or cases[0].surfaces)
    for case in cases:
        if missing := [name for name in names if name not in case.surfaces]:
            raise ValueError(
                f"case {case.name} lacks {', '.join(missing)}; it has {', '.join(case.surfaces) or 'nothing'}"
            )
    return names
