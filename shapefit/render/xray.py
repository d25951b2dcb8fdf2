"""Path lengths and materials -> what a detector sees; X-ray pictures with a known answer."""

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera
from shapefit.interop import accepts_foreign
from shapefit.materials import attenuation_coefficient
from shapefit.mesh import vertex_normals
from shapefit.render.mesh import render_mesh
from shapefit.view import View


@dataclass(frozen=True)
class Exposure:
    """How a simulated X-ray is taken."""

    energy: float = 60.0  # keV, effective energy of the beam
    photons: float = 400.0  # per pixel, in the median over the image: the exposure is automatic
    blur: float = 0.7  # pixels, standard width of the detector's point spread
    shell: float = 1.6  # mm, thickness of the cortex
    gas: int = 6  # bubbles of bowel gas
    gamma: tuple[float, float] = (0.35, 0.7)  # range of the display's exponent, unknown to a fit


@accepts_foreign
def shell_and_interior(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    shell: float,
    structure: Int[Tensor, "F"] | None = None,
    check: bool = True,
) -> tuple[Float[Tensor, "B S H W"], Float[Tensor, "B 1 H W"]]:
    """Path lengths (mm) within each structure's outer surface, and within all inner surfaces together.

    The inner surface is the outer one offset by `shell` mm against its normals; the difference of
    the two paths is that within the cortex. Errors are those of `render_mesh`.
    """
    if structure is None:
        structure = torch.zeros(len(faces), dtype=torch.int64, device=faces.device)
    count = int(structure.max()) + 1
    inner = vertices - shell * vertex_normals(vertices, faces)
    both = torch.cat([vertices, inner], 1)
    both_faces = torch.cat([faces, faces + vertices.shape[1]])
    channel = torch.cat([structure, torch.full_like(structure, count)])
    paths = render_mesh(both, both_faces, camera_from_world, camera, channel, check=check)
    return paths[:, :count], paths[:, count:]


@accepts_foreign
def simulate_view(
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    structure: Int[Tensor, "F"],
    world_from_camera: Float[Tensor, "4 4"],
    camera: Camera,
    seed: int,
    exposure: Exposure = Exposure(),
) -> View:
    """An X-ray picture of a bone (world mm) in a body: cortex, interior, soft tissue, gas, blur, noise.

    The body is an ellipsoid around the bone, so the image has air beside it where the field is wide
    enough; the gain and the exponent of the display are random. The same seed gives the same picture.
    The view's image is intensity in [0, 1], bone dark; its pose is the given one.
    """
    rng = np.random.default_rng(seed)
    camera_from_world = se3.inverse(world_from_camera.double())[None]
    points = vertices.double()
    outer, inner = shell_and_interior(
        points[None], faces, camera_from_world, camera, exposure.shell, structure
    )
    bone, interior = outer[0].sum(0), inner[0, 0]
    low, high = points.amin(0), points.amax(0)
    body = _ellipsoid((low + high) / 2, (high - low) / 2 * torch.tensor([1.25, 1.45, 1.9]))
    tissue = render_mesh(body[0][None], body[1], camera_from_world, camera)[0, 0] - bone
    for _ in range(exposure.gas):
        place = torch.from_numpy(rng.uniform(-0.45, 0.45, 3)) * (high - low) + (low + high) / 2
        bubble = _ellipsoid(place, torch.from_numpy(rng.uniform(5, 18, 3)))
        tissue = tissue - render_mesh(bubble[0][None], bubble[1], camera_from_world, camera)[0, 0]
    mu = {m: attenuation_coefficient(m, exposure.energy) for m in ("cortical bone", "trabecular bone", "soft tissue")}
    line = (
        mu["cortical bone"] * (bone - interior)
        + mu["trabecular bone"] * interior
        + mu["soft tissue"] * tissue
    )
    through = gaussian_filter(np.exp(-line.clamp(min=0).numpy()), exposure.blur)
    counts = np.maximum(rng.poisson(exposure.photons * through / np.median(through)), 1)
    # the display: the median at a mid grey, air saturated, exponent unknown
    shown = (0.45 * (counts / np.median(counts)) ** rng.uniform(*exposure.gamma)).clip(0, 1)
    return View(torch.from_numpy(shown.astype(np.float32)), camera, world_from_camera.double())


def _ellipsoid(center: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    return torch.tensor(np.array(sphere.vertices)) * radii + center, torch.tensor(np.array(sphere.faces))
