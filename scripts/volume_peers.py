"""The renderers of `benchmark_volume.py`: shapefit's and its peers' behind one door.

`placed` gives a renderer its volume, which a user does once; `aimed` its detector; what is left is a function
from camera_from_world (4, 4) to the image (H, W), and the tensor of voxels that gradients are taken in. Every
peer has the same voxels, source and pixel centres, and is asked as its documentation does.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from volume_scenes import SIDE, pose, rays, still

import shapefit as sf
from shapefit import se3

SAMPLES = 500  # of nanodrr and DiffDRR's trilinear renderer, by default
RENDERERS = {  # our name -> what is shown, the package it needs
    "siddon": ("shapefit siddon", "shapefit"),
    "trilinear": ("shapefit trilinear", "shapefit"),
    "raymarch": ("shapefit raymarch, 1 mm", "shapefit"),
    "raymarch_500": ("shapefit raymarch, nanodrr's step", "shapefit"),
    "diffdrr_siddon": ("DiffDRR siddon", "diffdrr"),
    "diffdrr_trilinear": ("DiffDRR trilinear, 500", "diffdrr"),
    "nanodrr": ("nanodrr, 500", "nanodrr"),
}


class Aimed(NamedTuple):
    draw: Callable[[torch.Tensor], torch.Tensor]  # camera_from_world (4, 4) -> image (H, W)
    voxels: torch.Tensor  # the renderer's own, in which gradients in the volume are taken


def placed(package: str, data: torch.Tensor, world_from_voxel: torch.Tensor) -> object:
    """What a package makes of a volume (I, J, K) in 1/mm."""
    if package == "shapefit":
        return sf.Volume(data, world_from_voxel)
    from torchio import ScalarImage, Subject

    image = ScalarImage(tensor=data[None], affine=world_from_voxel.numpy())
    if package == "nanodrr":
        from nanodrr.data import Subject as Placed

        made = Placed.from_images(image, max_label=0, convert_to_mu=False)
        return made.to(data.dtype)  # from_images always makes float32
    # as diffdrr.data.read leaves it, without its conversion from HU
    return Subject(
        volume=image, mask=None, orientation=None, reorient=torch.eye(4), density=image, fiducials=None
    )


def get_going(package: str) -> None:
    """Load what a package loads when it is first used, without starting a thread that a fork would lose."""
    if package == "shapefit":
        import numba  # noqa: F401

        volume, camera = (
            sf.Volume(torch.ones(2, 2, 2), torch.eye(4).double()),
            sf.Camera(9.0, 1.0, 1.0, 0.0, 0.0, 2, 2),
        )
        twist = still().requires_grad_()
        sf.render_volume(volume, pose(twist)[None], camera, backend="torch").sum().backward()
    elif package == "nanodrr":
        import nanodrr.drr  # noqa: F401
    else:
        import diffdrr.data
        import diffdrr.drr  # noqa: F401


def aimed(name: str, body: object, camera: sf.Camera, device: str = "cpu") -> Aimed:
    """A renderer with its volume and detector in place."""
    ready = {"shapefit": _shapefit, "diffdrr": _diffdrr, "nanodrr": _nanodrr}[RENDERERS[name][1]]
    return ready(name, body, camera, device)


def _shapefit(name: str, body: sf.Volume, camera: sf.Camera, device: str) -> Aimed:
    method = name.split("_")[0]
    step = nanodrr_step(len(body.data), camera) if name == "raymarch_500" else 1.0
    volume = sf.Volume(body.data.to(device), body.world_from_voxel.to(device))
    return Aimed(
        lambda at: sf.render_volume(volume, at[None], camera, method=method, step=step)[0, 0], volume.data
    )


def _diffdrr(name: str, body: object, camera: sf.Camera, device: str) -> Aimed:
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform

    drr = DRR(
        body, sdd=camera.sdd, height=camera.height, width=camera.width, delx=camera.delx, dely=camera.dely,
        renderer=name.removeprefix("diffdrr_"),
    ).to(device, body.density.data.dtype)  # fmt: skip
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])).to(drr.density)  # its x and y run backwards
    return Aimed(lambda at: drr(RigidTransform(se3.inverse(at)[None] @ half_turn))[0, 0], drr.density)


def _nanodrr(name: str, body: object, camera: sf.Camera, device: str) -> Aimed:
    from nanodrr.drr import DRR

    body = body.to(device)
    drr = DRR.from_carm_intrinsics(
        camera.sdd, camera.delx, camera.dely, camera.x0, camera.y0, camera.height, camera.width,
        dtype=body.image.dtype, device=torch.device(device),
    )  # fmt: skip
    return Aimed(lambda at: drr(body, se3.inverse(at)[None], n_samples=SAMPLES)[0, 0], body._image_hu)


def nanodrr_step(count: int, camera: sf.Camera) -> float:
    """Mean depth, mm, between nanodrr's samples: 500 on the part of a ray within a voxel of centres."""
    source, direction = rays(pose(still()), camera)
    edge = SIDE / 2 + SIDE / count / 2
    sides = torch.stack([(-edge - source) / direction, (edge - source) / direction])
    depth = sides.amax(0).amin(-1) - sides.amin(0).amax(-1)
    return float(depth[depth > 0].mean()) / SAMPLES
