"""A small world for tests: three "bones" that vary, as meshes, label maps, X-rays and a shape model."""

import json
from pathlib import Path

import numpy as np
import torch
import trimesh

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.io.mesh import write_surfaces
from shapefit.io.model import write_model
from shapefit.io.volume import write_volume
from shapefit.io.xray import write_camera, write_image, write_mask
from shapefit.render import render_mesh
from shapefit.shape_model import Landmarks, ShapeModel, train
from shapefit.surface import Surfaces
from shapefit.volume import Volume

LABELS = {"sacrum": 1, "hip_left": 2, "hip_right": 3}
# centre and half axes in mm: a wedge between two tilted plates, as in a pelvis a third of the size
BONES = {
    "sacrum": ((0.0, -14.0, 10.0), (14.0, 8.0, 18.0)),
    "hip_left": ((-27.0, 0.0, 0.0), (9.0, 18.0, 28.0)),
    "hip_right": ((27.0, 0.0, 0.0), (9.0, 18.0, 28.0)),
}
CAMERA = Camera(sdd=1020.0, delx=2.0, dely=2.0, x0=0.0, y0=0.0, height=64, width=72)
DEPTH = 700.0


def _build(seed: int) -> tuple[float, float, float]:
    """Size, width and bend of a case; the same seed is the same patient."""
    rng = np.random.default_rng(seed)
    return 1 + 0.06 * rng.normal(), 1 + 0.08 * rng.normal(), 0.0025 * rng.normal()


def case_vertices(seed: int, subdivisions: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) in mm, faces and structure of one case."""
    size, width, bend = _build(seed)
    sphere = trimesh.creation.icosphere(subdivisions)
    vertices, faces, structure = [], [], []
    for number, (centre, half) in enumerate(BONES.values()):
        bone = sphere.vertices * half * np.array([1.0, width, 1.0])
        bone[:, 1] += bend * bone[:, 2] ** 2
        # no symmetry of its own: a pose can be told from its picture
        bone[:, 2] += 0.15 * half[2] * sphere.vertices[:, 0] * np.sign(centre[0] or 0.6)
        vertices.append((bone + np.array(centre) * [width, 1.0, 1.0]) * size)
        faces.append(sphere.faces + number * len(sphere.vertices))
        structure.append(np.full(len(sphere.faces), number))
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(structure)


def case_labels(seed: int, points: np.ndarray) -> np.ndarray:
    """Which bone points (N, 3) in mm lie in, by undoing what `case_vertices` does to a sphere."""
    size, width, bend = _build(seed)
    labels = np.zeros(len(points), dtype=np.uint8)
    for label, (centre, half) in zip(LABELS.values(), BONES.values(), strict=True):
        x, y, z = (points / size - np.array(centre) * [width, 1.0, 1.0]).T
        x = x / half[0]
        z = z - 0.15 * half[2] * x * np.sign(centre[0] or 0.6)
        y = (y - bend * z**2) / half[1] / width
        labels[x**2 + y**2 + (z / half[2]) ** 2 <= 1] = label
    return labels


def case_surfaces(seed: int, subdivisions: int = 3) -> Surfaces:
    """One closed mesh per bone, mm."""
    vertices, faces, structure = case_vertices(seed, subdivisions)
    surfaces = {}
    for number, name in enumerate(BONES):
        used, local = np.unique(faces[structure == number], return_inverse=True)
        surfaces[name] = trimesh.Trimesh(vertices[used], local.reshape(-1, 3), process=False)
    return surfaces


def write_label_map(path: Path, seed: int, voxel: float = 1.5) -> Path:
    """The bones of a case as a label map in an oblique, flipped grid."""
    turn = se3.exp(torch.tensor([0.1, -0.2, 0.15, 0.0, 0.0, 0.0], dtype=torch.float64)).numpy()
    affine = turn @ np.diag([-voxel, voxel, voxel, 1.0])
    shape = np.array([100.0, 72.0, 88.0]) / voxel
    affine[:3, 3] = -affine[:3, :3] @ (shape / 2)
    index = np.stack(np.meshgrid(*(np.arange(round(n)) for n in shape), indexing="ij"), -1)
    world = (index.reshape(-1, 3) @ affine[:3, :3].T) + affine[:3, 3]
    data = torch.from_numpy(case_labels(seed, world).reshape(index.shape[:3]))
    write_volume(path, Volume(data, torch.from_numpy(affine)))
    return path


def small_model(count: int = 8) -> ShapeModel:
    """A shape model of `count` cases with two landmarks."""
    shapes = [case_vertices(seed) for seed in range(count)]
    _, faces, structure = shapes[0]
    weights = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    return train(
        torch.from_numpy(np.stack([vertices for vertices, _, _ in shapes])),
        torch.from_numpy(faces),
        torch.from_numpy(structure),
        tuple(LABELS),
        tuple(LABELS.values()),
        landmarks=Landmarks(("top", "side"), torch.tensor([3, 400]), weights),
        cases=tuple(f"case{seed}" for seed in range(count)),
        metadata={"id": "small"},
    )


def write_small_model(path: Path) -> Path:
    write_model(path, small_model())
    return path


def write_case(folder: Path, seed: int) -> Path:
    """A folder of meshes and landmarks."""
    surfaces = case_surfaces(seed)
    write_surfaces(folder, surfaces)
    top = surfaces["sacrum"].vertices[surfaces["sacrum"].vertices[:, 2].argmax()].tolist()
    readings = [{"points": {"top": top}}, {"points": {"top": top}}]
    content = {"frame": "RAS", "units": "mm", "readings": readings}
    (folder / "landmarks.json").write_text(json.dumps(content))
    return folder


def ap_pose() -> torch.Tensor:
    return world_from_view("ap", torch.zeros(3, dtype=torch.float64), DEPTH)


def write_xray(folder: Path, seed: int = 100, name: str = "ap", pose: torch.Tensor | None = None) -> dict:
    """An X-ray, its mask and its camera file of an unseen case; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pose = ap_pose() if pose is None else pose
    vertices, faces, structure = (torch.from_numpy(array) for array in case_vertices(seed, subdivisions=3))
    paths = render_mesh(vertices[None], faces, se3.inverse(pose)[None], CAMERA, structure)[0]
    rows = torch.linspace(0, 1, CAMERA.height, dtype=torch.float64)[:, None]
    image = 0.9 * torch.exp(-0.02 * paths.sum(0) - 0.3 * rows)
    files = {kind: folder / f"{name}_{kind}.png" for kind in ("image", "mask")}
    files["camera"] = folder / f"{name}.json"
    write_image(files["image"], image)
    mask = torch.zeros(CAMERA.height, CAMERA.width, dtype=torch.uint8)
    for number in range(len(LABELS)):
        mask[paths[number] > 0] = number + 1
    write_mask(files["mask"], mask)
    write_camera(files["camera"], CAMERA, pose)
    return files
