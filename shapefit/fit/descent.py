"""The descent: candidates for pose and shape, what they are judged by, and how they move.

A pose moves by tangent steps: a rotation about the bone's own origin and a translation, around a base
that is renewed at every stage. Many candidates move side by side as one batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.fit.belief import Belief
from shapefit.fit.objective import Evidence, agreement, bone_xray, overlap, similarity
from shapefit.fit.prior import departure
from shapefit.losses import coefficient_prior
from shapefit.settings import FitSettings
from shapefit.shape_model import ShapeModel

TURN = 0.1  # rad, a unit step of rotation
SHIFT = 10.0  # mm, a unit step of translation
DEPTH = 30.0  # mm, a unit step along the principal ray, which one view hardly sees
GRADIENT = 0.25  # weight of gradient correlation beside local correlation


class Stage(NamedTuple):
    """One stretch of descent."""

    name: str
    steps: int
    modes: int
    rate: float  # units (see TURN, SHIFT, DEPTH; 1 std of shape) per first step
    temperature: float = 6.0  # mm, of silhouettes
    blur: int = 5  # pixels, of silhouettes


class Candidates(NamedTuple):
    """B guesses. A pose takes the bone to its world, or to each camera where views are free (P = N)."""

    poses: Float[Tensor, "B P 4 4"]
    coefficients: Float[Tensor, "B K"]


class Problem(NamedTuple):
    """What a candidate is judged by, at one resolution of mesh and images."""

    model: ShapeModel
    seen: list[Evidence]
    camera_from_world: Float[Tensor, "N 4 4"] | None  # None: views are free
    settings: FitSettings
    belief: Belief | None = None  # of a network; None: the mean shape, anywhere within the settings' views


def judge(
    problem: Problem, candidates: Candidates, temperature: float = 2.0, blur: int = 3
) -> tuple[Float[Tensor, "B"], list[dict[str, Tensor]]]:
    """Loss of each candidate, and per view its terms."""
    model, settings = problem.model, problem.settings
    vertices = model.instance(candidates.coefficients)
    total, terms = torch.zeros(len(vertices)), []
    for n, seen in enumerate(problem.seen):
        if problem.camera_from_world is None:
            pose = candidates.poses[:, n]
        else:
            pose = problem.camera_from_world[n] @ candidates.poses[:, 0]
        attenuation, paths = bone_xray(
            vertices, model.faces, model.structure, pose.to(vertices.dtype), seen.camera,
            settings.shell, settings.interior,
        )  # fmt: skip
        term = similarity(attenuation, seen)
        loss = 1 - term["local"] - GRADIENT * term["gradient"]
        if seen.target is not None:
            term["overlap"] = overlap(paths, seen, temperature, blur)
            loss = (1 - term["overlap"]) + settings.image_weight * loss
        if not torch.is_grad_enabled():
            term["agreement"] = agreement(attenuation, seen)
        terms.append(term | {"loss": loss})
        total = total + loss
    masked = any(seen.target is not None for seen in problem.seen)
    weight = settings.mask_prior_weight if masked else settings.prior_weight
    sdd = float(problem.seen[0].camera.sdd)
    expected = coefficient_prior(candidates.coefficients)
    if problem.belief is not None:  # which has the shape's prior in it
        surprise = problem.belief.surprise(candidates.poses, candidates.coefficients)
        expected = torch.lerp(expected, surprise.to(expected), settings.belief)
    prior = weight * expected + departure(candidates.poses, problem.camera_from_world, sdd, settings)
    return (total + prior) / len(problem.seen), terms


def descend(problem: Problem, candidates: Candidates, stage: Stage, history: list[dict]) -> Candidates:
    """Adam with a cosine schedule (Kingma & Ba 2015) on tangent steps and the first `stage.modes` modes."""
    batch, count = candidates.poses.shape[:2]
    step = torch.zeros(batch, count, 6, requires_grad=True)
    shape = candidates.coefficients[:, : stage.modes].clone().requires_grad_()
    rest = candidates.coefficients[:, stage.modes :]
    free = problem.camera_from_world is None

    def moved() -> Candidates:
        return Candidates(stepped(candidates.poses, step, free), torch.cat([shape, rest], 1))

    optimizer = torch.optim.Adam([step, shape], lr=stage.rate, betas=(0.8, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.steps, eta_min=0.05 * stage.rate)
    for k in range(stage.steps):
        optimizer.zero_grad()
        loss, _ = judge(problem, moved(), stage.temperature, stage.blur)
        loss.sum().backward()
        history.append({"stage": stage.name, "step": k, "loss": float(loss.detach().min())})
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return moved()


def stepped(
    poses: Float[Tensor, "B P 4 4"], step: Float[Tensor, "B P 6"], free: bool
) -> Float[Tensor, "B P 4 4"]:
    """Turn the bone about its own origin and shift it along the axes of the camera (free views) or world.

    Steps are counted in TURN, SHIFT and, along the principal ray of a free view, DEPTH.
    """
    twist = step * torch.tensor([TURN] * 3 + [SHIFT, SHIFT, DEPTH if free else SHIFT]).to(step)
    turned = poses @ se3.exp(torch.cat([twist[..., :3], torch.zeros_like(twist[..., 3:])], -1).to(poses))
    shift = torch.nn.functional.pad(twist[..., 3:, None], (3, 0, 0, 1)).to(poses)
    return turned + shift


@torch.no_grad()
def best(problem: Problem, candidates: Candidates, count: int) -> Candidates:
    """The `count` candidates of least loss, best first."""
    loss, _ = judge(problem, candidates)
    keep = loss.argsort()[:count]
    return Candidates(candidates.poses[keep], candidates.coefficients[keep])
