"""Closed meshes of many cases -> one template, in vertex correspondence in all of them.

Bones register one by one, each on its own alignment. A left/right pair shares one template: right
bones are mirrored (x -> -x), so that the right half of the template is the mirror image of the left
and a mirrored case costs no further registration.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import fsum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int
from numpy import ndarray

from shapefit.bones import MIRROR, Bone, content, lay_bone, sample_bone
from shapefit.io.pieces import Piece, Pieces
from shapefit.settings import BuildSettings
from shapefit.template import build_template, each, warping
from shapefit.workers import Workers, one_thread


class Correspondence(NamedTuple):
    """The template's faces and where each training shape has its vertices, in mm."""

    shapes: Float[ndarray, "N V 3"]
    faces: Int[ndarray, "F 3"]
    structure: Int[ndarray, " F"]
    rows: tuple[int, ...]  # index of the case of each shape
    mirrored: tuple[bool, ...]


def mirror_name(name: str) -> str:
    """The structure on the other side of the body: `hip_left` <-> `hip_right`; others are their own."""
    for here, there in (("_left", "_right"), ("_right", "_left")):
        if name.endswith(here):
            return name.removesuffix(here) + there
    return name


class Family(NamedTuple):
    """Structures that share a template: a left/right pair, or one structure alone."""

    name: str
    left: str
    right: str | None


def families(names: Sequence[str]) -> list[Family]:
    """Left/right pairs among the structure names, and the others singly, in the order of the names."""
    found = []
    for name in names:
        other = mirror_name(name)
        if name.endswith("_right") and other in names:
            continue
        paired = name.endswith("_left") and other in names
        found.append(Family(name.removesuffix("_left") if paired else name, name, other if paired else None))
    return found


def correspond(
    cases: Sequence[Mapping[str, trimesh.Trimesh]],
    settings: BuildSettings,
    progress: Callable[[str, float], None] | None = None,
    pieces: Pieces | None = None,
    names: Sequence[str] | None = None,
) -> Correspondence:
    """One template in all cases, whose surfaces are closed meshes in world mm by structure name.

    Every case has the structures of the first, or those `names`d. Rows are the cases in order, then with
    `settings.mirror` their mirror images. `progress(what, fraction)` is called now and then.
    Results are kept as `pieces`, from which an interrupted run goes on; then `shapes` is mapped to a file
    among them. Cases are looked at one after the other, so that those that read their meshes when asked
    (`io.kept_case`) need no memory. Raises ValueError if a case lacks a structure or the template cannot be
    closed, and FailedCases, which names them all, for cases that cannot be registered.
    """
    if pieces is None:
        with TemporaryDirectory(prefix="shapefit-") as folder:
            laid = correspond(cases, settings, progress, Pieces(Path(folder)), names)
            return laid._replace(shapes=np.array(laid.shapes))
    report = progress or (lambda what, fraction: None)
    names = list(names or cases[0])
    kinds = families(names)
    faces: dict[str, ndarray] = {}
    placed: dict[tuple[str, int, bool], Piece] = {}
    with Workers(settings.workers, settings.cluster) as workers, one_thread():
        area, bones = _sample(cases, kinds, settings, workers, pieces, report)
        share = sum(area[kind] * (2 if kind.right else 1) for kind in kinds)
        for number, kind in enumerate(kinds):

            def family_report(what: str, fraction: float, number: int = number, kind: Family = kind) -> None:
                report(f"{kind.name}: {what}", SAMPLING + (1 - SAMPLING) * (number + fraction) / len(kinds))

            count = round(settings.vertices * area[kind] / share)
            # an order of their own, by content: sums then have the same bits whatever the order of the cases
            own = sorted(bones[kind], key=lambda bone: content(bone.samples))
            mesh, affines = build_template(
                own, count, settings, workers, pieces, lambda what, f: family_report(what, 0.5 * f)
            )
            faces[kind.name] = mesh.arrays("faces")["faces"]
            steering = replace(
                warping(settings), stiffness=settings.stiffness, stiffness_steps=settings.stiffness_steps
            )
            jobs = [(mesh, bone.samples, a, steering) for bone, a in zip(own, affines, strict=True)]
            laid = each(own, pieces.complete(workers, lay_bone, jobs))
            for done, (bone, piece) in enumerate(zip(own, laid, strict=False), 1):
                placed[kind.name, bone.case, bone.mirrored] = piece
                family_report("registration", 0.5 + 0.5 * done / len(own))
        return _assemble(placed, faces, names, kinds, len(cases), settings.mirror, pieces)


