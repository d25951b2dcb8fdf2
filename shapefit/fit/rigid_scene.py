"""What a registration is about, brought to one resolution; and the poses that it begins with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import trimesh
from jaxtyping import Float, Float64
from torch import Tensor

from shapefit import se3
from shapefit.camera import world_from_view
from shapefit.fit.rigid_descent import Scene, moved
from shapefit.fit.rigid_likeness import seen
from shapefit.fit.rigid_matter import coarser, line_integrals, matter_of, middle, require_met
from shapefit.fit.start import Bone
from shapefit.settings import RegisterSettings
from shapefit.view import View
from shapefit.volume import Volume

SHIFT = 10.0  # mm, a unit step of translation; a unit turn moves matter at the mean distance as far
DEPTH = 30.0  # mm, a unit step along the ray of a single view, which hardly sees it


class Problem(NamedTuple):
    """What stays the same from resolution to resolution."""

    matter: Volume | Bone
    views: list[View]
    camera_from_world: Float64[Tensor, "N 4 4"]
    starts: Float64[Tensor, "S 4 4"]  # world_from_bone; the first gives distances their scale
    centre: Float64[Tensor, "3"]  # of the bone, in its own mm
    radius: float  # mm, mean distance from the centre
    settings: RegisterSettings


def posed_problem(
    matter: Volume | Mapping[str, trimesh.Trimesh],
    views: Sequence[View],
    settings: RegisterSettings,
    init: Float[Tensor, "*starts 4 4"] | None,
) -> Problem:
    """Bone, views and starts on the chosen device; raises ValueError as `register_views` says."""
    if not views:
        raise ValueError("a registration needs at least one view")
    known = [view.world_from_camera is not None for view in views]
    if len(views) > 1 and not all(known):
        raise ValueError(
            f"{known.count(False)} of {len(views)} views have no pose; a bone is placed from several views "
            "only where each has its world_from_camera"
        )
    starts = torch.eye(4, dtype=torch.float64) if init is None else init.detach().cpu().double()
    if not se3.is_rigid(starts):
        raise ValueError("the start world_from_bone is not a rigid motion in mm")
    thing = matter_of(matter, settings.device)
    centre, radius = middle(thing)
    camera_from_world = se3.inverse(torch.stack([
        pose.detach().cpu().double() for pose in poses_of(views, centre, settings)
    ]))  # fmt: skip
    near = [
        replace(view, image=view.image.to(settings.device), valid=view.valid.to(settings.device), mask=None)
        for view in views
    ]
    problem = Problem(thing, near, camera_from_world, starts.reshape(-1, 4, 4), centre, radius, settings)
    problem = problem._replace(starts=_met(problem))
    return problem._replace(
        camera_from_world=camera_from_world.to(settings.device),
        starts=problem.starts.to(settings.device),
        centre=centre.to(settings.device),
    )


def poses_of(
    views: Sequence[View], centre: Float64[Tensor, "3"], settings: RegisterSettings
) -> list[Float[Tensor, "4 4"]]:
    """World_from_camera of each view; where a single one has none, that which the settings expect."""
    return [
        world_from_view(settings.view, centre, settings.depth * float(view.camera.sdd))
        if view.world_from_camera is None
        else view.world_from_camera
        for view in views
    ]


def _met(problem: Problem) -> Float64[Tensor, "S 4 4"]:
    """The starts at which every X-ray meets the bone; raises ValueError, for the first, if there is none."""
    met, missed = [], []
    for start in problem.starts:
        try:
            for view, pose in zip(problem.views, problem.camera_from_world, strict=True):
                require_met(problem.matter, pose @ start, view)
            _require_shadow(problem._replace(starts=start[None]))
            met.append(start)
        except ValueError as error:
            missed.append(error)
    if not met:
        raise missed[0]
    return torch.stack(met)


def scene_at(problem: Problem, pixels: int) -> Scene:
    """The images at `pixels` along their longer side, and voxels about as wide as pixels at the bone."""
    images, matter = [seen(view, pixels) for view in problem.views], problem.matter
    there = se3.transform(problem.camera_from_world @ problem.starts[0], problem.centre[None])[:, 0]
    alone = len(images) == 1
    axes = _ray_axes(problem.camera_from_world[0], there[0]) if alone else torch.eye(3).to(there)
    depths = zip(images, there[:, 2].tolist(), strict=True)
    matter = coarser(matter, min(float(i.camera.delx) * z / float(i.camera.sdd) for i, z in depths))
    turn = SHIFT / problem.radius
    unit = torch.tensor([turn] * 3 + [SHIFT, SHIFT, DEPTH if alone else SHIFT]).to(there)
    return Scene(matter, images, problem.camera_from_world, problem.centre, axes, unit, problem.settings)


def spread(problem: Problem, scene: Scene) -> Float64[Tensor, "S 4 4"]:
    """Poses evenly spread around each start, itself the first: turns and shifts in balls of given radii.

    The starts share `settings.starts` poses evenly, and come one after the other.
    The points are Sobol's (1967) in six dimensions, scrambled by the seed, as far as they lie in both balls.
    """
    settings = problem.settings
    count = around_each(problem)
    sobol = torch.quasirandom.SobolEngine(6, scramble=True, seed=settings.seed)
    chosen = torch.zeros(1, 6, dtype=torch.float64)
    while len(chosen) < count:
        more = 2 * sobol.draw(256, dtype=torch.float64) - 1
        chosen = torch.cat([chosen, more[(more.unflatten(1, (2, 3)).norm(dim=2) <= 1).all(1)]])
    reach = [math.radians(settings.rotation_range)] * 3 + [settings.translation_range] * 3
    twist = (chosen[:count] * torch.tensor(reach, dtype=torch.float64)).to(problem.starts)
    as_it_is = scene._replace(unit=torch.ones(6).to(twist), axes=torch.eye(3).to(twist))
    return moved(as_it_is, problem.starts[:, None].expand(-1, count, 4, 4), twist).flatten(0, 1)


def around_each(problem: Problem) -> int:
    """How many poses are tried around each start."""
    return max(1, problem.settings.starts // len(problem.starts))


def _ray_axes(camera_from_world: Float64[Tensor, "4 4"], there: Float64[Tensor, "3"]) -> Tensor:
    """Columns: two directions across the ray through a point of the camera, and along it, in the world."""
    ray = there / there.norm()
    across = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]).to(ray), ray)
    across = across / across.norm()
    return camera_from_world[:3, :3].T @ torch.stack([across, torch.linalg.cross(ray, across), ray], 1)


@torch.no_grad()
def _require_shadow(problem: Problem) -> None:
    """The box around a bone may meet the image where the bone does not."""
    scene = scene_at(problem, problem.settings.pixels[0])
    for view, image, camera_from_world in zip(
        problem.views, scene.seen, problem.camera_from_world, strict=True
    ):
        pose = (camera_from_world @ problem.starts[0])[None].to(problem.settings.device)
        lines = line_integrals(scene.matter, pose, image.camera, None, problem.settings)
        if not (lines[0] * image.valid.flatten()).any():
            raise ValueError(
                f"{view.name}: the X-ray misses the bone at its start, though the box around it reaches into "
                "the image; check the camera's pose, or give a start"
            )
