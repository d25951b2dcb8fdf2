"""Closed meshes of many cases -> one template, in vertex correspondence in all of them.

Bones register one by one, each on its own alignment. A left/right pair shares one template: right
bones are mirrored (x -> -x), so that the right half of the template is the mirror image of the left
and a mirrored case costs no further registration.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int
from numpy import ndarray

from shapefit.pairs import SurfaceSamples, samples_of
from shapefit.registration import Warp, align, register, warp_smoothly
from shapefit.remesh import remesh
from shapefit.settings import BuildSettings
from shapefit.template import signed_distance, zero_surface
from shapefit.workers import Workers

MIRROR = np.array([-1.0, 1.0, 1.0])


class Correspondence(NamedTuple):
    """The template's faces and where each training shape has its vertices, in mm."""

    shapes: Float[ndarray, "N V 3"]
    faces: Int[ndarray, "F 3"]
    structure: Int[ndarray, " F"]
    rows: tuple[int, ...]  # index of the case of each shape
    mirrored: tuple[bool, ...]


class Bone(NamedTuple):
    """One bone of one case, mirrored or not, as registration sees it: centred samples."""

    case: int
    mirrored: bool
    surface: SurfaceSamples
    center: Float[ndarray, "3"]


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
) -> Correspondence:
    """One template in all cases, whose surfaces are closed meshes in world mm by structure name.

    Every case has the structures of the first. Rows are the cases in order, then with
    `settings.mirror` their mirror images. `progress(what, fraction)` is called now and then.
    Raises ValueError if a case lacks a structure or the template cannot be closed.
    """
    names = list(cases[0])
    kinds = families(names)
    area = {k: sum(float(case[k.left].area) for case in cases) for k in kinds}
    share = sum(area[k] * (2 if k.right else 1) for k in kinds)
    placed: dict[tuple[str, int, bool], ndarray] = {}
    faces: dict[str, ndarray] = {}
    report = progress or (lambda what, fraction: None)
    with Workers(settings.workers) as workers:
        for number, kind in enumerate(kinds):
            bones = _bones(cases, kind, settings)
            count = round(settings.vertices * area[kind] / share)

            def family_report(what: str, fraction: float, number: int = number, kind: Family = kind) -> None:
                report(f"{kind.name}: {what}", (number + fraction) / len(kinds))

            template = build_template(bones, count, settings, workers, family_report)
            vertices, faces[kind.name], affines = template
            jobs = [
                (vertices, faces[kind.name], bone.surface, affine, settings)
                for bone, affine in zip(bones, affines, strict=True)
            ]
            for bone, laid in zip(bones, workers.map(_lay, jobs), strict=True):
                placed[kind.name, bone.case, bone.mirrored] = laid + bone.center
            family_report("registered", 1.0)
    return _assemble(placed, faces, names, kinds, len(cases), settings.mirror)


