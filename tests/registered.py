"""A small registration for tests: a CT phantom of 32 voxels, two X-rays of 48 pixels, a pose to be found."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import small
import torch

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.fit.rigid import RigidFit
from shapefit.io.volume import write_volume
from shapefit.io.xray import write_camera, write_image
from shapefit.jobs.bone import BoneFile, read_bone
from shapefit.jobs.register_pictures import drr
from shapefit.settings import CTSettings, RegisterSettings
from shapefit.view import View
from shapefit.volume import Volume

CAMERA = Camera(sdd=1020.0, delx=2.8, dely=2.8, x0=0.0, y0=0.0, height=48, width=48)
VIEWS = ("ap", "lateral")
TRUTH = se3.exp(torch.tensor([0.05, -0.04, 0.06, 3.0, -2.0, 2.5], dtype=torch.float64))
BONE, FLESH, AIR = 1200.0, 40.0, -1000.0  # HU


class World(NamedTuple):
    """Files of a registration."""

    ct: Path
    labels: Path
    images: list[Path]
    cameras: list[Path]


def phantom() -> tuple[Volume, Volume]:
    """The three bones of `small` in a block of soft tissue, in HU, and their label map; an oblique grid."""
    turn = se3.exp(torch.tensor([0.1, -0.2, 0.15, 0.0, 0.0, 0.0], dtype=torch.float64)).numpy()
    affine = turn @ np.diag([-3.2, 3.2, 3.2, 1.0])
    shape = np.array([32, 24, 28])
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    labels = small.case_labels(0, index @ affine[:3, :3].T + affine[:3, 3]).reshape(tuple(shape))
    hu = np.where(labels > 0, BONE, FLESH).astype(np.float32)
    for axis in range(3):  # air around it
        ends = np.moveaxis(hu, axis, 0)
        ends[:2], ends[-2:] = AIR, AIR
    place = torch.from_numpy(affine)
    return Volume(torch.from_numpy(hu), place), Volume(torch.from_numpy(labels), place)


def pose(name: str) -> torch.Tensor:
    return world_from_view(name, torch.zeros(3, dtype=torch.float64), 720.0)


def write_world(folder: Path, truth: torch.Tensor = TRUTH) -> World:
    """CT, label map, X-rays of the bone alone at `truth`, and cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    ct, labels = phantom()
    world = World(
        folder / "ct.nii.gz",
        folder / "labels.nii.gz",
        [folder / f"{name}.png" for name in VIEWS],
        [folder / f"{name}.json" for name in VIEWS],
    )
    write_volume(world.ct, ct)
    write_volume(world.labels, labels)
    bone = read_bone(world.ct, ct=CTSettings(threshold=150.0)).matter
    for name, image, camera in zip(VIEWS, world.images, world.cameras, strict=True):
        line = drr(bone, se3.inverse(pose(name)) @ truth, CAMERA, RegisterSettings())
        rows = torch.linspace(0, 1, CAMERA.height)[:, None]
        write_image(image, 0.9 * torch.exp(-line - 0.3 * rows))
        write_camera(camera, CAMERA, pose(name))
    return world


def views(world: World) -> list[View]:
    from shapefit.jobs.fit import read_views

    return read_views(world.images, world.cameras)


def bone(world: World) -> BoneFile:
    return read_bone(world.ct, ct=CTSettings(threshold=150.0))


def found(truth: torch.Tensor = TRUTH, count: int = 2, converged: bool = True, reason: str = "") -> RigidFit:
    """What a registration that went straight from the identity to `truth` gives back."""
    way = [se3.exp(t * se3.log(truth)) for t in np.linspace(0.2, 1.0, 7)]
    stages = ["coarse"] * 4 + ["fine"] * 3
    return RigidFit(
        world_from_bone=truth,
        world_from_camera=torch.stack([pose(name) for name in VIEWS[:count]]),
        losses=[0.25] * count,
        terms=[{"agreement": 0.75}] * count,
        converged=converged,
        reason=reason or "mean correlation in patches with bone 0.750, at least 0.5",
        history=[
            {"stage": stage, "step": n, "loss": 0.9 - 0.1 * n, "world_from_bone": step.tolist()}
            for n, (stage, step) in enumerate(zip(stages, way, strict=True))
        ],
        candidates=[{"start": 0, "loss": 0.25, "world_from_bone": truth.tolist()}],
        seconds=1.5,
    )
