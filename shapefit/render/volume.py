"""Volumes seen by X-rays: line integrals, differentiable in everything."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shapefit.camera import Camera, ray_lengths
from shapefit.interop import accepts_foreign
from shapefit.render._ops import chosen_twin
from shapefit.render._volume_ops import line_integral, require_pixels
from shapefit.render._volume_torch import METHODS
from shapefit.volume import Volume


@accepts_foreign
def render_volume(
    volume: Volume,
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    method: str = "trilinear",
    step: float = 1.0,
    pixels: Int[Tensor, "N"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "B S H W"] | Float[Tensor, "B S N"]:
    """Line integral of a volume along every detector ray: its unit times mm, one channel per structure.

    Rays begin at the source and do not end at the detector. `pixels`, flat indices i * W + j, asks
    for these rays alone. The image has the dtype of the volume (at least float32); geometry is worked out
    in float64. Differentiable in the volume's data and affine, in the poses and in the camera's lengths.

    - "siddon": voxels of constant value, exactly. Its derivative in the pose is the right one, and a noisy
      guide: the integral of a piecewise constant volume has a kink wherever a ray meets a voxel's edge.
    - "trilinear": the trilinear interpolant of the voxels' centres, exactly: there is no step to choose,
      and the integral's derivative in the pose is continuous. Beyond the outermost centres it falls to 0
      within a voxel.
    - "raymarch": the same interpolant, sampled on planes parallel to the detector, `step` mm apart in
      depth.

    Raises ValueError for poses that are not finite or put the source too far away, a step that is not
    positive, pixels outside the image, an unknown method and an unknown backend ('auto', 'torch', 'numba',
    'triton'). A ray that misses is 0.
    Method: Siddon 1985, Med. Phys. 12(2), for constant voxels; between planes of voxel centres the
    interpolant is a cubic in the ray's parameter, which two Gauss points integrate exactly.
    """
    data, structure = volume.data, volume.structure
    twin = chosen_twin(backend, data.device)
    if method not in METHODS:
        choices = ", ".join(f"'{name}'" for name in METHODS)
        raise ValueError(f"unknown method {method!r}; expected one of {choices}")
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"the step must be a positive length in mm, got {step:g}")
    dtype = torch.promote_types(data.dtype, torch.float32)
    lengths = ray_lengths(camera, dtype, data.device).flatten()
    if pixels is not None:
        require_pixels(pixels, len(lengths))
        lengths = lengths[pixels]
    source, direction = voxel_rays(volume, camera_from_world, camera)
    count = max(1, len(volume.names))
    image = line_integral(
        data, structure, source, direction, pixels, lengths, camera.width, count, method, float(step), twin
    )
    return image if pixels is not None else image.unflatten(2, (camera.height, camera.width))


def voxel_rays(
    volume: Volume, camera_from_world: Float[Tensor, "B 4 4"], camera: Camera
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3 3"]]:
    """The source in voxel coordinates, and what a mm of depth adds: direction @ (j, i, 1)."""
    place = volume.world_from_voxel.to(camera_from_world.device)
    voxel_from_camera = torch.linalg.inv(camera_from_world.double() @ place)
    camera_from_pixel = torch.linalg.inv(camera.intrinsics(torch.float64, camera_from_world.device))
    return voxel_from_camera[:, :3, 3], voxel_from_camera[:, :3, :3] @ camera_from_pixel
