"""How good a result is: surfaces, masks and poses against their references, and tables over many cases.

Every record is JSON-able, in mm and degrees. What cannot be measured is a failure with its reason, never NaN
and never left out of a count.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import trimesh

from shapefit.alignment import Alignment, align
from shapefit.image_metrics import in_view, mask_dice
from shapefit.mesh import boundary_edges
from shapefit.registration_metrics import pose_errors
from shapefit.settings import EvaluateSettings
from shapefit.surface_distance import (
    SurfaceSamples,
    distances_to,
    distances_to_either,
    join,
    pool,
    sample,
    summarise,
    volume_dice,
)
from shapefit.view import View

__all__ = ["compare", "in_view", "landmark_errors", "mask_dice", "pose_errors", "tabulate"]

Surfaces = dict[str, trimesh.Trimesh]
ALIGNMENTS = ("absolute", "rigid", "similarity")
ALL = "all"  # the structures together; no structure may be called so


def compare(
    result: Surfaces | trimesh.Trimesh,
    reference: Surfaces | trimesh.Trimesh,
    settings: EvaluateSettings | None = None,
    structures: Sequence[str] | None = None,
    views: Sequence[View] = (),
    name: str = "case",
) -> dict:
    """Surface distances and overlaps of a result and its reference, both in world mm.

    Each is {structure: mesh}, or one mesh, which is then the structure "mesh".
    `structures` are those that must be there (all that occur in either, if absent). One that is missing,
    empty, open, inside out or not finite on either side has `{"failed": reason}` instead of figures, and
    so has "all".
    One alignment serves all structures, so that bones misplaced against each other stay an error after it.
    With posed `views`, a structure also has figures for the samples that project inside at least one
    detector ("in_view", judged where the result was found, before alignment) and the rest ("out_of_view").

    Returns {case, units, structures, failed, alignment: {rigid: {scale, rotation_deg, ...}, similarity: ...},
    metrics: {absolute | rigid | similarity: {structure | "all": figures}}}; for the figures' definitions see
    `surface_distance`. "all" takes the structures as one surface: the nearest point may be on any of them.
    """
    settings = settings or EvaluateSettings()
    result, reference = (
        {"mesh": side} if isinstance(side, trimesh.Trimesh) else side for side in (result, reference)
    )
    names = list(structures) if structures is not None else list(dict.fromkeys([*reference, *result]))
    if not names:
        raise ValueError(f"{name}: nothing to compare, neither result nor reference has a structure")
    if ALL in names:
        raise ValueError(
            f"{name}: a structure may not be called {ALL!r}; that row holds the structures together"
        )
    broken = {s: reason for s in names if (reason := _broken(result, reference, s))}
    good = [s for s in names if s not in broken]
    record: dict = {
        "case": name,
        "units": "mm",
        "structures": names,
        "failed": "; ".join(broken.values()) or None,
        "alignment": {},
        "metrics": {},
    }
    samples = {s: _sampled(result[s], reference[s], settings, views) for s in good}
    alignments = {}
    if good:
        alignments = _alignments([result[s] for s in good], [reference[s] for s in good], settings)
    for kind in ALIGNMENTS:
        figures = {s: {"failed": reason} for s, reason in broken.items()}
        if good:
            alignment = alignments[kind]
            moved = {s: result[s].copy() for s in good}
            for mesh in moved.values():
                mesh.apply_transform(alignment.matrix)
            if kind != "absolute":
                record["alignment"][kind] = _describe(alignment, join([result[s] for s in good]))
            measured = {s: _measured(samples[s], moved[s], reference[s], alignment) for s in good}
            for s in good:
                figures[s] = _figures([measured[s]], [moved[s]], [reference[s]], settings)
        if broken:
            figures[ALL] = {"failed": "not all structures can be compared: " + "; ".join(broken.values())}
        elif len(names) == 1:
            figures[ALL] = figures[names[0]]
        else:
            either = [_to_either(measured, s, moved, reference) for s in names]
            figures[ALL] = _figures(either, list(moved.values()), [reference[s] for s in names], settings)
        record["metrics"][kind] = {s: figures[s] for s in [*names, ALL]}
    return record


def tabulate(records: Sequence[dict]) -> dict:
    """Many cases' records in one table: mean, median, worst, and the failures, which count and are listed.

    Returns {cases, failures: [{case, structure, reason}], table: {alignment: {structure: {figure: {mean,
    median, worst, worst_case, measured, failed}}}}}. `worst` is the largest distance or the smallest overlap;
    mean, median and worst are over the `measured` cases, None if there are none. Raises ValueError where
    two records bear one name.
    """
    if repeated := [name for name, n in Counter(r["case"] for r in records).items() if n > 1]:
        raise ValueError(f"several records are called {', '.join(repeated)}; give each case its own name")
    names = list(dict.fromkeys(s for r in records for s in [*r["structures"], ALL]))
    names = [s for s in names if s != ALL] + [ALL] * (ALL in names)
    failures = [
        {"case": r["case"], "structure": s, "reason": r["metrics"]["absolute"][s]["failed"]}
        for r in records
        for s in r["structures"]
        if r["metrics"]["absolute"][s]["failed"]
    ]
    table = {
        kind: {
            s: _spreads({r["case"]: r["metrics"][kind][s] for r in records if s in r["metrics"][kind]})
            for s in names
        }
        for kind in ALIGNMENTS
    }
    return {"cases": len(records), "failures": failures, "table": table}


def landmark_errors(
    result: Mapping[str, Sequence[float | int]], reference: Mapping[str, Sequence[float | int]]
) -> dict[str, dict]:
    """Distance in mm between each reference landmark and the result's, by name; a missing one has failed."""
    errors = {}
    for name, place in reference.items():
        if name not in result:
            errors[name] = {"failed": f"{name} is missing from the result"}
        else:
            distance = np.linalg.norm(np.asarray(result[name], float) - np.asarray(place, float))
            errors[name] = {"failed": None, "distance": float(distance)}
    return errors


