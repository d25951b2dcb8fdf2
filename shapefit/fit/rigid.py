"""The rigid pose of a known bone or CT from X-rays: many starts on coarse images, the best on fine ones."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import trimesh
from jaxtyping import Float, Float64
from torch import Tensor

from shapefit import se3
from shapefit.fit.rigid_descent import Scene, drawn, losses, polish
from shapefit.fit.rigid_likeness import agreement
from shapefit.fit.rigid_matter import line_integrals
from shapefit.fit.rigid_scene import Problem, posed_problem, scene_at, spread
from shapefit.settings import RegisterSettings
from shapefit.view import View
from shapefit.volume import Volume

STAGES = ("coarse", "middle", "fine")
TOGETHER = 64  # poses judged at a time


@dataclass(frozen=True)
class RigidFit:
    """The rigid pose of a bone or CT found in X-rays. Poses in mm, RAS."""

    world_from_bone: Float64[Tensor, "4 4"]
    world_from_camera: Float64[Tensor, "N 4 4"]  # as given; for one view without a pose, that assumed
    losses: list[float]  # per view, on the whole fine image: 0 for a perfect match, about 1 without likeness
    terms: list[dict[str, float]]  # per view: "agreement", by which it is accepted
    converged: bool
    reason: str  # why, in words
    history: list[dict]  # stage, step, loss, and the best candidate's pose: world_from_bone as rows
    candidates: list[dict]  # the finalists: start, loss on the whole fine image, world_from_bone; best first
    seconds: float


def register_views(
    matter: Volume | Mapping[str, trimesh.Trimesh],
    views: Sequence[View],
    settings: RegisterSettings | None = None,
    progress: Callable[[str, float], None] | None = None,
    init: Float[Tensor, "4 4"] | None = None,
) -> RigidFit:
    """The pose world_from_bone at which a CT (attenuation, 1/mm) or closed meshes (mm) explain X-rays best.

    Every view has a pose `world_from_camera`, unless there is only one: then the world is the bone's own
    frame, with the camera placed as `settings.view` says. The search begins at `init` (the identity if
    absent: the bone lies where its file's coordinates say) and looks within `settings.translation_range` and
    `settings.rotation_range` of it. A registration that does not explain the images is returned with
    `converged=False` and the reason. Raises ValueError for no views, views without a pose beside others, a CT
    in Hounsfield units or empty, meshes that are open, an `init` that is not rigid, and a bone that an
    X-ray misses at its start.
    Method: starts spread by Sobol's sequence are judged by the correlation of values and slopes in patches of
    the coarse images; the best descend side by side by damped Gauss-Newton steps, the better of them go on
    to finer images, with rays at random patches alone until the winner is known.
    """
    began = time.monotonic()
    settings = settings or RegisterSettings()
    report = progress or (lambda text, share: None)
    report("preparing", 0.0)
    problem = posed_problem(matter, views, settings, init)
    generator = torch.Generator().manual_seed(settings.seed)
    history: list[dict] = []
    scene = scene_at(problem, settings.pixels[0])
    poses = spread(problem, scene)
    order = torch.arange(len(poses))
    everyone, started = poses, order
    for n, name in enumerate(STAGES):
        report(f"{name} images", (0.05, 0.4, 0.7)[n])
        scene = scene_at(problem, settings.pixels[n])
        count = (*settings.finalists, 1)[n]
        keep = _judged(scene, poses).argsort()[:count]
        poses, order = poses[keep], order[keep.cpu()]
        if n == 1:
            everyone, started = poses, order
        track: list[tuple[float, Tensor]] = []
        compared = drawn(scene, settings.rays[n], generator)
        poses, _ = polish(scene, poses, settings.steps[n], compared, track)
        history += [
            {"stage": name, "step": k, "loss": loss, "world_from_bone": pose.tolist()}
            for k, (loss, pose) in enumerate(track)
        ]
        if n == 1:
            everyone = poses
    others = started != order[0]
    candidates = _candidates(
        scene, torch.cat([poses, everyone[others.to(poses.device)]]), torch.cat([order, started[others]])
    )
    report("done", 1.0)
    return _result(problem, scene, poses[0], history, candidates, time.monotonic() - began)


@torch.no_grad()
def likeness(
    matter: Volume | Mapping[str, trimesh.Trimesh],
    views: Sequence[View],
    poses: Float[Tensor, "B 4 4"],
    settings: RegisterSettings | None = None,
    pixels: int = 128,
) -> Float[Tensor, "B"]:
    """The loss that `register_views` descends, mean over the views, at poses world_from_bone.

    The images have `pixels` pixels along their longer side and are compared as a whole: 0 is a perfect match,
    about 1 none at all. The errors are those of `register_views`, with the first pose as the start.
    """
    problem = posed_problem(matter, views, settings or RegisterSettings(), poses[0])
    scene = scene_at(problem, pixels)
    return _judged(scene, poses.double().to(problem.start.device)).float().cpu()


@torch.no_grad()
def _judged(scene: Scene, poses: Float64[Tensor, "B 4 4"]) -> Float[Tensor, "B"]:
    compared = drawn(scene, 0, None)
    return torch.cat([losses(scene, some, compared).mean(1) for some in poses.split(TOGETHER)])


def _candidates(scene: Scene, poses: Float64[Tensor, "B 4 4"], starts: Tensor) -> list[dict]:
    loss = _judged(scene, poses)
    return [
        {"start": int(starts[k]), "loss": float(loss[k]), "world_from_bone": poses[k].tolist()}
        for k in loss.argsort().tolist()
    ]


@torch.no_grad()
def _result(
    problem: Problem,
    scene: Scene,
    pose: Float64[Tensor, "4 4"],
    history: list[dict],
    candidates: list[dict],
    seconds: float,
) -> RigidFit:
    settings, compared, terms = scene.settings, drawn(scene, 0, None), []
    loss = losses(scene, pose[None], compared)[0]
    for image, camera_from_world, part in zip(scene.seen, scene.camera_from_world, compared, strict=True):
        there = (camera_from_world @ pose)[None]
        lines = line_integrals(scene.matter, there, image.camera, part.pixels.flatten(), settings)
        terms.append({"agreement": agreement(lines.view(part.pixels.shape), part, settings.gradient_weight)})
    converged, reason = _verdict(problem, pose, [term["agreement"] for term in terms])
    return RigidFit(
        pose.cpu(), se3.inverse(scene.camera_from_world).cpu(), [float(x) for x in loss], terms,
        converged, reason, history, candidates, seconds,
    )  # fmt: skip


def _verdict(problem: Problem, pose: Float64[Tensor, "4 4"], agreements: Sequence[float]) -> tuple[bool, str]:
    """Whether a pose is believed, and why: by its agreement with the images, mean over the views."""
    settings, mean = problem.settings, sum(agreements) / len(agreements)
    if not (torch.isfinite(pose).all() and math.isfinite(mean)):
        return False, "the descent left the finite numbers"
    good = mean >= settings.accept
    reason = (
        f"mean correlation in patches that show bone {mean:.3f}, "
        f"{'at least' if good else 'below'} {settings.accept:g}"
    )
    return good, reason
