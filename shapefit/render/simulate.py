"""X-ray pictures with a known answer: bones in a body, as an image system would show them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera
from shapefit.interop import accepts_foreign
from shapefit.render.signal import Detector
from shapefit.render.xray import Bone, render_xray
from shapefit.spectra import Spectrum
from shapefit.view import View

ONE_ENERGY = Spectrum((60.0,))  # keV


@dataclass(frozen=True)
class Exposure:
    """How a simulated X-ray is taken."""

    spectrum: Spectrum = ONE_ENERGY  # see `shapefit.spectra` for those of tubes
    photons: float = 400.0  # per pixel, in the median over the image: the exposure is automatic; 0: no noise
    blur: float = 0.7  # pixels, standard width of the detector's point spread
    shell: float = 1.6  # mm, thickness of the cortex
    gas: int = 6  # bubbles of bowel gas
    gamma: tuple[float, float] = (0.35, 0.7)  # range of the display's exponent, unknown to a fit


@accepts_foreign
def simulate_view(
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    structure: Int[Tensor, "F"],
    world_from_camera: Float[Tensor, "4 4"],
    camera: Camera,
    seed: int,
    exposure: Exposure = Exposure(),
    materials: Sequence[str | Bone] | None = None,
) -> View:
    """An X-ray picture of bones (world mm) in a body: cortex, interior, soft tissue, gas, blur, noise.

    The body is an ellipsoid around the structures, so the image has air beside it where the field is wide
    enough; the gain and the exponent of the display are random. `materials` are those of the structures, each
    a `Bone` if absent. The same seed gives the same picture. Errors are those of `render_xray`.
    The view's image is intensity in [0, 1], bone dark; its pose is the given one.
    """
    rng = np.random.default_rng(seed)
    points = vertices.double()
    count = int(structure.max()) + 1
    materials = [Bone(exposure.shell)] * count if materials is None else list(materials)
    if len(materials) != count:
        raise ValueError(f"{count} structures need as many materials, got {len(materials)}")
    for n, (more, more_faces) in enumerate(body_and_gas(points.amin(0), points.amax(0), exposure.gas, rng)):
        faces = torch.cat([faces, more_faces + len(points)])
        points = torch.cat([points, more])
        structure = torch.cat([structure, torch.full_like(more_faces[:, 0], count + min(n, 1))])
    gas = bool(exposure.gas)  # one structure, if there is any
    through = render_xray(
        points[None], faces, se3.inverse(world_from_camera.double())[None], camera, structure,
        [*materials, "soft tissue", *["air"] * gas],
        exposure.spectrum,
        [*[count] * len(materials), -1, *[count] * gas],
        Detector(blur=exposure.blur * float(camera.delx)),
    )[0, 0].numpy()  # fmt: skip
    # one stream of random numbers for the body, the noise and the display
    return View(exposed(through, exposure, rng), camera, world_from_camera.double())


def body_and_gas(
    low: Float[Tensor, "3"], high: Float[Tensor, "3"], gas: int, rng: np.random.Generator
) -> list[tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]]:
    """Vertices and faces of the body around bones in the box from `low` to `high` (mm), then of its gas."""
    parts = [_ellipsoid((low + high) / 2, (high - low) / 2 * torch.tensor([1.25, 1.45, 1.9]))]
    for _ in range(gas):
        place = torch.from_numpy(rng.uniform(-0.45, 0.45, 3)) * (high - low) + (low + high) / 2
        parts.append(_ellipsoid(place, torch.from_numpy(rng.uniform(5, 18, 3))))
    return parts


def exposed(
    through: Float[np.ndarray, "H W"], exposure: Exposure, rng: np.random.Generator
) -> Float[Tensor, "H W"]:
    """A signal as an automatic exposure counts it and a display shows it: noisy, in [0, 1], gamma unknown."""
    through = through / np.median(through)
    counts = np.maximum(rng.poisson(exposure.photons * through), 1) if exposure.photons else through
    # the display: the median at a mid grey, air saturated, exponent unknown
    shown = (0.45 * (counts / np.median(counts)) ** rng.uniform(*exposure.gamma)).clip(0, 1)
    return torch.from_numpy(shown.astype(np.float32))


def _ellipsoid(center: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    return torch.tensor(np.array(sphere.vertices)) * radii + center, torch.tensor(np.array(sphere.faces))
