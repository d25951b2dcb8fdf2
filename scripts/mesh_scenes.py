"""What the benchmark of the mesh renderer draws, and the truth in float64, by a way of its own.

Every mesh is rounded to float32 before anything is measured: each renderer gets the same numbers, and the
truth is the truth of those. Each scene is a mesh about the origin of the world, a pose and a detector that
just contains the shadow, 5 % to spare.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import trimesh

import shapefit as sf
from shapefit import se3

SDD, CENTRE = 1020.0, 700.0  # source to detector, and to the centre of the body; mm
MARGIN = 1.05  # detector side per shadow
PELVIS = Path(os.environ.get("SHAPEFIT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "vsd" / "z001"


class Scene(NamedTuple):
    vertices: np.ndarray  # (V, 3) world mm, float64 numbers that float32 holds exactly
    faces: np.ndarray  # (F, 3) int64
    pose: np.ndarray  # (4, 4) camera_from_world, float64
    camera: sf.Camera

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """The source (3,) and each pixel's unit direction (H W, 3), in the world, mm."""
        rows, columns = np.mgrid[: self.camera.height, : self.camera.width]
        q = np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)], -1)
        d = q @ np.linalg.inv(self.camera.intrinsics().numpy()).T
        rotation, translation = self.pose[:3, :3], self.pose[:3, 3]
        return -rotation.T @ translation, (d / np.linalg.norm(d, axis=-1, keepdims=True)) @ rotation

    def weight(self) -> np.ndarray:
        """A smooth weight of each pixel (H, W): its sum with the image is what gradients are taken of."""
        rows, columns = np.mgrid[: self.camera.height, : self.camera.width] / self.camera.height
        return np.exp(-((rows - 0.4) ** 2 + (columns - 0.45) ** 2) / 0.1).astype(np.float32)

    def write(self, path: Path) -> None:
        c = self.camera
        lengths, size = (c.sdd, c.delx, c.dely, c.x0, c.y0), (c.height, c.width)
        np.savez(path, *self[:3], lengths, size)


def read_scene(path: Path) -> Scene:
    arrays = list(np.load(path).values())
    return Scene(*arrays[:3], sf.Camera(*arrays[3].tolist(), *arrays[4].tolist()))


def framed(vertices, faces, twist, size: int) -> Scene:
    """The mesh, turned, with its origin on the axis, on a square detector just larger than its shadow."""
    vertices = np.asarray(vertices, np.float32).astype(np.float64)
    pose = np.eye(4)
    pose[2, 3] = CENTRE
    pose = pose @ se3.exp(torch.tensor(twist, dtype=torch.float64)).numpy()
    seen = se3.transform(torch.from_numpy(pose), torch.from_numpy(vertices)).numpy()
    side = 2 * MARGIN * np.abs(seen[:, :2] / seen[:, 2:]).max() * SDD
    pitch = float(side / size)
    return Scene(
        vertices, np.asarray(faces, np.int64), pose, sf.Camera(SDD, pitch, pitch, 0.0, 0.0, size, size)
    )


