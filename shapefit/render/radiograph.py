"""CT volumes -> X-ray pictures of a tube: beam hardening, blur and noise, as for meshes.

A registration fits line integrals of one attenuation; what it is tested on should come from elsewhere. Here
every voxel is a mixture of water and cortical bone (`shapefit.hounsfield`), the mm of each along a ray are
found first, and Beer-Lambert's law for each energy of a spectrum comes after.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera
from shapefit.render.mesh import render_mesh
from shapefit.render.signal import PANEL, Detector, detector_blur, detector_signal, poisson_noise
from shapefit.render.simulate import Exposure, body_and_gas, exposed
from shapefit.render.volume import render_volume
from shapefit.spectra import Spectrum
from shapefit.view import View
from shapefit.volume import Volume

MATERIALS = ("water", "cortical bone")
USUAL = Exposure()


def render_radiograph(
    ct: Volume,
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    spectrum: Spectrum,
    detector: Detector = PANEL,
    photons: float | None = None,
    generator: torch.Generator | None = None,
    threshold: float | None = None,
    padding: float | None = None,
    method: str = "trilinear",
    step: float = 1.0,
    backend: str = "auto",
) -> Float[Tensor, "B 1 H W"]:
    """X-ray picture of a CT in HU: intensity as a share of the open beam, bone dark.

    `threshold` and `padding` are those of `Volume.attenuation`; method, step and backend those of
    `render_volume`. Structures are not told apart. Noise of `photons` per pixel of the open beam comes last
    and ends differentiability; without it the picture is differentiable in pose and camera, not in the HU.
    A ray that misses the CT is 1. Errors are those of `Volume.attenuation`, `render_volume`,
    `detector_signal`, `detector_blur` and `poisson_noise`.
    """
    paths = ct_paths(ct, camera_from_world, camera, threshold, padding, method, step, backend)
    picture = detector_blur(detector_signal(paths, MATERIALS, spectrum, detector), detector.blur, camera)
    return picture if photons is None else poisson_noise(picture, photons, generator)


def ct_paths(
    ct: Volume,
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    threshold: float | None = None,
    padding: float | None = None,
    method: str = "trilinear",
    step: float = 1.0,
    backend: str = "auto",
) -> Float[Tensor, "B 2 H W"]:
    """Millimetres of water and of cortical bone along each ray through a CT in HU.

    Arguments and errors are those of `render_radiograph`.
    """
    shares = replace(ct, structure=None, names=()).water_and_bone(threshold, padding)
    images = [
        render_volume(share, camera_from_world, camera, method=method, step=step, backend=backend)
        for share in shares
    ]
    return torch.cat(images, 1)


def simulate_radiograph(
    ct: Volume,
    world_from_camera: Float[Tensor, "4 4"],
    camera: Camera,
    seed: int,
    exposure: Exposure = USUAL,
    threshold: float | None = None,
    padding: float | None = None,
    body: bool = False,
    method: str = "trilinear",
    step: float = 1.0,
    backend: str = "auto",
) -> View:
    """An X-ray picture of a CT in HU (world mm), as an image system would show it: blur, noise, display.

    `body` puts the matter of a CT without its soft tissue (by `threshold`) into an ellipsoid of soft tissue
    with bubbles of gas, as `simulate_view` does with meshes; `exposure.gas` counts for that alone, and
    `exposure.shell` not at all. The gain and the exponent of the display are random. The same seed gives the
    same picture; the view has the given pose. Other arguments and errors are those of `render_radiograph`;
    ValueError also where no ray meets the CT.
    """
    rng = np.random.default_rng(seed)
    camera_from_world = se3.inverse(world_from_camera.double().cpu())[None]
    there = camera_from_world.to(ct.data.device)
    paths = ct_paths(ct, there, camera, threshold, padding, method, step, backend).detach().cpu()
    if not (paths > 0).any():
        raise ValueError("the X-ray misses the CT: no ray meets matter; check the pose and the threshold")
    materials = list(MATERIALS)
    if body:
        solid = ct.attenuation(threshold=threshold, padding=padding).cropped()
        surround = _body_paths(solid, paths, camera_from_world, camera, exposure.gas, rng)
        paths, materials = torch.cat([paths, surround], 1), [*materials, "soft tissue"]
    signal = detector_signal(paths, materials, exposure.spectrum)
    signal = detector_blur(signal, exposure.blur * float(camera.delx), camera)
    picture = exposed(signal[0, 0].double().numpy(), exposure, rng)
    return View(picture, camera, world_from_camera.double().cpu())


def _body_paths(
    solid: Volume,
    paths: Tensor,
    camera_from_world: Tensor,
    camera: Camera,
    gas: int,
    rng: np.random.Generator,
) -> Tensor:
    """Millimetres (1, 1, H, W) of soft tissue in a body around a volume: less its gas, and what is there."""
    size = [torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in solid.data.shape]
    world = se3.transform(solid.world_from_voxel.cpu(), torch.cartesian_prod(*size))
    vertices, faces, structure, count = [], [], [], 0
    for n, (part, part_faces) in enumerate(body_and_gas(world.amin(0), world.amax(0), gas, rng)):
        vertices.append(part)
        faces.append(part_faces + count)
        structure.append(torch.full_like(part_faces[:, 0], min(n, 1)))
        count += len(part)
    inside = render_mesh(
        torch.cat(vertices)[None].to(camera_from_world), torch.cat(faces), camera_from_world, camera,
        torch.cat(structure), 2,
    ).to(paths)  # fmt: skip
    return (inside[:, :1] - inside[:, 1:] - paths.sum(1, keepdim=True)).clamp(min=0)
