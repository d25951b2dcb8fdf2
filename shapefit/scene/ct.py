"""The picture of a CT for scene coordinates: the patient's own matter around the patient's own bone."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from shapefit.camera import Camera
from shapefit.materials import attenuation_coefficient
from shapefit.render.mesh import render_mesh
from shapefit.render.volume import render_volume
from shapefit.scene.neighbours import Surroundings, draw_implants
from shapefit.scene.picture import tissue
from shapefit.settings import SimulateSettings
from shapefit.volume import Volume

BODY = -500.0  # HU from which voxels are of the body, or of the table
AIR = -1000.0  # HU
BEYOND = 120.0  # mm by which a CT's first and last axial slices go on: a body does not end there
PARTS = ("bone", "rest")


@dataclass(frozen=True)
class CTMatter:
    """Shares of water and of cortical bone by volume, in the frame of the bone's model (mm)."""

    water: Volume
    cortex: Volume


def ct_matter(
    ct: Volume,
    bone: Bool[Tensor, "I J K"],
    origin: Float[Tensor, " 3"],
    settings: SimulateSettings,
    padding: float | None = None,
) -> CTMatter:
    """What a CT in HU consists of, as coarse as the settings' pixels; `bone` are the voxels of the bone.

    `origin` (mm, world) is that of the bone's model; `padding` that of `Volume.attenuation`.
    Raises ValueError for values that are not HU and a CT that is empty.
    """
    hu = ct.data.to(torch.float32)
    if padding is not None:
        hu = torch.where(ct.data <= padding, AIR, hu)
    whole = Volume(hu, ct.world_from_voxel, (~bone).to(torch.uint8), PARTS)
    whole = whole.cropped(threshold=BODY)
    pixel = settings.detector[0] * settings.depth / settings.pixels  # mm at the bone, the smallest
    factors = tuple(max(1, round(pixel / float(edge))) for edge in whole.spacing)
    whole = _continued(whole.downsampled(factors, AIR))
    # a voxel around the bone is partly of it
    near = max_pool3d((whole.structure == 0).float()[None], 3, 1, 1)[0] > 0
    place = whole.world_from_voxel.clone()
    place[:3, 3] -= origin.to(place)
    whole = replace(whole, structure=(~near).to(torch.uint8), world_from_voxel=place)
    return CTMatter(*whole.water_and_bone())


def ct_line_integral(
    matter: CTMatter,
    around: Surroundings,
    bone: Float[Tensor, "V 3"],
    camera_from_bone: Float[Tensor, "4 4"],
    camera: Camera,
    empty: bool,
    settings: SimulateSettings,
    rng: np.random.Generator,
) -> Float[np.ndarray, "H W"]:
    """Attenuation along every ray through a CT, perhaps with metal; if `empty`, with water for the bone."""
    step = float(matter.water.spacing.min())
    water, cortex = (
        render_volume(part, camera_from_bone[None], camera, method="raymarch", step=step)[0].double().numpy()
        for part in (matter.water, matter.cortex)
    )
    if empty:
        water[0], cortex[0] = water[0] + cortex[0], 0.0
    energy = rng.uniform(50.0, 85.0)
    densities = {"water": rng.uniform(0.9, 1.1), "cortical bone": rng.uniform(0.85, 1.15)}
    line = np.zeros((camera.height, camera.width))
    for name, paths in zip(densities, (water, cortex), strict=True):
        texture = 1 + 0.5 * tissue(line.shape, rng)  # the CT has much of its own
        line += densities[name] * float(attenuation_coefficient(name, energy)) * texture * paths.sum(0)
    if rng.random() < settings.implants:
        low, high = bone.amin(0), bone.amax(0)
        for part in draw_implants(around, (low + high) / 2, float((high - low).max()), rng):
            metal = str(rng.choice(["titanium", "iron"]))
            length = render_mesh(part.vertices[None], part.faces, camera_from_bone[None], camera)[0, 0]
            line += float(attenuation_coefficient(metal, energy)) * length.double().numpy()
    return line


def _continued(volume: Volume) -> Volume:
    """The volume with its ends towards head and feet continued as they are."""
    matrix = volume.world_from_voxel
    axis = int((matrix[2, :3].abs() / volume.spacing).argmax())
    count = round(BEYOND / float(volume.spacing[axis]))
    ends = [0] * 6
    ends[2 * (2 - axis)] = ends[2 * (2 - axis) + 1] = count
    data, structure = (
        pad(part.float()[None, None], ends, mode="replicate")[0, 0].to(part.dtype)
        for part in (volume.data, volume.structure)
    )
    matrix = matrix.clone()
    matrix[:3, 3] -= count * matrix[:3, axis]
    return Volume(data, matrix, structure, volume.names)