def sphere(subdivisions: int, size: int, view: int = 0) -> Scene:
    """An icosphere of radius 80 mm, 20 x 4^subdivisions faces, at a generic turn (another for each view)."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=80)
    turn = np.random.default_rng(view).normal(size=3)
    return framed(mesh.vertices, mesh.faces, [*turn, 0, 0, 0], size)


def bumpy_torus(around: int, across: int, size: int) -> Scene:
    """A ring of 20 bulges seen edge-on: 2 x around x across faces, up to 12 layers of surface along a ray."""
    u, w = np.meshgrid(
        np.arange(around) * 2 * np.pi / around, np.arange(across) * 2 * np.pi / across, indexing="ij"
    )
    tube = 20 * (1 + 0.2 * np.cos(20 * u))
    out = 60 + tube * np.cos(w)
    vertices = np.stack([out * np.cos(u), out * np.sin(u), tube * np.sin(w)], -1).reshape(-1, 3)
    number = np.arange(around * across).reshape(around, across)
    a, b = number, np.roll(number, -1, 0)
    c, d = np.roll(b, -1, 1), np.roll(a, -1, 1)
    faces = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in ((a, b, c), (a, c, d))])
    return framed(vertices, faces, [np.pi / 2, 0, 0, 0, 0, 0], size)


def pelvis(folder: Path, size: int) -> Scene:
    """A real pelvis from its closed surfaces, as one structure, seen from the front."""
    mesh = trimesh.util.concatenate(list(sf.read_surfaces(folder).values()))
    vertices = np.asarray(mesh.vertices) - mesh.bounds.mean(0)
    front = sf.world_from_view("ap", torch.zeros(3), CENTRE)
    turn = se3.log(se3.inverse(front)[None])[0, :3]
    return framed(vertices, mesh.faces, [*turn.tolist(), 0, 0, 0], size)


def adversarial_box() -> tuple[Scene, np.ndarray]:
    """A cube whose vertices, edges and face diagonals project exactly onto pixel centres, and its image."""
    box = trimesh.creation.box((64, 64, 64))
    pose = np.eye(4)
    pose[2, 3] = 1056.0
    scene = Scene(
        np.array(box.vertices), np.array(box.faces), pose, sf.Camera(1024.0, 1.0, 1.0, 0.5, 0.5, 96, 96)
    )
    source, direction = scene.rays()
    with np.errstate(divide="ignore"):
        sides = np.stack([(-32 - source) / direction, (32 - source) / direction])
    path = sides.max(0).min(-1) - sides.min(0).max(-1)
    return scene, np.maximum(path, 0).reshape(96, 96)


def sphere_chords(scene: Scene) -> np.ndarray:
    """Lengths of the rays in the ball of 80 mm itself (H, W)."""
    source, direction = scene.rays()
    along = direction @ source
    inside = 80.0**2 - (source @ source - along**2)
    return 2 * np.sqrt(np.maximum(inside, 0)).reshape(scene.camera.height, -1)


def truth(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Path lengths in mm, the number of layers of surface (H, W), and the gradient (V, 3), in float64.

    Every face is tried at every pixel of its bounding box, by the signs of its three edge functions, and
    hit in its plane: not the way of the library's kernels, which follow edges from row to row.
    """
    height, width = scene.camera.height, scene.camera.width
    seen = scene.vertices @ scene.pose[:3, :3].T + scene.pose[:3, 3]
    p = seen @ scene.camera.intrinsics().numpy().T
    corners = (p[:, :2] / p[:, 2:])[scene.faces]
    low = np.ceil(corners.min(1)).clip(0, (width, height)).astype(np.int64)
    count = np.maximum(
        np.floor(corners.max(1)).clip(-1, (width - 1, height - 1)).astype(np.int64) - low + 1, 0
    )
    boxes = count.prod(-1)
    face = np.repeat(np.arange(len(scene.faces)), boxes)
    place = np.arange(len(face)) - np.repeat(np.cumsum(boxes) - boxes, boxes)
    i, j = low[face, 1] + place // count[face, 0], low[face, 0] + place % count[face, 0]
    weights = []  # of corner c, a and b in turn: the edge opposite
    for k in range(3):
        a, b = scene.faces[:, k], scene.faces[:, (k + 1) % 3]
        edge = np.cross(p[np.minimum(a, b)], p[np.maximum(a, b)]) * np.where(a < b, 1, -1)[:, None]
        weights.append(edge[face, 0] * j + edge[face, 1] * i + edge[face, 2])
    inside = [w > 0 for w in weights]
    hit = (inside[0] == inside[1]) & (inside[1] == inside[2])
    face, i, j, sign = face[hit], i[hit], j[hit], np.where(inside[0][hit], 1.0, -1.0)
    weights = [w[hit] for w in weights]
    a, b, c = (p[scene.faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    depth = (a * normal).sum(-1)[face] / (normal[face, 0] * j + normal[face, 1] * i + normal[face, 2])
    pixel, pixels = i * width + j, height * width
    direction = scene.rays()[1]
    lengths = 1 / (direction @ scene.pose[2, :3])  # mm along the ray for every mm of depth
    image = np.bincount(pixel, sign * depth, pixels) * lengths
    layers = np.bincount(pixel, minlength=pixels)

    # a hit moves along its ray with corner k by (barycentric weight of k) N / (N . d)
    a, b, c = (scene.vertices[scene.faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)[face]
    slope = np.abs((normal * direction[pixel]).sum(-1))
    share = normal * (scene.weight().ravel()[pixel] / slope / sum(weights))[:, None]
    gradient = np.zeros_like(scene.vertices)
    for k, corner in enumerate((2, 0, 1)):
        for x in range(3):
            gradient[:, x] += np.bincount(
                scene.faces[face, corner], weights[k] * share[:, x], len(scene.vertices)
            )
    return image.reshape(height, width), layers.reshape(height, width), gradient


def thinned(scene: Scene, step: int) -> Scene:
    """Every step-th pixel of the scene in both directions: the same rays, fewer of them."""
    c = scene.camera
    size = -(-c.height // step)
    pitch = c.delx * step
    offset = (float(c.intrinsics()[0, 2]) / step - (size - 1) / 2) * pitch
    return scene._replace(camera=sf.Camera(c.sdd, pitch, pitch, offset, offset, size, size))
