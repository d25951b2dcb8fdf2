"""Simulated X-rays with known scene coordinates: one function of a prepared source and a number.

Sample i is drawn from a generator seeded with (seed, i) alone, whatever else is simulated, and where.
Bones are a shell around an interior, in an ellipsoid of soft tissue with gas, beside their neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from shapefit.camera import Camera
from shapefit.fit.coarse import coarsened
from shapefit.materials import attenuation_coefficient
from shapefit.render.coordinates import SurfaceValues, render_coordinates
from shapefit.render.xray import Bone, material_paths
from shapefit.scene.ct import CTMatter, ct_line_integral
from shapefit.scene.neighbours import Part, Surroundings, draw_implants, draw_neighbours, surroundings
from shapefit.scene.picture import draw_picture, tissue
from shapefit.scene.sample import Sample
from shapefit.scene.views import draw_camera, draw_visible_pose
from shapefit.settings import SimulateSettings
from shapefit.shape_model import ShapeModel

BUMPS = 20  # centres of the smooth deformation


@dataclass(frozen=True)
class Stage:
    """What X-rays are simulated of, prepared once: shapes of a model, or given ones."""

    model: ShapeModel  # simplified; its mean is the template
    around: Surroundings
    shapes: Float[Tensor, "N V 3"] | None = None  # mm, bones that are drawn in turn, instead of random ones
    coefficients: Float[Tensor, "N K"] | None = None  # of these
    ct: CTMatter | None = None  # of the one bone; pictures are then of it
    spheres: tuple[Part, Part] = field(default_factory=lambda: (_sphere(3), _sphere(2)))


def stage_of_model(model: ShapeModel, settings: SimulateSettings) -> Stage:
    """Random shapes of a model, whose mean is the template. A model without modes is one bone."""
    few = coarsened(model, settings.faces) if settings.faces else model
    return Stage(few, surroundings(few))


def stage_of_shapes(model: ShapeModel, shapes: Float[Tensor, "N V 3"], settings: SimulateSettings) -> Stage:
    """Given shapes (mm, model frame) in correspondence with a model; sample i shows shape i modulo N."""
    offsets = shapes.to(model.mean) - model.mean
    std, none = torch.ones(len(shapes)).to(model.mean), model.mean.new_zeros(0, len(shapes))
    carried = replace(model, components=offsets, std=std, scores=none, cases=())
    few = coarsened(carried, settings.faces) if settings.faces else carried
    bones = few.mean + few.components
    coefficients = torch.stack([model.coefficients(shape) for shape in shapes])
    return Stage(few, surroundings(few), bones, coefficients)


def simulate_sample(stage: Stage, index: int, settings: SimulateSettings, device: str = "cpu") -> Sample:
    """Sample `index` of the set that (settings.seed, settings, stage) define.

    Rays through meshes are followed on `device`; the sample lies on the CPU. Another device rounds otherwise.
    Raises ValueError for a negative number and where the prior of views does not show the bone.
    """
    rng = np.random.default_rng([settings.seed, index])
    model = stage.model
    bone, coefficients = _bone(stage, index, settings, rng)
    camera = draw_camera(settings, rng)
    pose = draw_visible_pose(bone, camera, settings, rng)
    empty = bool(rng.random() < settings.empty)
    mesh = (bone[None], model.faces, pose[None], model.mean, model.structure)
    vertices, faces, placed, template, structure = (part.to(device) for part in mesh)
    seen = render_coordinates(vertices, faces, placed, camera, template, structure, len(model.names))
    seen = SurfaceValues(*(value.cpu() for value in seen))
    if stage.ct is None:
        line = _line_integral(stage, bone, pose, camera, empty, settings, rng, device)
    else:
        line = ct_line_integral(stage.ct, stage.around, bone, pose, camera, empty, settings, rng)
    image, drawn = draw_picture(line, settings, rng)
    if empty:
        seen = SurfaceValues(*(torch.zeros_like(value) for value in seen))
    return Sample(
        torch.from_numpy(image), seen.entry[0].float(), seen.exit[0].float(), seen.hit[0],
        camera, pose, coefficients, {"empty": empty, **drawn},
    )  # fmt: skip


def _bone(
    stage: Stage, index: int, settings: SimulateSettings, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Vertices (mm, about the bone's origin) and coefficients: given, or drawn from the model and bent."""
    model = stage.model
    if stage.shapes is not None:
        assert stage.coefficients is not None
        return stage.shapes[index % len(stage.shapes)], stage.coefficients[index % len(stage.shapes)]
    coefficients = torch.from_numpy(rng.normal(size=model.modes).clip(-3, 3))
    bone = model.instance(coefficients)
    # smooth bumps, which the modes do not hold
    centres = bone[torch.from_numpy(rng.integers(len(bone), size=BUMPS))]
    pushes = torch.from_numpy(rng.normal(size=(BUMPS, 3)))
    squares = (bone[:, None] - centres).square().sum(-1)
    bump = torch.exp(-0.5 * squares / settings.deformation_width**2) @ pushes
    size = settings.deformation * rng.uniform() * (model.modes > 0)
    return bone + bump * size / bump.norm(dim=1).mean().clamp(min=1e-9), coefficients


