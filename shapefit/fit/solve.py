"""Shape and pose from X-rays: starts, refined by gradient descent from coarse to fine.

Where the cameras' poses are given, one motion of the bone serves all views; where they are free, every
view has its own and the shape is shared. Many candidates are refined side by side; the better ones go
on to the next stage, on finer images and meshes. They come of a search over views, of what a network saw,
or of the record of an earlier fit.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from shapefit import se3
from shapefit.fit import start
from shapefit.fit.belief import Belief
from shapefit.fit.coarse import coarsened
from shapefit.fit.descent import Candidates, Problem, Stage, best, descend, judge
from shapefit.fit.objective import evidence
from shapefit.fit.prior import meeting_point
from shapefit.fit.result import XRayFit, mask_overlap, verdict
from shapefit.fit.scene_start import SceneStart, apart, belief, candidates_around, doubt
from shapefit.settings import FitSettings
from shapefit.shape_model import ShapeModel
from shapefit.view import IGNORE, View

COARSE_FACES = 1200  # per structure, while starts are searched


def fit_xrays(
    model: ShapeModel,
    views: Sequence[View],
    settings: FitSettings | None = None,
    progress: Callable[[str, float], None] | None = None,
    init: Mapping | SceneStart | None = None,
) -> XRayFit:
    """The shape and pose of a model that best explain one or several X-rays of one bone.

    Views with poses are trusted relative to one another unless `settings.free_views`; then, or where a
    pose is missing, each view's pose is estimated and the world is the model's frame. `init` is the
    record of an earlier fit of the same views, or what a network saw in them: where that is doubtful once
    it is refined, a search over views is made as well, and the better of both goes on, that of the search
    only if the network's covariance allows it. Without `init` the search is all. A fit that does not explain
    the images is returned with `converged=False` and the reason.
    Raises ValueError for no views, a mix of posed and unposed views, masks that name structures beyond the
    model's, and an `init` that does not match.
    """
    began = time.monotonic()
    settings = settings or FitSettings()
    free, masked = _check(model, views, settings)
    few = model.truncate(min(settings.modes, model.modes))
    history: list[dict] = []
    with torch.device(settings.device):
        candidate, terms, begun = _solve(few, views, masked, free, settings, init, progress, history)
    seconds = time.monotonic() - began
    return _result(model, candidate, terms, free, views, settings, history, seconds, begun)


def _solve(
    model: ShapeModel,
    views: Sequence[View],
    masked: Bool[Tensor, "S"],
    free: bool,
    settings: FitSettings,
    init: Mapping | SceneStart | None,
    progress: Callable[[str, float], None] | None,
    history: list[dict],
) -> tuple[Candidates, list[dict[str, float]], dict]:
    """Search and descent on the chosen device; the winner, on the CPU, its terms per view, and its start."""
    report = progress or (lambda text, share: None)
    near = [_view_on(view, settings.device) for view in views]
    camera_from_world = None
    if not free:
        camera_from_world = torch.stack([se3.inverse(v.world_from_camera.double()) for v in near])

    def problem(shapes: ShapeModel, pixels: int) -> Problem:
        seen = [evidence(v, settings, pixels, len(model.names), masked.to(settings.device)) for v in near]
        return Problem(_model_on(shapes, settings.device), seen, camera_from_world, settings)

    fine = problem(model, settings.fine_pixels)
    medium = fine._replace(model=_model_on(coarsened(model, 3 * COARSE_FACES), settings.device))
    _, middle, last = settings.steps
    some = min(5, model.modes)

    def finalist(candidates: Candidates, known: Belief | None = None) -> Candidates:
        expected = medium._replace(belief=known)
        candidates = descend(expected, candidates, Stage("finalists", middle, some, 0.15, 3.0), history)
        return best(expected, candidates, 1)

    def searched() -> Candidates:
        report("searching views", 0.0)
        candidates = _begin(problem(coarsened(model, COARSE_FACES), settings.start_pixels), history)
        report("refining", 0.4)
        return finalist(candidates)

    known = None  # of a network that is believed
    if init is None:
        candidates, begun = searched(), {"kind": "prior"}
    elif isinstance(init, SceneStart):
        report("refining what the network saw", 0.0)
        known = belief(init, model.modes, free, settings)
        candidates = finalist(candidates_around(init, model.modes, len(views), free, settings), known)
        begun = {"kind": "scene", "inlier_share": list(init.inlier_share), "doubt": ""}
        if not init.alone:
            begun["doubt"] = doubt(init.inlier_share, _terms(medium, candidates), settings)
        if begun["doubt"]:
            elsewhere = searched()
            begun["apart"] = apart(init, elsewhere.poses[0], free)
            if begun["apart"] <= settings.stray and _loss(medium, elsewhere) < _loss(medium, candidates):
                candidates, known, begun["kind"] = elsewhere, None, "prior"
    else:
        candidates, begun = finalist(_from_record(init, model, len(views), free)), {"kind": "record"}
    report("fitting shape and pose", 0.6)
    fine = fine._replace(belief=known)
    candidates = descend(fine, candidates, Stage("shape", last, model.modes, 0.1, 2.0, 3), history)
    report("done", 1.0)
    winner = Candidates(candidates.poses.cpu(), candidates.coefficients.cpu())
    return winner, _terms(fine, candidates), begun


@torch.no_grad()
def _loss(problem: Problem, candidates: Candidates) -> float:
    return float(judge(problem, candidates)[0].min())


@torch.no_grad()
def _terms(problem: Problem, candidates: Candidates) -> list[dict[str, float]]:
    """Per view, of the first candidate."""
    _, terms = judge(problem, candidates)
    return [{name: float(value[0]) for name, value in term.items()} for term in terms]


def _view_on(view: View, device: str) -> View:
    tensors = {name: getattr(view, name) for name in ("image", "valid", "mask", "world_from_camera")}
    return replace(view, **{name: t if t is None else t.to(device) for name, t in tensors.items()})


def _model_on(model: ShapeModel, device: str) -> ShapeModel:
    """Single precision: the kernels set up their faces in double by themselves."""
    single = {name: getattr(model, name).to(device, torch.float32) for name in ("mean", "components", "std")}
    return replace(model, **single, faces=model.faces.to(device), structure=model.structure.to(device))


def _check(model: ShapeModel, views: Sequence[View], settings: FitSettings) -> tuple[bool, Bool[Tensor, "S"]]:
    if not views:
        raise ValueError("a fit needs at least one view")
    known = [view.world_from_camera is not None for view in views]
    if not settings.free_views and any(known) and not all(known):
        raise ValueError(
            f"{known.count(False)} of {len(views)} views have no pose; "
            "give it for all, or free them all (--free-views)"
        )
    count, found = len(model.names), set()
    for view in views:
        if view.mask is not None:
            ids = set(view.mask.unique().tolist()) - {0, IGNORE}
            if beyond := sorted(i for i in ids if i > count):
                raise ValueError(
                    f"{view.name}: the mask has labels {beyond}, the model structures 1..{count}"
                )
            found |= ids
    masked = torch.tensor([s + 1 in found for s in range(count)])
    if any(view.mask is not None for view in views) and not found:
        raise ValueError("the masks show none of the model's structures: they hold only background or 255")
    return settings.free_views or not all(known), masked


def _begin(problem: Problem, history: list[dict]) -> Candidates:
    """Candidates worth refining on the fine images.

    Free views begin apart, and the best pose of each joins the others' in one candidate, which has
    the mean of their shapes.
    """
    if problem.camera_from_world is None and len(problem.seen) > 1:
        alone = [problem._replace(seen=[seen]) for seen in problem.seen]
        winners = [best(one, _begin(one, history), 1) for one in alone]
        shape = torch.stack([w.coefficients for w in winners]).mean(0)
        return Candidates(torch.cat([w.poses for w in winners], 1), shape)
    settings = problem.settings
    steps, some = settings.steps[0], min(5, problem.model.modes)
    stage = Stage("starts", steps // 3, some, 0.25)
    candidates = descend(problem, _starts(problem), stage, history)
    candidates = best(problem, candidates, max(1, len(candidates.poses) // 3))
    candidates = descend(problem, candidates, stage._replace(steps=steps - steps // 3, rate=0.2), history)
    return best(problem, candidates, settings.finalists)


def _starts(problem: Problem) -> Candidates:
    """Poses from a search in every view on its own, with the mean shape."""
    settings, model = problem.settings, problem.model
    bone = start.Bone(model.mean, model.faces, model.structure)
    poses = []
    for n, seen in enumerate(problem.seen):
        count = settings.starts // (1 if seen.target is None else 3)  # masks mislead less
        if problem.camera_from_world is None:
            grid = start.unposed(settings, float(seen.camera.sdd))
            poses += [s.camera_from_bone for s in start.search(bone, seen, grid, settings, count)]
        else:
            center = meeting_point(problem.camera_from_world, float(seen.camera.sdd))
            grid = start.posed(problem.camera_from_world[n], center, settings)
            world_from_camera = se3.inverse(problem.camera_from_world[n])
            found = start.search(bone, seen, grid, settings, max(1, count // len(problem.seen)))
            poses += [world_from_camera @ s.camera_from_bone for s in found]
    return Candidates(torch.stack(poses)[:, None], torch.zeros(len(poses), model.modes))


def _from_record(record: Mapping, model: ShapeModel, views: int, free: bool) -> Candidates:
    try:
        coefficients = torch.tensor(record["coefficients"], dtype=torch.float32)[: model.modes]
        world_from_model = torch.tensor(record["world_from_model"], dtype=torch.float64)
        cameras = [torch.tensor(v["world_from_camera"], dtype=torch.float64) for v in record["views"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the start is not the record of a fit: {error!r} is missing or malformed"
        ) from error
    if len(cameras) != views:
        raise ValueError(f"the start has {len(cameras)} views, this fit {views}")
    padded = torch.nn.functional.pad(coefficients, (0, model.modes - len(coefficients)))
    poses = (
        torch.stack([se3.inverse(c) @ world_from_model for c in cameras]) if free else world_from_model[None]
    )
    return Candidates(poses[None], padded[None])


def _result(
    model: ShapeModel,
    candidate: Candidates,
    terms: list[dict[str, float]],
    free: bool,
    views: Sequence[View],
    settings: FitSettings,
    history: list[dict],
    seconds: float,
    begun: dict,
) -> XRayFit:
    poses, few = candidate.poses[0].double(), candidate.coefficients[0].double()
    coefficients = torch.nn.functional.pad(few, (0, model.modes - len(few)))
    if free:
        world_from_model, world_from_camera = torch.eye(4, dtype=torch.float64), se3.inverse(poses)
    else:
        world_from_model = poses[0]
        world_from_camera = torch.stack([view.world_from_camera.double() for view in views])
    vertices = se3.transform(world_from_model, model.instance(coefficients))
    dice = [mask_overlap(model, vertices, c, view) for c, view in zip(world_from_camera, views, strict=True)]
    converged, reason = verdict(terms, dice, vertices, settings)
    return XRayFit(
        coefficients, 1.0, world_from_model, world_from_camera, vertices,
        [term.pop("loss") for term in terms], terms, dice, converged, reason, history, seconds, begun,
    )  # fmt: skip