def _broken(result: Surfaces, reference: Surfaces, structure: str) -> str | None:
    for side, surfaces in (("result", result), ("reference", reference)):
        mesh = surfaces.get(structure)
        if mesh is None:
            return f"{structure} is missing from the {side}"
        if len(mesh.faces) == 0:
            return f"{structure} is empty in the {side}"
        if not np.isfinite(mesh.vertices).all():
            return f"{structure} has coordinates that are not finite in the {side}"
        if count := boundary_edges(np.asarray(mesh.faces)):
            return f"{structure} is not closed in the {side}: {count} boundary edges"
        if not mesh.volume > 0:
            return f"{structure} is inside out or has no volume in the {side}"
    return None


# Samples of both surfaces and whether they are in view (None without views).
_Pair = tuple[SurfaceSamples, np.ndarray | None, SurfaceSamples, np.ndarray | None]


def _sampled(
    result: trimesh.Trimesh, reference: trimesh.Trimesh, settings: EvaluateSettings, views: Sequence[View]
) -> _Pair:
    a, b = (sample(mesh, settings.samples, settings.seed) for mesh in (result, reference))
    if not views:
        return a, None, b, None
    return a, in_view(a.point, views), b, in_view(b.point, views)


def _alignments(
    result: list[trimesh.Trimesh], reference: list[trimesh.Trimesh], settings: EvaluateSettings
) -> dict[str, Alignment]:
    source, target = join(result), join(reference)
    rigid = align(source, target, scale=False, seed=settings.seed)
    similarity = align(source, target, scale=True, seed=settings.seed, start=rigid.matrix)
    return {"absolute": Alignment(np.eye(4), "none"), "rigid": rigid, "similarity": similarity}


