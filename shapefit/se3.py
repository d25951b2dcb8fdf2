"""Rigid motions of space: 4x4 matrices in mm, and their twists.

A twist is (rotation vector in radians, translation part in mm), six numbers in that order;
`exp(twist)` is the motion that follows it for unit time (Murray, Li & Sastry 1994, ch. 2).
A matrix is named `target_from_source`; `transform(target_from_source, points)` moves points.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SMALL = 1e-4  # rad^2: below, the Taylor series is exact to float64 rounding (next term ~ angle^6 / 5040)


def exp(twist: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Rigid motion of a twist (radians, mm). Smooth everywhere, at rest too."""
    rotation, translation = twist[..., :3], twist[..., 3:]
    squared = (rotation * rotation).sum(-1)[..., None, None]
    a, b, c = _sinc_terms(squared)
    skew = hat(rotation)
    skew2 = skew @ skew
    eye = torch.eye(3, dtype=twist.dtype, device=twist.device)
    matrix = eye + a * skew + b * skew2
    left_jacobian = eye + b * skew + c * skew2
    return _assemble(matrix, (left_jacobian @ translation[..., None])[..., 0])


def log(motion: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """Twist of a rigid motion, with a rotation angle in [0, pi].

    Goes through the unit quaternion, whose largest component is never small, so the result
    and its gradient are finite from the identity to half a turn (the axis of an exact half
    turn is defined up to its sign).
    """
    rotation = _rotation_vector(motion[..., :3, :3])
    squared = (rotation * rotation).sum(-1)[..., None, None]
    skew = hat(rotation)
    eye = torch.eye(3, dtype=motion.dtype, device=motion.device)
    inverse_jacobian = eye - 0.5 * skew + _inverse_jacobian_term(squared) * (skew @ skew)
    translation = (inverse_jacobian @ motion[..., :3, 3:])[..., 0]
    return torch.cat([rotation, translation], -1)


def inverse(motion: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of rigid motions."""
    transposed = motion[..., :3, :3].mT
    return _assemble(transposed, -(transposed @ motion[..., :3, 3:])[..., 0])


def adjoint(motion: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6 6"]:
    """What takes twists (rotation, translation) from one side to the other: T exp(x) = exp(adjoint(T) x) T.

    Murray, Li & Sastry 1994, "A mathematical introduction to robotic manipulation", with rotations first.
    """
    rotation, translation = motion[..., :3, :3], motion[..., :3, 3]
    none = torch.zeros_like(rotation)
    upper = torch.cat([rotation, none], -1)
    return torch.cat([upper, torch.cat([hat(translation) @ rotation, rotation], -1)], -2)


def transform(
    target_from_source: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*points 3"]
) -> Float[Tensor, "*moved 3"]:
    """Points (..., N, 3) moved by matrices (..., 4, 4); leading axes broadcast."""
    rotation, translation = target_from_source[..., :3, :3], target_from_source[..., :3, 3]
    return points @ rotation.mT + translation[..., None, :]


def hat(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix of a cross product: hat(a) b = a x b."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def rotation_angle(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle of rotation matrices in radians, accurate near 0 and near pi."""
    vector = _rotation_vector(rotation)
    return torch.linalg.vector_norm(vector, dim=-1)


def is_rigid(matrix: Float[Tensor, "*batch 4 4"], tolerance: float = 1e-4) -> bool:
    """Whether every matrix is a rotation and a translation (no scale, no mirror)."""
    rotation = matrix[..., :3, :3].double()
    eye = torch.eye(3, dtype=torch.float64, device=matrix.device)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64, device=matrix.device)
    orthonormal = torch.allclose(rotation @ rotation.mT, eye.expand_as(rotation), atol=tolerance)
    right_handed = bool((torch.linalg.det(rotation) > 0).all())
    bottom = torch.allclose(matrix[..., 3, :].double(), last, atol=tolerance)
    return bool(torch.isfinite(matrix).all()) and orthonormal and right_handed and bottom


def _assemble(rotation: Tensor, translation: Tensor) -> Tensor:
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return torch.cat([top, bottom], -2)


def _sinc_terms(squared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin t / t, (1 - cos t) / t^2, (t - sin t) / t^3 of t^2; both branches of each `where` are safe."""
    small = squared < SMALL
    safe = torch.where(small, torch.ones_like(squared), squared)
    t = safe.sqrt()
    half = (0.5 * t).sin() / (0.5 * t)
    a = torch.where(small, 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42)), t.sin() / t)
    b = torch.where(small, 0.5 - squared / 24 * (1 - squared / 30 * (1 - squared / 56)), 0.5 * half * half)
    c = torch.where(small, 1 / 6 - squared / 120 * (1 - squared / 42), (t - t.sin()) / (safe * t))
    return a, b, c


def _inverse_jacobian_term(squared: Tensor) -> Tensor:
    """1/t^2 - (1 + cos t) / (2 t sin t), written with half angles so that t = pi is no exception."""
    small = squared < SMALL
    safe = torch.where(small, torch.ones_like(squared), squared)
    t = safe.sqrt()
    exact = (1 - 0.5 * t * (0.5 * t).cos() / (0.5 * t).sin()) / safe
    return torch.where(small, 1 / 12 + squared / 720 * (1 + squared / 42), exact)


def _rotation_vector(rotation: Tensor) -> Tensor:
    """Rotation matrices -> vectors, through the quaternion (Shepperd 1978: its largest component divides)."""
    r = rotation
    trace = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    rows = []  # 4 q q_k for k = w, x, y, z: four outer-product rows of the same quaternion
    rows.append(
        [1 + trace, r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]]
    )
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        row = [r[..., k, j] - r[..., j, k], None, None, None]
        row[1 + i] = 1 + r[..., i, i] - r[..., j, j] - r[..., k, k]
        row[1 + j] = r[..., j, i] + r[..., i, j]
        row[1 + k] = r[..., k, i] + r[..., i, k]
        rows.append(row)
    candidates = torch.stack([torch.stack(row, -1) for row in rows], -2)
    diagonal = torch.diagonal(candidates, dim1=-2, dim2=-1)
    best = diagonal.argmax(-1)[..., None, None].expand(*diagonal.shape[:-1], 1, 4)
    q = candidates.gather(-2, best)[..., 0, :]
    q = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    q = torch.where(q[..., :1] < 0, -q, q)
    w, v = q[..., :1], q[..., 1:]
    squared = (v * v).sum(-1, keepdim=True)  # sin^2 of the half angle
    small = squared < SMALL
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    # angle / sin(angle / 2): series of 2 asin(s)/s in s^2, else exact with atan2
    series = 2 * (1 + squared / 6 * (1 + squared * 9 / 20 * (1 + squared * 25 / 42)))
    return v * torch.where(small, series, 2 * torch.atan2(sine, w) / sine)