SAMPLING = 0.03  # share of the time that sampling takes, for the progress


def _sample(
    cases: Sequence[Mapping[str, trimesh.Trimesh]],
    kinds: Sequence[Family],
    settings: BuildSettings,
    workers: Workers,
    pieces: Pieces,
    report: Callable[[str, float], None],
) -> tuple[dict[Family, float], dict[Family, list[Bone]]]:
    """Area in all cases of each family's (left) structure in mm^2, and the samples of all its bones."""
    areas: dict[Family, list[float]] = {kind: [] for kind in kinds}
    wanted = [
        (kind, flip, index)
        for kind in kinds
        for flip in (False, True)
        if not flip or kind.right or settings.mirror
        for index in range(len(cases))
    ]

    def jobs() -> Iterator[tuple]:
        for kind, flip, index in wanted:
            name = kind.right if flip and kind.right else kind.left
            if name not in cases[index]:
                has = ", ".join(cases[index])
                raise ValueError(f"case {index + 1} has no structure {name!r}; it has {has}")
            mesh = cases[index][name]
            if not flip:
                areas[kind].append(float(mesh.area))
            vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
            yield vertices, faces, flip, settings.samples, settings.seed

    bones: dict[Family, list[Bone]] = {kind: [] for kind in kinds}
    places = [Bone(index, flip, Piece(pieces.folder)) for _, flip, index in wanted]
    found = each(places, pieces.complete(workers, sample_bone, jobs()))
    for (kind, flip, index), samples in zip(wanted, found, strict=False):
        bones[kind].append(Bone(index, flip, samples))
        report("sampling", SAMPLING * sum(map(len, bones.values())) / len(wanted))
    return {kind: fsum(own) for kind, own in areas.items()}, bones


def _assemble(
    placed: Mapping[tuple[str, int, bool], Piece],
    faces: Mapping[str, ndarray],
    names: Sequence[str],
    kinds: Sequence[Family],
    count: int,
    mirror: bool,
    pieces: Pieces,
) -> Correspondence:
    kind_of = {name: kind for kind in kinds for name in (kind.left, kind.right) if name}
    joined, structure, offset = [], [], 0
    for index, name in enumerate(names):
        kind = kind_of[name]
        own = faces[kind.name][:, ::-1] if name == kind.right else faces[kind.name]
        joined.append(own + offset)
        structure.append(np.full(len(own), index))
        offset += int(own.max()) + 1
    rows = [(case, flip) for flip in ((False, True) if mirror else (False,)) for case in range(count)]
    shapes = np.lib.format.open_memmap(
        pieces.folder / "shapes.npy", mode="w+", dtype=np.float64, shape=(len(rows), offset, 3)
    )
    for shape, (case, flip) in zip(shapes, rows, strict=True):
        parts = []
        for name in names:
            kind = kind_of[name]
            right = name == kind.right
            part = placed[kind.name, case, flip != right].arrays("vertices")["vertices"]
            parts.append(part * MIRROR if right else part)
        shape[:] = np.concatenate(parts)
    return Correspondence(
        shapes,
        np.concatenate(joined),
        np.concatenate(structure),
        tuple(case for case, _ in rows),
        tuple(flip for _, flip in rows),
    )
