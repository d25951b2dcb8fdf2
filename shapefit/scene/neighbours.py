"""Bones beside those of the model, and metal: simple shapes that a network must learn to tell apart.

A femur and a lumbar vertebra are smooth unions of spheres, capsules and ellipsoids, as closed meshes. Where a
model has hips and a sacrum by name they are put where they belong; elsewhere plain shafts lie about.
Proportions are those of textbook adults: head 46 mm, neck-shaft angle 127 degrees, vertebrae 36 mm apart.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from skimage.measure import marching_cubes
from torch import Tensor

from shapefit.anatomy import kind_of, side_of
from shapefit.mesh import face_normals, volume
from shapefit.shape_model import ShapeModel

SOCKET = (20.0, 32.0)  # mm, radii between which the sphere of a hip's socket is looked for
VERTEBRAE, PITCH = 4, 36.0  # lumbar vertebrae above the sacrum, mm apart


class Part(NamedTuple):
    """A closed mesh, mm."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]


class Surroundings(NamedTuple):
    """Where neighbours belong on the template (mm), and what they are."""

    sockets: Float[Tensor, "N 4"]  # centre and radius of each hip's socket
    sides: tuple[str, ...]  # left or right, of each
    plate: Float[Tensor, " 3"] | None  # middle of the sacrum's upper end plate


def surroundings(model: ShapeModel) -> Surroundings:
    """Sockets and end plate on a model's mean; none where no structure is a hip or a sacrum by name."""
    sockets, sides, plate = [], [], None
    for index, name in enumerate(model.names):
        faces = model.faces[model.structure == index]
        if kind_of(name) == "hip" and side_of(name):
            sockets.append(socket(model.mean, faces))
            sides.append(str(side_of(name)))
        elif kind_of(name) == "sacrum":
            points = model.mean[faces.unique()]
            # the joints' processes rise higher, but at the sides and behind
            middle = points[(points[:, 0] - points[:, 0].median()).abs() < 10]
            up = middle @ torch.tensor([0.0, 0.6, 0.8], dtype=points.dtype)
            plate = middle[up > up.max() - 5].mean(0)
    return Surroundings(torch.stack(sockets) if sockets else torch.zeros(0, 4), tuple(sides), plate)


def socket(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, " 4"]:
    """Centre and radius (mm) of the hollow sphere that most of a surface lies on: a hip's socket.

    Votes: each face whose normal points to a centre supports it at its distance.
    """
    centres = vertices[faces].mean(1)
    normals = face_normals(vertices, faces, unit=False)
    size = normals.norm(dim=-1, keepdim=True)
    normals = normals / size.clamp(min=1e-12)
    found, best = torch.zeros(4, dtype=vertices.dtype), -1.0
    low, high = (getattr(vertices[faces.unique()], end)(0) for end in ("amin", "amax"))
    step, around, reach = 8.0, (low + high) / 2, (high - low) / 2
    while step >= 1.0:
        ticks = [torch.arange(-float(r), float(r) + step, step, dtype=vertices.dtype) for r in reach]
        for centre in torch.cartesian_prod(*ticks) + around:
            offset = centre - centres
            distance = offset.norm(dim=-1)
            near = (distance > SOCKET[0]) & (distance < SOCKET[1])
            facing = near & ((offset * normals).sum(-1) > 0.93 * distance)
            if not facing.any():
                continue
            radius = distance[facing].median()
            votes = float(size[facing & ((distance - radius).abs() < 1.5)].sum())
            if votes > best:
                best, found = votes, torch.cat([centre, radius[None]])
        around, reach, step = found[:3], torch.full((3,), 1.5 * step), step / 2
    return found


def draw_neighbours(
    around: Surroundings, middle: Tensor, extent: float, rng: np.random.Generator
) -> list[Part]:
    """Femurs and vertebrae in their places, a little turned and scaled; plain shafts if no place is known.

    `middle` (3,) and `extent` (mm) are those of the bone.
    """
    parts: list[Part] = []
    for place, side in zip(around.sockets, around.sides, strict=True):
        turned = _turn(rng.normal(0, np.radians([18, 8, 12])))
        size = float(place[3]) / 26.0 * rng.uniform(0.95, 1.05)
        mirror = torch.tensor([1.0 if side == "right" else -1.0, 1.0, 1.0], dtype=torch.float64)
        vertices, faces = femur()
        faces = faces if side == "right" else faces.flip(1)
        parts.append(Part((vertices * mirror * size) @ turned.T + place[:3], faces))
    if around.plate is not None:
        vertices, faces = vertebra()
        at, tilt = around.plate.double(), rng.normal(np.radians(-25), np.radians(8))
        size = rng.uniform(0.88, 1.12)
        for _ in range(VERTEBRAE):
            turned = _turn(np.array([tilt, rng.normal(0, 0.03), rng.normal(0, 0.05)]))
            up = turned[:, 2]
            parts.append(Part(vertices * size @ turned.T + at + 0.55 * PITCH * size * up, faces))
            at, tilt = at + PITCH * size * up, tilt + rng.normal(np.radians(11), np.radians(4))
    if not parts:
        for _ in range(int(rng.integers(1, 4))):
            parts.append(_shaft(middle, extent, rng))
    return parts