def _line_integral(
    stage: Stage,
    bone: Tensor,
    pose: Tensor,
    camera: Camera,
    empty: bool,
    settings: SimulateSettings,
    rng: np.random.Generator,
    device: str,
) -> Float[np.ndarray, "H W"]:
    """Attenuation along every ray, of bones in a body with gas, neighbours and perhaps metal."""
    model = stage.model
    low, high = bone.amin(0), bone.amax(0)
    middle, extent = (low + high) / 2, float((high - low).max())
    ball, bubble = stage.spheres
    parts: list[Part] = []
    materials: list[str | Bone] = [] if empty else [Bone(rng.uniform(0.8, 2.6))] * len(model.names)
    if rng.random() < settings.neighbours:
        near = draw_neighbours(stage.around, middle, extent, rng)
        parts += near
        materials += [Bone(rng.uniform(0.8, 2.6))] * len(near)
    if rng.random() < settings.implants:
        metal = draw_implants(stage.around, middle, extent, rng)
        parts += metal
        materials += [str(rng.choice(["titanium", "iron"]))] * len(metal)
    gas = _gas(bubble, middle, high - low, rng)
    body = len(materials) + len(gas)
    radii = (high - low) / 2 * torch.from_numpy(rng.uniform([1.05, 1.0, 1.6], [1.7, 1.5, 2.6]))
    shift = torch.from_numpy(rng.normal(0, 0.06, 3)) * (high - low)
    parts += [*gas, Part(ball.vertices * radii + middle + shift, ball.faces)]
    materials += ["air"] * len(gas) + ["soft tissue"]
    scene = [] if empty else [(bone, model.faces, model.structure)]
    joined = _joined(scene + [(*part, torch.zeros_like(part.faces[:, 0])) for part in parts])
    vertices, faces, structure = (part.to(device) for part in joined)
    paths, names = material_paths(
        vertices[None].float(), faces, pose[None].float().to(device), camera, structure, materials,
        [body] * body + [-1],
    )  # fmt: skip
    energy = rng.uniform(50.0, 85.0)
    line = np.zeros((camera.height, camera.width))
    for name, length in zip(names, paths[0].double().cpu().numpy(), strict=True):
        density = rng.uniform(*_DENSITIES.get(name, (1.0, 1.0)))
        texture = 1 + (tissue(line.shape, rng) if name != "air" else 0)
        line += density * float(attenuation_coefficient(name, energy)) * texture * length
    return line


_DENSITIES = {  # against the tabulated ones
    "cortical bone": (0.6, 1.15),
    "trabecular bone": (0.85, 1.2),
    "soft tissue": (0.75, 1.0),
}


def _gas(bubble: Part, middle: Tensor, size: Tensor, rng: np.random.Generator) -> list[Part]:
    """Bubbles of bowel gas: some small ones, and now and then a filled rectum or colon."""
    parts = []
    for _ in range(int(rng.integers(0, 9))):
        radius = rng.uniform(4, 16) if rng.random() < 0.75 else rng.uniform(14, 40)
        place = middle + torch.from_numpy(rng.uniform([-0.4, -0.35, -0.6], [0.4, 0.35, 0.7])) * size
        stretch = torch.from_numpy(rng.uniform(0.6, 1.4, 3))
        parts.append(Part(bubble.vertices * radius * stretch + place, bubble.faces))
    return parts


def _joined(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, faces and structures of meshes with structures of their own, numbered on."""
    vertices, faces, structure, points, count = [], [], [], 0, 0
    for more, more_faces, more_structure in parts:
        vertices.append(more)
        faces.append(more_faces + points)
        structure.append(more_structure + count)
        points, count = points + len(more), count + int(more_structure.max()) + 1
    return torch.cat(vertices), torch.cat(faces), torch.cat(structure)


def _sphere(subdivisions: int) -> Part:
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    return Part(torch.tensor(np.array(sphere.vertices)), torch.tensor(np.array(sphere.faces)))
