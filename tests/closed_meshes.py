"""Random closed meshes, poses and cameras for tests of the renderer: a kind and a seed, a mesh."""

from functools import cache

import manifold3d
import numpy as np
import torch
import trimesh
from scipy.spatial.transform import Rotation

from shapefit import se3
from shapefit.camera import Camera
from shapefit.render._ops import TWINS

# Side in pixels of the images that a backend is asked for, and how many seeds of each kind of mesh it sees.
BACKENDS = {"torch": (20, 2), "numba": (32, 5)}
if "triton" in TWINS and not torch.cuda.is_available():  # interpreted, and slow
    BACKENDS["triton"] = (8, 1)
# Some 20 to 1,500 faces each, within about 120 mm of the origin.
KINDS = (
    "tetrahedron", "box", "sphere", "dented sphere", "torus", "bumpy torus", "union", "difference",
    "shell", "components", "sheet", "needles", "flat needles", "slivers",
)  # fmt: skip
CONVEX = ("tetrahedron", "box", "sphere", "needles", "flat needles")


@cache
def closed_mesh(kind: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices (V, 3) in mm, float64, and faces (F, 3) of a random closed mesh of one of `KINDS`."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    vertices, faces = _MAKERS[kind](rng)
    return torch.tensor(np.array(vertices, np.float64)), torch.tensor(np.array(faces, np.int64))


def camera(rng: np.random.Generator, height: int, width: int, radius: float = 100.0) -> Camera:
    """A detector with oblong pixels and the principal point up to a field off; `radius` mm fill it."""
    sdd = rng.uniform(800, 1200)
    pitch = 1.5 * 2 * radius / np.array([height, width]) * rng.uniform(0.8, 1.3, 2)
    offset = rng.uniform(-1, 1, 2) * pitch * [height, width]
    return Camera(sdd, float(pitch[1]), float(pitch[0]), float(offset[1]), float(offset[0]), height, width)


def pose(rng: np.random.Generator, seen_by: Camera, low: float = 500.0, high: float = 800.0) -> torch.Tensor:
    """camera_from_world (1, 4, 4): any rotation; the world's origin `low` to `high` mm deep, in the field."""
    k = seen_by.intrinsics().numpy()
    target = [rng.uniform(0.3, 0.7) * seen_by.width, rng.uniform(0.3, 0.7) * seen_by.height, 1.0]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(rng=rng).as_matrix()
    matrix[:3, 3] = np.linalg.solve(k, target) * rng.uniform(low, high)
    return torch.from_numpy(matrix)[None]


def frontal(depth: float) -> torch.Tensor:
    """camera_from_world (1, 4, 4) with the camera's axes and the world's origin `depth` mm deep."""
    return se3.exp(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, depth]], dtype=torch.float64))


def centred(height: int, width: int, sdd: float = 1024.0, pitch: float = 1.0) -> Camera:
    """A camera whose principal ray runs through the centre of pixel (height // 2, width // 2)."""
    x0, y0 = (0.0 if n % 2 else pitch / 2 for n in (width, height))
    return Camera(sdd, pitch, pitch, x0, y0, height, width)


def solid(vertices, faces) -> manifold3d.Manifold:
    """A mesh for boolean operations."""
    mesh = manifold3d.Mesh64(np.asarray(vertices).astype(np.float64), np.asarray(faces).astype(np.uint64))
    made = manifold3d.Manifold(mesh)
    assert made.status() == manifold3d.Error.NoError
    return made


def arrays(made: manifold3d.Manifold) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a boolean's result."""
    mesh = made.to_mesh64()
    return np.array(mesh.vert_properties[:, :3]), np.array(mesh.tri_verts, np.int64)