def build_template(
    bones: Sequence[Bone],
    count: int,
    settings: BuildSettings,
    workers: Workers,
    report: Callable[[str, float], None],
) -> tuple[Float[ndarray, "V 3"], Int[ndarray, "F 3"], list[ndarray]]:
    """Mean surface of centred bones: a closed mesh of `count` vertices, and the affine maps to each bone.

    Bones are aligned to their own mean, first by affine maps, then by smooth warps, so that no single
    bone and no order of them shapes the result. In mm about the origin.
    """
    surfaces = [bone.surface for bone in bones]
    low = np.min([surface.points.min(0) for surface in surfaces], axis=0)
    high = np.max([surface.points.max(0) for surface in surfaces], axis=0)

    def mean_shape(warps: list[Warp], spacing: float, level: float) -> tuple[ndarray, ndarray]:
        def mean_distance(points: ndarray) -> ndarray:
            jobs = [
                (points, warp, *_thinned(surface, spacing))
                for warp, surface in zip(warps, surfaces, strict=True)
            ]
            return np.mean(workers.map(_distance, jobs), axis=0)

        return zero_surface(mean_distance, low, high, spacing, level)

    # bones that are merely centred overlap badly: a raised level keeps the thin parts of their mean
    coarse = 2 * settings.template_spacing
    vertices, faces = remesh(*mean_shape([Warp(np.eye(4), ())] * len(bones), coarse, 2.0), count // 2)
    affines = [np.eye(4)] * len(bones)
    for number in range(1 + settings.template_rounds):
        report("template", number / (1 + settings.template_rounds))
        smooth = number > 0
        warps = workers.map(
            _warp,
            [(vertices, faces, s, a, settings, smooth) for s, a in zip(surfaces, affines, strict=True)],
        )
        spacing, level = (settings.template_spacing, 0.3) if smooth else (coarse, 1.0)
        low, high = vertices.min(0), vertices.max(0)
        vertices, faces = mean_shape(warps, spacing, level)
        # the mean of the cases brought back by the mean affine map: the template drifts to no case's size
        mean_affine = np.mean([warp.affine for warp in warps], axis=0)
        affines = [warp.affine @ np.linalg.inv(mean_affine) for warp in warps]
        vertices = np.mean(
            [_apply(np.linalg.inv(a), w(vertices)) for a, w in zip(affines, warps, strict=True)], axis=0
        )
        vertices, faces = remesh(vertices, faces, count if number == settings.template_rounds else count // 2)
    return vertices, faces, affines


def _thinned(surface: SurfaceSamples, spacing: float) -> tuple[ndarray, ndarray, float]:
    step = max(1, int((spacing / surface.spacing) ** 2))
    return surface.points[::step], surface.normals[::step], surface.spacing * step**0.5


def _distance(points: ndarray, warp: Warp, samples: ndarray, normals: ndarray, spacing: float) -> ndarray:
    return signed_distance(warp(points), samples, normals, spacing)


def _apply(matrix: ndarray, points: ndarray) -> ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _bones(
    cases: Sequence[Mapping[str, trimesh.Trimesh]], kind: Family, settings: BuildSettings
) -> list[Bone]:
    bones = []
    for flip in (False, True):
        if flip and kind.right is None and not settings.mirror:
            continue
        for index, case in enumerate(cases):
            name = kind.right if flip and kind.right else kind.left
            if name not in case:
                raise ValueError(f"case {index + 1} has no structure {name!r}; it has {', '.join(case)}")
            mesh = case[name]
            vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
            if flip:
                vertices, faces = vertices * MIRROR, faces[:, ::-1]
            center = samples_of(vertices, faces, 2000, settings.seed).points.mean(0)
            surface = samples_of(vertices - center, faces, settings.samples, settings.seed)
            bones.append(Bone(index, flip, surface, center))
    return bones


def _warp(
    vertices: ndarray,
    faces: ndarray,
    target: SurfaceSamples,
    affine: ndarray,
    settings: BuildSettings,
    smooth: bool,
) -> Warp:
    if smooth:
        return warp_smoothly(vertices, faces, target, affine, settings)
    return Warp(align(vertices, faces, target, affine), ())


def _lay(
    vertices: ndarray, faces: ndarray, target: SurfaceSamples, affine: ndarray, settings: BuildSettings
) -> ndarray:
    warp = warp_smoothly(vertices, faces, target, affine, settings)
    return register(vertices, faces, target, warp(vertices), settings)


def _assemble(
    placed: dict[tuple[str, int, bool], ndarray],
    faces: dict[str, ndarray],
    names: Sequence[str],
    kinds: Sequence[Family],
    count: int,
    mirror: bool,
) -> Correspondence:
    kind_of = {name: kind for kind in kinds for name in (kind.left, kind.right) if name}
    shapes, rows, mirrored = [], [], []
    for flip in (False, True) if mirror else (False,):
        for case in range(count):
            parts = []
            for name in names:
                kind = kind_of[name]
                right = name == kind.right
                part = placed[kind.name, case, flip != right]
                parts.append(part * MIRROR if right else part)
            shapes.append(np.concatenate(parts))
            rows.append(case)
            mirrored.append(flip)
    joined, structure, offset = [], [], 0
    for index, name in enumerate(names):
        kind = kind_of[name]
        own = faces[kind.name][:, ::-1] if name == kind.right else faces[kind.name]
        joined.append(own + offset)
        structure.append(np.full(len(own), index))
        offset += len(placed[kind.name, 0, False])
    return Correspondence(
        np.stack(shapes), np.concatenate(joined), np.concatenate(structure), tuple(rows), tuple(mirrored)
    )
