"""Signed distances of sampled surfaces, the closed mesh at a level of their mean, and the mean bone.

A mean of distances belongs to no single subject and to no order of subjects. All arrays are float64
numpy, in mm.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from shapefit.bones import Bone, load_warp, warp_bone
from shapefit.io.pieces import Piece, Pieces, fingerprint
from shapefit.registration import flipped_faces
from shapefit.remesh import remesh
from shapefit.settings import BuildSettings
from shapefit.workers import Workers


def signed_distance(
    points: Float[ndarray, "N 3"],
    samples: Float[ndarray, "S 3"],
    normals: Float[ndarray, "S 3"],
    spacing: float,
) -> Float[ndarray, " N"]:
    """Distance in mm to a surface given by samples `spacing` mm apart; negative inside, cut off at `CUT`.

    The sign is the vote of the normals at the four nearest samples.
    """
    count = min(4, len(samples))
    distance, near = cKDTree(samples).query(points, k=count)
    distance, near = distance.reshape(-1, count), near.reshape(-1, count)
    height = ((points[:, None] - samples[near]) * normals[near]).sum(-1)
    # close by, the height over the tangent plane is free of the samples' graininess
    close = distance[:, 0] < 2 * spacing
    return np.clip(np.where(close, height[:, 0], distance[:, 0] * np.sign(height.sum(1))), -CUT, CUT)


def zero_surface(
    mean_distance: Callable[[ndarray], ndarray],
    low: Float[ndarray, "3"],
    high: Float[ndarray, "3"],
    spacing: float,
    level: float,
) -> tuple[Float[ndarray, "V 3"], Int[ndarray, "F 3"]]:
    """Closed mesh where `mean_distance` of points (N,3) equals `level`, in mm; see `distance_grid`, `cut`."""
    return cut(distance_grid(mean_distance, low, high, spacing), level)


class DistanceGrid(NamedTuple):
    """Values (I,J,K) in mm on a regular grid; `corner` is where the first stands, `spacing` apart."""

    values: Float[ndarray, "I J K"]
    corner: Float[ndarray, "3"]
    spacing: float


def distance_grid(
    mean_distance: Callable[[ndarray], ndarray],
    low: Float[ndarray, "3"],
    high: Float[ndarray, "3"],
    spacing: float,
) -> DistanceGrid:
    """A function of points (N,3) on a grid about a shape that `low` and `high` bound, in mm.

    It is evaluated on a coarse grid, and on the fine one only near its zero.
    """
    coarse_axes = _axes(low, high, 3 * spacing)
    coarse = mean_distance(_grid(coarse_axes)).reshape([len(axis) for axis in coarse_axes])
    axes = [np.arange(axis[0], axis[-1], spacing) for axis in coarse_axes]
    points = _grid(axes)
    values = RegularGridInterpolator(coarse_axes, coarse)(points)
    near = np.abs(values) < 2.25 * spacing  # the fine mean is only needed about its zero
    values[near] = mean_distance(points[near])
    # a rim of "outside" closes the mesh whatever the mean does there
    values = np.pad(values.reshape([len(axis) for axis in axes]), 1, constant_values=CUT)
    return DistanceGrid(values, np.array([axis[0] for axis in axes]) - spacing, spacing)


def cut(grid: DistanceGrid, level: float) -> tuple[Float[ndarray, "V 3"], Int[ndarray, "F 3"]]:
    """Closed mesh (mm) where a grid has the value `level`; only the largest connected piece is kept."""
    vertices, faces, _, _ = marching_cubes(grid.values, level)
    vertices = vertices.astype(np.float64) * grid.spacing + grid.corner
    return largest_piece(vertices, outward(vertices, faces.astype(np.int64)))


# A tunnel of the mean that is too narrow for its faces all but folds them here, and folds them in some case;
# so many mm further out it is closed.
RAISED = (0.0, 0.25, 0.5, 0.75, 1.0)
ALL_BUT_FOLDED = -0.3  # cosine of the angle between a face and two of its neighbours

# Signed distances are cut off here (mm), so that one case that is far away cannot move the mean.
CUT = 10.0


def _axes(low: ndarray, high: ndarray, spacing: float) -> list[ndarray]:
    return [np.arange(a - 2 * spacing, b + 3 * spacing, spacing) for a, b in zip(low, high, strict=True)]


def _grid(axes: list[ndarray]) -> ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def outward(vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"]) -> Int[ndarray, "F 3"]:
    """The faces wound counter-clockwise seen from outside (all reversed if the volume is negative)."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    return faces if (a * np.cross(b, c)).sum() > 0 else faces[:, ::-1].copy()


def largest_piece(
    vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"]
) -> tuple[Float[ndarray, "V2 3"], Int[ndarray, "F2 3"]]:
    """The connected piece with the most vertices, and only its vertices."""
    links = sparse.coo_matrix(
        (np.ones(len(faces) * 2), (faces[:, [0, 1]].T.ravel(), faces[:, [1, 2]].T.ravel())),
        shape=(len(vertices), len(vertices)),
    )
    _, piece = connected_components(links, directed=False)
    keep = piece == np.bincount(piece).argmax()
    number = np.cumsum(keep) - 1
    return vertices[keep], number[faces[keep[faces[:, 0]]]]