def grid_torus(major: float, minor: float, around: int, across: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A torus about the z axis with 2 x `around` x `across` faces, vertices on the exact surface."""
    vertices, faces = _rings(major, minor, around, across)
    return torch.from_numpy(vertices), torch.from_numpy(faces)


def box(x: float, y: float, z: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A box about the origin, 12 faces."""
    made = trimesh.creation.box((x, y, z))
    return torch.tensor(np.array(made.vertices)), torch.tensor(np.array(made.faces))


def sphere(subdivisions: int, radius: float = 80.0) -> tuple[torch.Tensor, torch.Tensor]:
    """An icosphere about the origin."""
    made = trimesh.creation.icosphere(subdivisions, radius)
    return torch.tensor(np.array(made.vertices)), torch.tensor(np.array(made.faces))


def _rings(major, minor, around, across):
    a, b = np.meshgrid(
        np.arange(around) * 2 * np.pi / around, np.arange(across) * 2 * np.pi / across, indexing="ij"
    )
    ring = major + minor * np.cos(b)
    vertices = np.stack([ring * np.cos(a), ring * np.sin(a), minor * np.sin(b)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(around), np.arange(across), indexing="ij")
    i1, j1 = (i + 1) % around, (j + 1) % across
    p, q, r, s = (x * across + y for x, y in ((i, j), (i1, j), (i1, j1), (i, j1)))
    faces = np.stack([np.stack([p, q, r], -1), np.stack([p, r, s], -1)], 2).reshape(-1, 3)
    return vertices, faces


def _tetrahedron(rng):
    vertices = rng.uniform(-80, 80, (4, 3))
    if np.linalg.det(vertices[1:] - vertices[0]) < 0:
        vertices = vertices[[1, 0, 2, 3]]
    return vertices, [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]


def _box(rng):
    made = trimesh.creation.box(rng.uniform(20, 110, 3))
    return made.vertices, made.faces


def _sphere(rng):
    made = trimesh.creation.icosphere(int(rng.integers(1, 4)), rng.uniform(40, 90))
    return made.vertices * rng.uniform(0.6, 1.2, 3), made.faces


def _dented_sphere(rng):
    made = trimesh.creation.icosphere(3, 70)
    return made.vertices * rng.normal(1, 0.12, (len(made.vertices), 1)), made.faces


def _torus(rng):
    return _rings(rng.uniform(45, 65), rng.uniform(12, 30), 32, 16)


def _bumpy_torus(rng):
    vertices, faces = _rings(60, 25, 40, 20)
    angle = np.arctan2(vertices[:, 1], vertices[:, 0])
    return vertices * (1 + 0.15 * np.sin(rng.integers(5, 12) * angle))[:, None], faces


def _part(rng):
    vertices, faces = [_box, _sphere, _torus][rng.integers(3)](rng)
    turned = Rotation.random(rng=rng).apply(np.array(vertices))
    return solid(turned * 0.8 + rng.uniform(-25, 25, 3), faces)


def _union(rng):
    return arrays(_part(rng) + _part(rng) + _part(rng))


def _difference(rng):
    outer = trimesh.creation.icosphere(3, 85)
    return arrays(solid(outer.vertices, outer.faces) - _part(rng) - _part(rng))


def _shell(rng):
    outer = trimesh.creation.icosphere(2, 85)
    vertices, faces, turned = [], [], False
    for scale in np.cumprod([1.0, *rng.uniform(0.5, 0.85, 3)]):
        faces.append((outer.faces[:, ::-1] if turned else outer.faces) + len(vertices) * len(outer.vertices))
        vertices.append(outer.vertices * scale)
        turned = not turned
    return np.concatenate(vertices), np.concatenate(faces)


def _components(rng):
    vertices, faces, count = [], [], 0
    for place in np.stack(np.meshgrid([-55, 55], [-55, 55], [0]), -1).reshape(-1, 3):
        part = [_tetrahedron, _box, _sphere][rng.integers(3)](rng)
        vertices.append(np.array(part[0]) * 0.3 + place)
        faces.append(np.array(part[1]) + count)
        count += len(part[0])
    return np.concatenate(vertices), np.concatenate(faces)


def _sheet(rng):
    """Both sides of one curved surface: closed, but with nothing inside."""
    x, y = np.meshgrid(np.linspace(-80, 80, 9), np.linspace(-80, 80, 9), indexing="ij")
    vertices = np.stack([x, y, 0.004 * x * y + rng.normal(0, 3, x.shape)], -1).reshape(-1, 3)
    p = (np.arange(8)[:, None] * 9 + np.arange(8)).reshape(-1)
    faces = np.concatenate([np.stack([p, p + 9, p + 10], -1), np.stack([p, p + 10, p + 1], -1)])
    return vertices, np.concatenate([faces, faces[:, ::-1]])


def _needles(rng):
    made = trimesh.creation.icosphere(2, 80)
    return made.vertices * rng.permutation([1e-4, 10.0 ** -rng.integers(1, 4), 1.0]), made.faces


def _flat_needles(rng):
    made = trimesh.creation.cylinder(radius=1e-4 * 10.0 ** rng.uniform(0, 5), height=160, sections=24)
    return made.vertices, made.faces


def _slivers(rng):
    """A sphere most of whose vertices have slid along the surface until faces are all but lines."""
    made = trimesh.creation.icosphere(2, 80)
    squeezed = made.vertices * [1, 1, 1e4]
    return 80 * squeezed / np.linalg.norm(squeezed, axis=1, keepdims=True), made.faces


_MAKERS = {
    "tetrahedron": _tetrahedron, "box": _box, "sphere": _sphere, "dented sphere": _dented_sphere,
    "torus": _torus, "bumpy torus": _bumpy_torus, "union": _union, "difference": _difference,
    "shell": _shell, "components": _components, "sheet": _sheet, "needles": _needles,
    "flat needles": _flat_needles, "slivers": _slivers,
}  # fmt: skip