def draw_implants(
    around: Surroundings, middle: Tensor, extent: float, rng: np.random.Generator
) -> list[Part]:
    """One to four screws and wires near the bone; a ball and stem in a socket, now and then."""
    parts = []
    for _ in range(int(rng.integers(1, 5))):
        start = middle + torch.from_numpy(rng.uniform(-0.4, 0.4, 3)) * extent
        end = start + _direction(rng) * rng.uniform(25, 110)
        parts.append(_solid([(start, end, rng.uniform(1.0, 4.0))], 2.0))
    if len(around.sockets) and rng.random() < 0.3:
        place = around.sockets[int(rng.integers(len(around.sockets)))].double()
        outward = torch.tensor([float(place[0].sign()), 0.0, 0.0], dtype=torch.float64)
        knee = place[:3] + 38 * outward + torch.tensor([0.0, 0.0, -38.0], dtype=torch.float64)
        tip = knee + torch.tensor([0.0, 0.0, -130.0], dtype=torch.float64) - 10 * outward
        head = float(place[3]) * 0.6
        pieces = [(place[:3], place[:3], head), (place[:3], knee, 6.0),
                  (knee, tip, 7.0)]  # fmt: skip
        parts.append(_solid(pieces, 3.0))
    return parts


@cache
def femur() -> Part:
    """The upper half of a right femur about the centre of its head, RAS, mm."""
    return _solid(
        [
            ((0, 0, 0), (0, 0, 0), 23.0),
            ((8, 0, -6), (48, 0, -38), 15.0),
            ((60, -6, -18), (60, -4, -45), 17.0),
            ((40, -18, -72), (44, -10, -76), 9.0),
            ((54, 0, -55), (48, 4, -260), 15.5),
        ],
        7.0,
    )


@cache
def vertebra() -> Part:
    """A lumbar vertebra about the middle of its body, RAS, mm."""
    disc = [((x, y, z), (x, y, z), 9.0) for x, y in _ellipse(16.0, 10.0, 10) for z in (-5.0, 5.0)]
    return _solid(
        [
            *disc,
            ((-8, 0, 0), (8, 0, 0), 14.0),
            *(((14 * s, -16, 4), (17 * s, -36, 2), 5.5) for s in (-1, 1)),
            *(((16 * s, -32, 4), (38 * s, -38, 6), 4.0) for s in (-1, 1)),
            *(((17 * s, -38, 14), (17 * s, -40, -20), 6.0) for s in (-1, 1)),
            ((-16, -40, 0), (0, -48, -2), 4.5),
            ((16, -40, 0), (0, -48, -2), 4.5),
            ((0, -48, -2), (0, -72, -8), 5.0),
        ],
        4.5,
    )


def _ellipse(x: float, y: float, count: int) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [(float(x * np.cos(a)), float(y * np.sin(a))) for a in angles]


def _shaft(middle: Tensor, extent: float, rng: np.random.Generator) -> Part:
    start = middle + _direction(rng) * rng.uniform(0.3, 0.6) * extent
    return _solid([(start, start + _direction(rng) * extent * rng.uniform(0.3, 0.8),
                    0.06 * extent)], 0.03 * extent)  # fmt: skip


def _solid(pieces: Sequence[tuple], cell: float) -> Part:
    """Union of capsules (start, end, radius) as a closed mesh, sampled by cells of so many mm."""
    ends = [(np.asarray(a, float), np.asarray(b, float), float(r)) for a, b, r in pieces]
    low = np.min([np.minimum(a, b) - r for a, b, r in ends], 0) - 2 * cell
    high = np.max([np.maximum(a, b) + r for a, b, r in ends], 0) + 2 * cell
    axes = [np.arange(lo, hi + cell, cell) for lo, hi in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    field = np.empty(0)
    for number, (a, b, r) in enumerate(ends):
        along = b - a
        share = ((points - a) @ along / max(along @ along, 1e-12)).clip(0, 1)
        distance = np.linalg.norm(points - a - share[..., None] * along, axis=-1) - r
        if number == 0:
            field = distance
            continue
        # a smooth minimum, so that pieces flow into one another
        blend = np.clip(0.5 + 0.5 * (field - distance) / (1.5 * cell), 0, 1)
        field = field * (1 - blend) + distance * blend - 1.5 * cell * blend * (1 - blend)
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=(cell, cell, cell))
    part = Part(torch.from_numpy(vertices.astype(np.float64) + low), torch.from_numpy(faces.astype(np.int64)))
    return part if float(volume(*part)) > 0 else Part(part.vertices, part.faces.flip(1))


def _direction(rng: np.random.Generator) -> Tensor:
    direction = torch.from_numpy(rng.normal(size=3))
    return direction / direction.norm()


def _turn(angles: Sequence[float] | np.ndarray) -> Tensor:
    """Rotation about x, then y, then z, in radians."""
    return torch.from_numpy(Rotation.from_euler("xyz", angles).as_matrix())
