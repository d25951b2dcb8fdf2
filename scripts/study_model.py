"""Whether a shape model depends on how it was built: on order, on one case, on the side.

cases="z*/segmentation.nii.gz --labels sacrum=1 hip_left=2 hip_right=3"
python scripts/study_model.py order $cases -o out/order.json
python scripts/study_model.py left-out $cases --without z001 z061 -o out/left_out.json
python scripts/study_model.py landmarks pelvis.card.json z*/landmarks.json -o out/landmarks.json
python scripts/study_model.py mirror pelvis -o out/mirror.json

`order` puts the cases in other orders and tells how far the vertices of the mean move. `left-out` builds the
whole model again without a case, from template to PCA, and fits it to that case, beside the shortcut of a
card, which redoes alignment and PCA alone. `landmarks` sets a card's landmark transfer beside what readers
do: how one differs from itself (intra) and from the others (inter). `mirror` compares a mean with its mirror
image. Each writes its figures, in mm, as JSON, and prints them.
"""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import torch
import tyro

import shapefit as sf
from shapefit.correspondence import MIRROR, mirror_name
from shapefit.fit.surface_residual import follow_surface
from shapefit.io.atomic import write_text
from shapefit.io.case import case_names
from shapefit.landmark_transfer import positions, readers_parts, readers_spread, transfer_table
from shapefit.landmarks import carry_landmarks
from shapefit.mesh import closest_points
from shapefit.model_quality import distances
from shapefit.pca import procrustes

Cases = tyro.conf.Positional[tuple[Path, ...]]
Output = Annotated[Path, tyro.conf.arg(aliases=("-o",))]
Settings = Annotated[sf.BuildSettings, tyro.conf.arg(name="")]


def order(
    cases: Cases,
    /,
    *,
    labels: tuple[str, ...],
    output: Output,
    orders: int = 2,
    settings: Settings = sf.BuildSettings(),
) -> None:
    """How far the mean moves when the cases come in another order.

    Args:
        cases: label maps, or folders of closed meshes
        labels: which label is which structure, as in sacrum=1
        output: file of the figures, .json
        orders: how many orders are tried: the reverse, then random ones
    """
    surfaces = [case.surfaces for case in _read(cases, labels)]
    first = sf.correspond(surfaces, settings)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(orders):
        turn = rng.permutation(len(surfaces)) if number else np.arange(len(surfaces))[::-1]
        other = sf.correspond([surfaces[index] for index in turn], settings)
        back = np.argsort(turn)  # where each case went
        back = np.concatenate([back, back + len(back)]) if settings.mirror else back
        rows.append({"order": turn.tolist()} | _compare(first, other.shapes[back], other.faces))
        print(f"order {turn.tolist()}: {_words(rows[-1])}", flush=True)
    write_text(output, json.dumps({"orders": rows}, indent=1))


def _compare(one: sf.Correspondence, shapes: np.ndarray, faces: np.ndarray) -> dict:
    """How far vertices move from one mean to the other, and how far its surface."""
    mean_one, mean_other = (procrustes(torch.from_numpy(s)).mean(0).numpy() for s in (one.shapes, shapes))
    same = one.faces.shape == faces.shape and bool((one.faces == faces).all())
    if same:
        moved = np.linalg.norm(mean_one - mean_other, axis=1)
    else:  # another triangulation: where the cases say that a vertex of the one mean lies on the other
        carried = []
        for own, other in zip(one.shapes, shapes, strict=True):
            found = closest_points(own, other, faces)
            carried.append(np.einsum("nk,nkd->nd", found.barycentric, mean_other[faces[found.face]]))
        moved = np.linalg.norm(np.mean(carried, axis=0) - mean_one, axis=1)
    surface = closest_points(mean_one, mean_other, faces).distance
    return {"same_triangulation": same, "vertex": _figures(moved), "surface": _figures(surface)}


def left_out(
    cases: Cases,
    /,
    *,
    labels: tuple[str, ...],
    without: tuple[str, ...],
    output: Output,
    model: str = "pelvis",
    residual: int = 0,
    settings: Settings = sf.BuildSettings(),
) -> None:
    """The whole build redone without a case, and fitted to it; beside it the shortcut from the whole model.

    Args:
        cases: label maps, or folders of closed meshes
        labels: which label is which structure, as in sacrum=1
        without: names of the cases that are left out, one at a time
        output: file of the figures, .json
        model: the model of all cases with its training shapes: a file, or the name of one of shapefit's own
        residual: functions of the residual process that follows the surface besides; 0: none
    """
    read, whole, numbers = _read(cases, labels), sf.read_model(model), _labels(labels)
    rows = []
    for name in without:
        case = next(case for case in read if case.name == name)
        others = [case for case in read if case.name != name]
        laid = sf.correspond([case.surfaces for case in others], settings)
        shapes, faces = torch.from_numpy(laid.shapes), torch.from_numpy(laid.faces)
        structure = torch.from_numpy(laid.structure)
        names = [others[row].name + "~" * flip for row, flip in zip(laid.rows, laid.mirrored, strict=True)]
        redone = sf.train(shapes, faces, structure, list(numbers), list(numbers.values()), cases=names)
        marks = carry_landmarks(redone, [other.landmarks for other in others], shapes[: len(others)])
        redone = replace(redone, landmarks=marks)
        row: dict = {"case": name}
        ways = {"redone": (redone, 0), "followed": (redone, residual), "shortcut": (whole.without(name), 0)}
        for way, (fitted, functions) in ways.items():
            if way == "followed" and not functions:
                continue
            if functions:
                _, found = follow_surface(fitted, case.surfaces, sf.ProjectSettings(residual=functions))
            else:
                found = sf.fit_surface(fitted, case.surfaces)
            row[way] = distances(fitted.surfaces(found.vertices), case.surfaces)
            if case.landmarks and way != "shortcut":  # the whole model's landmarks know this case's readings
                places = positions(found.vertices, fitted, marks)
                table = transfer_table({name: case.landmarks}, {"fit": {name: places}})
                row[way]["landmarks"] = table["fit"]["mean"]
        rows.append(row)
        print(f"{name}: " + "; ".join(f"{way} {_words(row[way])}" for way in ways if way in row), flush=True)
        write_text(output, json.dumps({"cases": rows}, indent=1))
    difference = mean(row["redone"]["assd"] - row["shortcut"]["assd"] for row in rows)
    print(f"mean difference of ASSD {difference:+.3f} mm")