class FailedCases(ValueError):
    """Some cases could not be registered: index of the case -> reason."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__("; ".join(f"case {case + 1}: {reason}" for case, reason in sorted(reasons.items())))
        self.reasons = reasons


def each(bones: Sequence[Bone], outcomes: Iterator) -> Iterator:
    """The outcomes of one job per bone. Raises FailedCases at the end, with all that failed."""
    failed: dict[int, str] = {}
    cause = None
    for bone, outcome in zip(bones, outcomes, strict=True):
        if isinstance(outcome, Exception):
            failed.setdefault(bone.case, reason(outcome))
            cause = cause or outcome
        elif not failed:
            yield outcome
    if failed:
        raise FailedCases(failed) from cause


def reason(error: Exception) -> str:
    """An error as a person reads it: its kind is told unless its message was written for people."""
    told = isinstance(error, (ValueError, OSError)) and not isinstance(error, np.linalg.LinAlgError)
    return str(error) if told else f"{type(error).__name__}: {error}"


class Template(NamedTuple):
    """The mean of some bones: a closed mesh (mm, about the origin), and the affine maps to each of them."""

    mesh: Piece
    affines: list[Float[ndarray, "4 4"]]


def build_template(
    bones: Sequence[Bone],
    count: int,
    settings: BuildSettings,
    workers: Workers,
    pieces: Pieces,
    report: Callable[[str, float], None],
) -> Template:
    """Mean surface of centred bones: a closed mesh of `count` vertices.

    Bones are aligned to their own mean, first by affine maps, then by smooth warps, so that no single
    bone and no order of them shapes the result. They come from their files one by one, and sums over them
    have the order of the bones: neither their number nor that of the workers changes a bit or needs memory.
    Raises FailedCases for bones that cannot be aligned, and ValueError for a mean that cannot be closed.
    """
    every = [bone.samples for bone in bones]
    rounds = 1 + settings.template_rounds
    steering = (settings.template_spacing, settings.template_rounds, warping(settings))
    if found := pieces.find(key := fingerprint("template", every, count, *steering)):
        return Template(found, list(found.arrays("affines")["affines"]))

    def mean_grid(warps: Sequence[Piece | None], bounds: ndarray, spacing: float) -> DistanceGrid:
        def mean_distance(points: ndarray) -> ndarray:
            place = pieces.one(fingerprint("points", points), lambda: {"points": points})
            jobs = ((place, warp, samples, spacing) for warp, samples in zip(warps, every, strict=True))
            total = np.zeros(len(points))
            for distance in each(bones, workers.outcomes(_distance, jobs)):
                total += distance
            return total / len(bones)

        return distance_grid(mean_distance, bounds[0], bounds[1], spacing)

    def keep(step: str, vertices: ndarray, faces: ndarray) -> Piece:
        return pieces.keep(fingerprint(step, key), {"vertices": vertices, "faces": faces})

    # bones that are merely centred overlap badly: a raised level keeps the thin parts of their mean
    coarse = 2 * settings.template_spacing
    mesh = pieces.find(fingerprint("start", key))
    if mesh is None:
        vertices, faces = cut(mean_grid([None] * len(bones), _bounds(every), coarse), 2.0)
        mesh = keep("start", *remesh(vertices, faces, count // 2))
    affines = [np.eye(4)] * len(bones)
    for number in range(rounds):
        smooth = number > 0
        jobs = [(mesh, s, a, warping(settings), smooth) for s, a in zip(every, affines, strict=True)]
        warps = []
        for warp in each(bones, pieces.complete(workers, warp_bone, jobs)):
            warps.append(warp)
            report("template", (number + len(warps) / len(bones)) / rounds)
        # the mean of the cases brought back by the mean affine map: the template drifts to no case's size
        maps = [warp.arrays("affine")["affine"] for warp in warps]
        mean_affine = np.mean(maps, axis=0)
        affines = [affine @ np.linalg.inv(mean_affine) for affine in maps]
        if finished := pieces.find(fingerprint(f"round {number}", key)):
            mesh = finished
            continue
        vertices = mesh.arrays("vertices")["vertices"]
        spacing, level = (settings.template_spacing, 0.3) if smooth else (coarse, 1.0)
        grid = mean_grid(warps, np.array([vertices.min(0), vertices.max(0)]), spacing)
        last = number == settings.template_rounds
        for raised in RAISED if last else RAISED[:1]:
            vertices, faces = cut(grid, level + raised)
            total = np.zeros_like(vertices)
            for affine, warp in zip(affines, warps, strict=True):
                total += _apply(np.linalg.inv(affine), load_warp(warp)(vertices))
            vertices, faces = remesh(total / len(bones), faces, count if last else count // 2)
            if not len(flipped_faces(vertices, faces, cosine=ALL_BUT_FOLDED)):
                break
        mesh = keep(f"round {number}", vertices, faces)
    finished = pieces.keep(key, mesh.arrays() | {"affines": np.array(affines)})
    return Template(finished, affines)


def warping(settings: BuildSettings) -> BuildSettings:
    """The settings of smooth warps alone: no other can make a kept warp another one."""
    return replace(
        BuildSettings(),
        kernel_widths=settings.kernel_widths,
        kernel_steps=settings.kernel_steps,
        kernel_ridge=settings.kernel_ridge,
    )


def _bounds(every: Sequence[Piece]) -> Float[ndarray, "2 3"]:
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for samples in every:
        points = samples.arrays("points")["points"]
        low, high = np.minimum(low, points.min(0)), np.maximum(high, points.max(0))
    return np.array([low, high])


def _distance(place: Piece, warp: Piece | None, samples: Piece, spacing: float) -> ndarray:
    points, normals, own = samples.arrays("points", "normals", "spacing").values()
    step = max(1, int((spacing / float(own)) ** 2))
    moved = load_warp(warp)(place.arrays("points")["points"])
    return signed_distance(moved, points[::step], normals[::step], float(own) * step**0.5)


def _apply(matrix: ndarray, points: ndarray) -> ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
