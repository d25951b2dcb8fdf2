"""What is registered: a CT or a closed mesh, its line integrals, its middle, whether an X-ray meets it."""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Float64, Int
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera
from shapefit.fit.objective import bone_xray
from shapefit.fit.start import Bone
from shapefit.materials import attenuation_coefficient
from shapefit.mesh import require_closed
from shapefit.render.volume import render_volume
from shapefit.settings import RegisterSettings
from shapefit.view import View
from shapefit.volume import Volume

CORTEX = float(attenuation_coefficient("cortical bone", 60.0))  # 1/mm, scales mm of bone
HIGHEST = 20.0  # 1/mm, above that of every metal; Hounsfield units are far beyond


def matter_of(given: Volume | Mapping[str, trimesh.Trimesh], device: str = "cpu") -> Volume | Bone:
    """A CT cut to what is not air, or the structures of a mesh as one bone, in single precision.

    Raises ValueError for a CT that is empty or not an attenuation, and for meshes that are absent or open.
    """
    if isinstance(given, Volume):
        data = given.data.detach()
        low, high = (float(x) for x in torch.aminmax(data))
        if low < 0 or high > HIGHEST:
            raise ValueError(
                f"a CT is registered by its attenuation, 0 to {HIGHEST:g} in 1/mm, but this one has "
                f"{low:g} to {high:g}; are these Hounsfield units? Volume.attenuation converts them"
            )
        if high == 0:
            raise ValueError("the CT is empty: every voxel is 0")
        return Volume(data.float(), given.world_from_voxel).cropped().to(device)  # rays walk through no air
    if not given:
        raise ValueError("no mesh was given; name at least one structure")
    vertices, faces, structure, offset = [], [], [], 0
    for number, (name, mesh) in enumerate(given.items()):
        corners, triangles = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
        require_closed(corners, triangles, name)
        vertices.append(corners)
        faces.append(triangles + offset)
        structure.append(np.full(len(triangles), number))
        offset += len(corners)
    return Bone(*(
        torch.from_numpy(np.concatenate(part)).to(device) for part in (vertices, faces, structure)
    ))  # fmt: skip


def coarser(matter: Volume | Bone, size: float) -> Volume | Bone:
    """A CT with voxels of about `size` mm along each axis, never finer than they are; a mesh as it is."""
    if isinstance(matter, Bone):
        return matter
    factors = tuple(max(1, round(size / float(edge))) for edge in matter.spacing)
    return matter if max(factors) == 1 else matter.downsampled(factors)


def line_integrals(
    matter: Volume | Bone,
    camera_from_bone: Float[Tensor, "B 4 4"],
    camera: Camera,
    pixels: Int[Tensor, "N"] | None,
    settings: RegisterSettings,
) -> Float[Tensor, "B N"]:
    """Attenuation line integrals (unitless) along the rays of some pixels, or of all.

    "raymarch" takes one sample per voxel's edge of depth. A mesh is a cortical shell around a weaker
    interior, as in `fit_xrays`.
    """
    if isinstance(matter, Volume):
        step = float(matter.spacing.min())
        lines = render_volume(matter, camera_from_bone, camera, settings.method, step, pixels)
        return lines.flatten(1)
    vertices = matter.vertices.float().expand(len(camera_from_bone), -1, -1)
    cortex, _ = bone_xray(
        vertices, matter.faces, matter.structure, camera_from_bone.float(), camera,
        settings.shell, settings.interior,
    )  # fmt: skip
    lines = CORTEX * cortex.flatten(1)
    return lines if pixels is None else lines[:, pixels]


def middle(matter: Volume | Bone) -> tuple[Float64[Tensor, "3"], float]:
    """Centre of mass of a CT, or of a mesh's vertices, in its own mm, and the mean distance from it (mm)."""
    if isinstance(matter, Volume):
        data = (
            coarser(matter, max(1, max(matter.data.shape) // 48)) if max(matter.data.shape) > 96 else matter
        )
        index = torch.nonzero(data.data)
        weight = data.data[tuple(index.T)].double()[:, None].cpu()
        points = se3.transform(data.world_from_voxel.cpu(), index.double().cpu())
    else:
        points = matter.vertices.double().cpu()
        weight = torch.ones_like(points[:, :1])
    centre = (points * weight).sum(0) / weight.sum()
    spread = ((points - centre).norm(dim=1, keepdim=True) * weight).sum() / weight.sum()
    return centre, max(float(spread), 1.0)


def require_met(matter: Volume | Bone, camera_from_bone: Float[Tensor, "4 4"], view: View) -> None:
    """Raises ValueError where the box around the bone lies beside the X-ray, or behind its source."""
    if isinstance(matter, Volume):
        ends = [(-0.5, n - 0.5) for n in matter.data.shape]
        corners = se3.transform(
            matter.world_from_voxel.cpu(), torch.tensor(list(itertools.product(*ends)), dtype=torch.float64)
        )
    else:
        points = matter.vertices.double().cpu()
        corners = torch.tensor(
            list(itertools.product(*zip(points.amin(0).tolist(), points.amax(0).tolist(), strict=True))),
            dtype=torch.float64,
        )
    pose, camera = camera_from_bone.double().cpu(), view.camera
    depth = se3.transform(pose, corners)[:, 2]
    if not (depth > 0).all():
        raise ValueError(
            f"{view.name}: at its start the bone is not in front of the X-ray source: its box lies at "
            f"depths of {float(depth.min()):.0f} to {float(depth.max()):.0f} mm; check the camera's pose, "
            "or give a start"
        )
    places = camera.project(pose, corners)
    pitch = (float(camera.delx), float(camera.dely))
    sides = (("right of", "left of", camera.width, 0), ("below", "above", camera.height, 1))
    for beyond, before, size, axis in sides:
        low, high = float(places[:, axis].min()), float(places[:, axis].max())
        for side, gap in ((beyond, low - (size - 0.5)), (before, -0.5 - high)):
            if gap >= 0:
                raise ValueError(
                    f"{view.name}: the X-ray misses the bone at its start: its shadow lies {gap:.0f} "
                    f"pixels ({gap * pitch[axis]:.0f} mm on the detector) {side} the image; "
                    "check the camera's pose, or give a start"
                )