def landmarks(card: tyro.conf.Positional[Path], readings: Cases, /, *, output: Output) -> None:
    """How near carried landmarks come to the readings, beside how far single readings scatter.

    Args:
        card: the card of a model built from cases with landmarks
        readings: the cases' landmark files, whose readings have a rater
        output: file of the figures, .json
    """
    transfer = json.loads(card.read_text())["landmark_transfer"]
    spreads: dict[str, list[dict[str, float]]] = {}
    for path in readings:
        content = json.loads(path.read_text())["readings"]
        for name in {name: None for reading in content for name in reading["points"]}:
            own = [reading for reading in content if name in reading["points"]]
            points = np.array([reading["points"][name] for reading in own], dtype=np.float64)
            parts = readers_parts(points, [reading.get("rater", 0) for reading in own])
            spreads.setdefault(name, []).append({"single": readers_spread(points)} | parts)
    rows = []
    for row in transfer["landmarks"]:
        own = {kind: mean(s[kind] for s in spreads[row["name"]]) for kind in ("single", "intra", "inter")}
        rows.append(
            {"name": row["name"]} | {way: row[way] for way in ("registration", "fit") if way in row} | own
        )
    ways = [way for way in ("registration", "fit") if way in transfer]
    kinds = ("single", "intra", "inter")
    heads = "".join(f"{way:>14}{'worst':>14}" for way in ways) + "".join(f"{kind:>9}" for kind in kinds)
    print(f"{'mm':<28}{heads}")
    for row in rows:
        cells = "".join(f"{row[w]['mean']:14.2f}{row[w]['max']:7.1f} {row[w]['worst_case']:>6}" for w in ways)
        print(f"{row['name']:<28}{cells}" + "".join(f"{row[kind]:9.2f}" for kind in kinds))
    cells = "".join(f"{transfer[w]['mean']:14.2f}{transfer[w]['max']:7.1f} {'':6}" for w in ways)
    print(f"{'all':<28}{cells}" + "".join(f"{mean(row[kind] for row in rows):9.2f}" for kind in kinds))
    summary = {way: transfer[way] for way in (*ways, "readers")}
    write_text(output, json.dumps(summary | {"landmarks": rows}, indent=1))


def mirror(model: tyro.conf.Positional[str], /, *, output: Output) -> None:
    """How far the mean of a model lies from its own mirror image, sides swapped.

    Args:
        model: a model file, or the name of one that comes with shapefit
        output: file of the figures, .json
    """
    bone = sf.read_model(model)
    surfaces = bone.surfaces(bone.mean)
    figures = {}
    for name, mesh in surfaces.items():
        other = surfaces.get(mirror_name(name), mesh)
        flipped = np.asarray(mesh.vertices) * MIRROR
        figures[name] = _figures(closest_points(flipped, other.vertices, other.faces).distance)
        print(f"{name}: {_words(figures[name])}")
    write_text(output, json.dumps(figures, indent=1))


def _labels(labels: tuple[str, ...]) -> dict[str, int]:
    return {name: int(label) for name, label in (entry.split("=") for entry in labels)}


def _read(cases: tuple[Path, ...], labels: tuple[str, ...]) -> list[sf.Case]:
    numbers = _labels(labels)
    read = zip(case_names(cases), (sf.read_case(case, numbers) for case in cases), strict=True)
    return [
        replace(case, name=name, surfaces={part: case.surfaces[part] for part in numbers})
        for name, case in read
    ]


def _figures(distance: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(distance.mean()),
        "p95": float(np.percentile(distance, 95)),
        "max": float(distance.max()),
    }


def _words(figures: dict) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
        if not isinstance(value, dict)
    ) + "".join(
        f"; {name}: {_words(value)}" for name, value in figures.items() if name in ("vertex", "surface")
    )


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"order": order, "left-out": left_out, "landmarks": landmarks, "mirror": mirror}
    )
