"""Bones as registration sees them: evenly sampled, centred, the right ones mirrored, and kept in files."""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.spatial import cKDTree

from shapefit.io.pieces import Piece
from shapefit.pairs import NORMAL_LENGTH, SurfaceSamples, samples_of
from shapefit.registration import KernelWarp, Warp, align, register, warp_smoothly
from shapefit.settings import BuildSettings

MIRROR = np.array([-1.0, 1.0, 1.0])


class Bone(NamedTuple):
    """One bone of one case, mirrored or not."""

    case: int
    mirrored: bool
    samples: Piece


def sample_bone(
    vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"], mirrored: bool, count: int, seed: int
) -> dict[str, ndarray]:
    """`count` samples of a closed mesh (mm) about their centre, with normals and spacing."""
    if mirrored:
        vertices, faces = vertices * MIRROR, faces[:, ::-1]
    center = samples_of(vertices, faces, 2000, seed).points.mean(0)
    points, normals, _, spacing = samples_of(vertices - center, faces, count, seed)
    return {"points": points, "normals": normals, "spacing": np.array(spacing), "center": center}


def content(samples: Piece) -> str:
    """A digest of the samples alone: an order of bones that depends on nothing else, not even on the code."""
    return hashlib.sha256(samples.arrays("points")["points"].tobytes()).hexdigest()


def load_samples(piece: Piece) -> SurfaceSamples:
    """What `sample_bone` kept, ready for nearest-neighbour search."""
    points, normals, spacing = piece.arrays("points", "normals", "spacing").values()
    return SurfaceSamples(
        points, normals, cKDTree(np.hstack([points, NORMAL_LENGTH * normals])), float(spacing)
    )


def load_warp(piece: Piece | None) -> Warp:
    """What `warp_bone` kept; without a piece, the warp that moves nothing."""
    if piece is None:
        return Warp(np.eye(4), ())
    found = piece.arrays()
    widths = found["widths"].tolist()
    return Warp(
        found["affine"],
        tuple(KernelWarp(found[f"centers{n}"], found[f"weights{n}"], w) for n, w in enumerate(widths)),
    )


def warp_bone(
    template: Piece, samples: Piece, affine: Float[ndarray, "4 4"], settings: BuildSettings, smooth: bool
) -> dict[str, ndarray]:
    """The template brought to a bone by an affine map from `affine` on, and by smooth warps if wanted."""
    vertices, faces = template.arrays("vertices", "faces").values()
    target = load_samples(samples)
    if smooth:
        warp = warp_smoothly(vertices, faces, target, affine, settings)
    else:
        warp = Warp(align(vertices, faces, target, affine), ())
    arrays = {"affine": warp.affine, "widths": np.array([kernel.width for kernel in warp.kernels])}
    for number, kernel in enumerate(warp.kernels):
        arrays |= {f"centers{number}": kernel.centers, f"weights{number}": kernel.weights}
    return arrays


def lay_bone(
    template: Piece, samples: Piece, affine: Float[ndarray, "4 4"], settings: BuildSettings
) -> dict[str, ndarray]:
    """The template's vertices on a bone, where it stands in its case (mirrored if the bone is), in mm.

    Raises ValueError if registration came to no finite place.
    """
    vertices, faces = template.arrays("vertices", "faces").values()
    target = load_samples(samples)
    warp = warp_smoothly(vertices, faces, target, affine, settings)
    laid = register(vertices, faces, target, warp(vertices), settings)
    if not np.isfinite(laid).all():
        raise ValueError("the template could not be laid on it: registration diverged")
    return {"vertices": laid + samples.arrays("center")["center"]}
