"""Segmentations of many cases -> a shape model and the record (card) that tells how good it is."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import torch

from shapefit.correspondence import correspond
from shapefit.io.case import Case
from shapefit.io.pieces import Pieces
from shapefit.landmarks import carry_landmarks
from shapefit.model_card import model_card
from shapefit.settings import BuildSettings
from shapefit.shape_model import ShapeModel, train
from shapefit.template import FailedCases
from shapefit.workers import one_thread

Progress = Callable[[str, float], None]


def build_model(
    cases: Sequence[Case],
    settings: BuildSettings | None = None,
    labels: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    pieces: Pieces | None = None,
    failures: Mapping[str, str] | None = None,
) -> tuple[ShapeModel, dict]:
    """Shape model of cases (closed meshes in world mm), and its JSON-able card.

    `labels` are the structures' ids in segmentations, which also give their order (1, 2, ... in the order
    of the first case if absent). The card holds frame, units, licence, source, subjects, registration
    residuals in mm, quality curves, the leave-one-out table and times in seconds. `pieces` keep what is
    finished (see `correspond`). `failures` are cases that could not be read: name -> reason. With
    `settings.allow_failures` the model is that of the others, as if those that failed had not been given,
    and the card names them.
    Raises ValueError for fewer than 2 cases, for names that occur twice and, without `allow_failures`, for
    cases that failed or lack a structure: all that are known, with their reasons.
    """
    settings = settings or BuildSettings()
    report = progress or (lambda what, fraction: None)
    failed = dict(failures or {})
    _require_names([case.name for case in cases] + list(failed))
    names = list(labels or (cases[0].surfaces if cases else ()))
    failed |= _lacking(cases, names)
    total, cause = len(cases) + len(failures or {}), None
    started = time.perf_counter()
    while True:
        cases = [case for case in cases if case.name not in failed]
        _judge(failed, total, len(cases), settings.allow_failures, cause)
        surfaces = [case.surfaces for case in cases]
        try:
            laid = correspond(surfaces, settings, lambda what, done: report(what, 0.7 * done), pieces, names)
            break
        except FailedCases as error:
            failed |= {cases[row].name: reason for row, reason in error.reasons.items()}
            cause = error
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
    with one_thread():
        model = train(
            shapes,
            faces,
            torch.from_numpy(laid.structure),
            names,
            [labels[name] for name in names] if labels else range(1, len(names) + 1),
            cases=rows,
            metadata=metadata,
        )
    if settings.modes is not None:
        model = model.truncate(settings.modes)
    marks = carry_landmarks(model, [case.landmarks for case in cases], shapes[: len(cases)])
    model = replace(model, landmarks=marks)
    report("quality", 0.72)
    card = model_card(model, cases, shapes, settings, metadata, lambda what, f: report(what, 0.75 + 0.25 * f))
    finished = time.perf_counter()
    if failed:
        card["failures"] = failed
    card["seconds"] = {"correspondence": registered - started, "quality": finished - registered}
    report("done", 1.0)
    return model, card


def _require_names(called: Sequence[str]) -> None:
    if len(called) < 2:
        raise ValueError(f"a shape model needs at least 2 shapes, got {len(called)}")
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise ValueError(f"several cases are called {', '.join(twice)}; each needs a name of its own")


def _lacking(cases: Sequence[Case], names: Sequence[str]) -> dict[str, str]:
    found = {}
    for case in cases:
        if missing := [name for name in names if name not in case.surfaces]:
            found[case.name] = f"lacks {', '.join(missing)}; it has {', '.join(case.surfaces) or 'nothing'}"
    return found


def _judge(failed: Mapping[str, str], count: int, left: int, allowed: bool, cause: Exception | None) -> None:
    if not failed or (allowed and left >= 2):
        return
    told = "".join(f"\n  case {name}: {reason}" for name, reason in failed.items())
    if allowed:
        raise ValueError(
            f"a shape model needs at least 2 shapes, got {left}; {len(failed)} cases failed:{told}"
        ) from cause
    raise ValueError(
        f"{len(failed)} of {count} cases failed:{told}\nmend them or leave them out, or pass --allow-failures"
    ) from cause
