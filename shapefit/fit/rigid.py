"""The rigid pose of a known bone or CT from X-rays: many starts on coarse images, the best on fine ones."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import trimesh
from jaxtyping import Float, Float64
from torch import Tensor

from shapefit import se3
from shapefit.fit.belief import Belief
from shapefit.fit.rigid_descent import Scene, costs, descend, drawn
from shapefit.fit.rigid_likeness import Patches, agreement, features
from shapefit.fit.rigid_matter import line_integrals
from shapefit.fit.rigid_scene import Problem, around_each, posed_problem, scene_at, spread
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
    candidates: list[dict]  # winner and finalists: start, loss on fine patches, world_from_bone; best first
    seconds: float
    start: Float64[Tensor, "4 4"] | None = None  # of those given, that from whose surroundings the pose came
    apart: float | None = None  # standard deviations from where a network saw the bone, if one did


def register_views(
    matter: Volume | Mapping[str, trimesh.Trimesh],
    views: Sequence[View],
    settings: RegisterSettings | None = None,
    progress: Callable[[str, float], None] | None = None,
    init: Float[Tensor, "*starts 4 4"] | None = None,
    belief: Belief | None = None,
) -> RigidFit:
    """The pose world_from_bone at which a CT (attenuation, 1/mm) or closed meshes (mm) explain X-rays best.

    Every view has a pose `world_from_camera`, unless there is only one: then the world is the bone's own
    frame, with the camera placed as `settings.view` says. The search begins at `init` (the identity if
    absent: the bone lies where its file's coordinates say) and looks within `settings.translation_range` and
    `settings.rotation_range` of it; several of them share the `settings.starts`, and those at which an X-ray
    misses the bone are left out. `belief` says where a network saw the bone, and how surely
    (`rigid_belief`), which then counts too; that is the first start, and what others lead to is taken only if
    it explains the images. A registration that does not explain the images is returned with
    `converged=False` and the reason. Raises ValueError for no views, views without a pose beside others, a CT
    in Hounsfield units or empty, meshes that are open, an `init` that is not rigid, and a bone that an
    X-ray misses at its start (at each of them).
    Method: starts spread by Sobol's sequence are judged by the correlation of values and slopes in patches of
    the coarse images; the best descend side by side, by exact gradients in the metric of Gauss and Newton,
    and the better of them go on to finer images, where only rays of random patches are drawn.
    """
    began = time.monotonic()
    settings = settings or RegisterSettings()
    report = progress or (lambda text, share: None)
    report("preparing", 0.0)
    problem = posed_problem(matter, views, settings, init)
    if belief is None:
        return _search(problem, None, report, began)
    belief = Belief(*(part.to(problem.starts) for part in belief))
    found = _search(problem, belief, report, began)
    first = problem.starts[0].cpu()
    seen = init is not None and torch.equal(first, init.detach().cpu().double().reshape(-1, 4, 4)[0])
    if found.converged or not seen or torch.equal(first, found.start):
        return found
    return _search(problem._replace(starts=problem.starts[:1]), belief, report, began)


def _search(
    problem: Problem, belief: Belief | None, report: Callable[[str, float], None], began: float
) -> RigidFit:
    """From many poses around the starts to one, from coarse images to fine ones."""
    settings = problem.settings
    generator = torch.Generator().manual_seed(settings.seed)
    history: list[dict] = []
    scene = scene_at(problem, settings.pixels[0])
    poses = spread(problem, scene)
    order, fallen, fallen_order = torch.arange(len(poses)), poses[:0], torch.arange(0)
    for n, name in enumerate(STAGES):
        report(f"{name} images", (0.05, 0.35, 0.6)[n])
        how = settings if name == STAGES[-1] else replace(settings, method="raymarch")
        scene = scene_at(problem, settings.pixels[n])._replace(settings=how, belief=belief)
        compared = drawn(scene, settings.rays[n], generator)
        rank = _judged(scene, poses, compared).argsort()
        keep, rest = rank.split([count := min(len(rank), (*settings.finalists, 1)[n]), len(rank) - count])
        if n > 0:
            fallen, fallen_order = (
                torch.cat([fallen, poses[rest]]),
                torch.cat([fallen_order, order[rest.cpu()]]),
            )
        track: list[tuple[float, Tensor]] = []
        poses, order = descend(scene, poses[keep], settings.steps[n], compared, track)[0], order[keep.cpu()]
        history += [
            {"stage": name, "step": k, "loss": loss, "world_from_bone": pose.tolist()}
            for k, (loss, pose) in enumerate(track)
        ]
    candidates = _candidates(scene, torch.cat([poses, fallen]), torch.cat([order, fallen_order]), compared)
    report("done", 1.0)
    start = problem.starts[int(order[0]) // around_each(problem)].cpu()
    return _result(problem, scene, poses[0], history, candidates, time.monotonic() - began, start)


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
    return _judged(scene, poses.double().to(problem.starts.device), drawn(scene, 0)).float().cpu()


@torch.no_grad()
def _judged(scene: Scene, poses: Float64[Tensor, "B 4 4"], compared: list[Patches]) -> Float[Tensor, "B"]:
    return torch.cat([costs(scene, some, compared).float() for some in poses.split(TOGETHER)])


def _candidates(
    scene: Scene, poses: Float64[Tensor, "B 4 4"], starts: Tensor, compared: list[Patches]
) -> list[dict]:
    loss = _judged(scene, poses, compared)
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
    start: Float64[Tensor, "4 4"],
) -> RigidFit:
    settings, loss, terms = scene.settings, [], []
    for image, camera_from_world, part in zip(
        scene.seen, scene.camera_from_world, drawn(scene, 0), strict=True
    ):
        there = (camera_from_world @ pose)[None]
        lines = line_integrals(scene.matter, there, image.camera, part.pixels.flatten(), settings)
        values = lines.view(1, *part.pixels.shape)
        own = features(values, part.valid, settings.gradient_weight)[0]
        loss.append(float(1 - own @ part.features))
        terms.append({"agreement": agreement(values[0], part, settings.gradient_weight)})
    apart = None if scene.belief is None else _apart(scene.belief, pose)
    converged, reason = _verdict(problem, pose, [term["agreement"] for term in terms], apart)
    return RigidFit(
        pose.cpu(), se3.inverse(scene.camera_from_world).cpu(), loss, terms,
        converged, reason, history, candidates, seconds, start, apart,
    )  # fmt: skip


def _apart(belief: Belief, pose: Float64[Tensor, "4 4"]) -> float:
    return float(belief.squared(belief.away(pose[None, None], pose.new_zeros(1, 0)))[0].sqrt())


def _verdict(
    problem: Problem, pose: Float64[Tensor, "4 4"], agreements: Sequence[float], apart: float | None
) -> tuple[bool, str]:
    """Whether a pose is believed, and why: by its agreement with the images, mean over the views.

    Less of it is enough near where a network saw the bone, `apart` standard deviations from there.
    """
    settings, mean = problem.settings, sum(agreements) / len(agreements)
    if not (torch.isfinite(pose).all() and math.isfinite(mean)):
        return False, "the descent left the finite numbers"
    seen = apart is not None and apart <= settings.near
    least = min(settings.accept, settings.accept_near) if seen else settings.accept
    good = mean >= least
    reason = (
        f"mean correlation in patches that show bone {mean:.3f}, {'at least' if good else 'below'} {least:g}"
    )
    if apart is None or (good and mean >= settings.accept):
        return good, reason
    return good, f"{reason}; {apart:.1f} standard deviations from where a network saw the bone"