def _describe(alignment: Alignment, result: trimesh.Trimesh) -> dict:
    centre = np.asarray(result.triangles_center).T @ result.area_faces / result.area
    return {
        "method": alignment.method,
        "scale": alignment.scale,
        "rotation_deg": alignment.rotation_deg,
        "displacement_mm": alignment.displacement(centre),  # of the result's centre
        "matrix": alignment.matrix.tolist(),
    }


@dataclass(frozen=True)
class _Measured:
    """Samples of both surfaces of a structure with their distances to the other one, and what is in view."""

    a: SurfaceSamples  # of the result, aligned
    forth: np.ndarray
    a_seen: np.ndarray | None
    b: SurfaceSamples  # of the reference
    back: np.ndarray
    b_seen: np.ndarray | None


def _measured(
    pair: _Pair, moved: trimesh.Trimesh, reference: trimesh.Trimesh, alignment: Alignment
) -> _Measured:
    a, a_seen, b, b_seen = pair
    a = a.moved(alignment.matrix)
    return _Measured(a, distances_to(a, reference), a_seen, b, distances_to(b, moved), b_seen)


def _to_either(
    measured: Mapping[str, _Measured], structure: str, moved: Surfaces, reference: Surfaces
) -> _Measured:
    """The same samples with their distances to the nearest structure, be it their own or another."""
    m = measured[structure]
    others = [s for s in measured if s != structure]
    forth = distances_to_either(m.a, m.forth, [reference[s] for s in others])
    return replace(m, forth=forth, back=distances_to_either(m.b, m.back, [moved[s] for s in others]))


def _figures(
    parts: Sequence[_Measured],
    result: list[trimesh.Trimesh],
    reference: list[trimesh.Trimesh],
    settings: EvaluateSettings,
) -> dict:
    """Figures of one or more structures taken as one surface."""
    a, b = pool([m.a for m in parts]), pool([m.b for m in parts])
    forth, back = np.concatenate([m.forth for m in parts]), np.concatenate([m.back for m in parts])
    figures: dict = {"failed": None}
    figures |= summarise(forth, a.weight, back, b.weight, settings.tolerances) or {}
    figures["volume_dice"] = volume_dice(result, reference, settings.voxel)
    if all(m.a_seen is not None for m in parts):
        a_seen, b_seen = np.concatenate([m.a_seen for m in parts]), np.concatenate([m.b_seen for m in parts])
        for part, a_in, b_in in (("in_view", a_seen, b_seen), ("out_of_view", ~a_seen, ~b_seen)):
            weights = a.where(a_in).weight, b.where(b_in).weight
            share = (weights[0].sum() + weights[1].sum()) / (a.weight.sum() + b.weight.sum())
            found = summarise(forth[a_in], weights[0], back[b_in], weights[1], settings.tolerances)
            figures[part] = found and {"area_share": float(share)} | found
    return figures


def _spreads(rows: Mapping[str, dict]) -> dict:
    """Mean, median and worst of every figure over the cases that have it; a part's figures: "part.figure"."""
    failed = sum(bool(row["failed"]) for row in rows.values())
    values: dict[str, dict[str, float]] = {}
    for case, row in rows.items():
        flat = {key: value for key, value in row.items() if isinstance(value, float)}
        for part in ("in_view", "out_of_view"):
            flat |= {
                f"{part}.{key}": value for key, value in (row.get(part) or {}).items() if key != "area_share"
            }
        for key, value in flat.items():
            values.setdefault(key, {})[case] = value
    spreads = {}
    for key, by_case in (values or {"assd": {}}).items():
        array = np.array(list(by_case.values()))
        worst = (min if "dice" in key else max)(by_case, key=lambda case: by_case[case], default=None)
        spreads[key] = {
            "mean": float(array.mean()) if len(array) else None,
            "median": float(np.median(array)) if len(array) else None,
            "worst": by_case[worst] if worst is not None else None,
            "worst_case": worst,
            "measured": len(array),
            "failed": failed,
        }
    return spreads
