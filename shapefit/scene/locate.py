"""Where the bone is in X-rays, and what shape it has, from what a scene-coordinate network sees in them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.mesh import SurfaceTree, surface_tree
from shapefit.scene import pnp
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.located import Located, absence, bone_in_words, judge, shadow_overlap
from shapefit.scene.look import look
from shapefit.scene.network import SceneNetwork
from shapefit.scene.shadow import Mask, match_shadows
from shapefit.scene.solve import Carried, Sight, carry, solve
from shapefit.settings import LocateSettings
from shapefit.shape_model import ShapeModel
from shapefit.view import View


class Template(NamedTuple):
    """The surface whose points scene coordinates are."""

    vertices: Float[Tensor, "V 3"]  # mm, model frame
    faces: Int[Tensor, "F 3"]
    structures: tuple[str, ...]
    tree: SurfaceTree


class Look(NamedTuple):
    """What is seen in a view, as `network.look` gives it."""

    seen: Coordinates  # B = 1
    camera: Camera  # of these pixels
    valid: Bool[Tensor, "h w"]
    world_from_camera: Float[Tensor, "4 4"] | None  # None: to be estimated
    name: str = "view"


def template_surface(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], structures: Sequence[str]
) -> Template:
    """A template (mm, model frame) made ready for looks to refer to."""
    vertices = vertices.detach().cpu().double()
    return Template(vertices, faces.cpu(), tuple(structures), surface_tree(vertices, faces))


@lru_cache(maxsize=2)  # the tree takes as long as all the rest, and a network's template does not change
def _template_of(network: SceneNetwork) -> Template:
    return template_surface(network.template, network.faces, network.structures)


def locate_views(
    network: SceneNetwork, model: ShapeModel, views: Sequence[View], settings: LocateSettings | None = None
) -> Located:
    """Pose and shape of the bone in one or several X-rays of it, from scene coordinates alone.

    Views with poses are trusted relative to one another unless `settings.free_views`; then, or where no
    pose is given, each view's pose is estimated and the world is the model's frame. The answer may be that
    there is no bone, or none that enough pixels agree on: then `found` is False, and `reason` says why.
    Raises ValueError for no views, a mix of posed and unposed views, and a model of another mesh.
    """
    settings = settings or LocateSettings()
    looks = []
    for view in views:
        seen, camera = look(network, view, settings.looks)
        share = interpolate(view.valid.float()[None, None], (camera.height, camera.width), mode="area")
        pose = None if settings.free_views else view.world_from_camera
        looks.append(Look(seen, camera, share[0, 0] >= 0.5, pose, view.name))
    return locate_looks(_template_of(network), model, looks, settings)


def locate_looks(
    template: Template, model: ShapeModel, looks: Sequence[Look], settings: LocateSettings | None = None
) -> Located:
    """As `locate_views`, from scene coordinates that are there already."""
    settings = settings or LocateSettings()
    posed = _check(template, model, looks)
    bone = bone_in_words(template.structures)
    covered = [pnp.covered_pixels(one.seen, settings.structure_threshold, one.valid) for one in looks]
    shows = [
        bool(here.sum() >= max(1.0, settings.least_area * float(one.valid.sum())))
        for here, one in zip(covered, looks, strict=True)
    ]
    if not any(shows) or not (posed or all(shows)):
        return _nowhere(model, looks, covered, absence(bone, shows, [one.name for one in looks]), settings)
    used = [(one, here) for one, here, there in zip(looks, covered, shows, strict=True) if there]
    modes = min(settings.modes, model.modes)
    carried = []
    for one, here in used:
        found = pnp.votes(one.seen, here, settings.correspondences)
        carried.append(carry(found, model, template.tree, template.vertices, modes))
    near = [one for one, _ in used]
    poses = _begin(carried, near, posed, settings)
    if poses is None:
        reason = f"too few inliers: no pose explains where the {bone} seems to be"
        return _nowhere(model, looks, covered, reason, settings)
    sights = [
        _sight(one, votes, poses, 0 if posed else number, template.vertices, settings)
        for number, (one, votes) in enumerate(zip(near, carried, strict=True))
    ]
    solution = solve(sights, poses, model.mean.double().mean(0), settings)
    if settings.shadow > 0:
        masks = [Mask(one.seen.structures[0], template.structures, one.valid) for one in near]
        solution = match_shadows(sights, masks, solution, model, settings)
    rest = model.modes - modes
    coefficients = torch.nn.functional.pad(solution.coefficients, (0, rest))
    instance = model.instance(coefficients)
    overlaps = [
        shadow_overlap(
            here,
            one.valid,
            one.camera,
            sight.camera_from_world @ solution.poses[sight.pose],
            instance,
            model.faces,
        )
        for (one, here), sight in zip(used, sights, strict=True)
    ]
    judgement = judge(sights, solution, overlaps, bone, [one.name for one in near], posed, settings)
    covariance = torch.block_diag(solution.covariance, torch.eye(rest, dtype=torch.float64))
    world_from_model = solution.poses[0] if posed else torch.eye(4, dtype=torch.float64)
    world_from_camera = _given(looks) if posed else se3.inverse(solution.poses)
    told = iter(zip(judgement.inlier_share, solution.excess, strict=True))
    shares, excess = zip(*(next(told) if there else (0.0, 1.0) for there in shows), strict=True)
    return Located(
        coefficients, world_from_model, world_from_camera,
        se3.transform(world_from_model, instance), covariance,
        list(shares), judgement.found, judgement.reason, list(excess),
        [one.seen for one in looks], [one.camera for one in looks], covered, posed,
    )  # fmt: skip


def _check(template: Template, model: ShapeModel, looks: Sequence[Look]) -> bool:
    """Whether the views' poses are given. Raises ValueError for what `locate_views` refuses."""
    if not looks:
        raise ValueError("locating a bone needs at least one view")
    known = [one.world_from_camera is not None for one in looks]
    if any(known) and not all(known):
        raise ValueError(
            f"{known.count(False)} of {len(looks)} views have no pose; "
            "give it for all, or free them all (--free-views)"
        )
    same = model.faces.shape == template.faces.shape and torch.equal(model.faces, template.faces)
    if not same or len(model.mean) != len(template.vertices):
        raise ValueError(
            f"the model's mesh ({len(model.mean)} vertices, {len(model.faces)} faces) is not the network's "
            f"({len(template.vertices)}, {len(template.faces)}); take the model that the network was "
            "trained on, or another of its template"
        )
    return all(known)


def _given(looks: Sequence[Look]) -> Float[Tensor, "N 4 4"]:
    return torch.stack([one.world_from_camera.double() for one in looks if one.world_from_camera is not None])


def _begin(
    carried: Sequence[Carried], looks: Sequence[Look], posed: bool, settings: LocateSettings
) -> Float[Tensor, "P 4 4"] | None:
    """Poses of the mean shape that most votes agree on: one in all for posed views, else one of each."""
    found = [one.votes._replace(point=one.point) for one in carried]
    cameras = [one.camera for one in looks]
    if posed and len(looks) > 1:
        motion = pnp.consensus_motion(found, cameras, list(se3.inverse(_given(looks))), settings)
        return None if motion is None else motion[None]
    alone = [pnp.consensus_pose(one, camera, settings) for one, camera in zip(found, cameras, strict=True)]
    poses = [pose for pose in alone if pose is not None]
    if len(poses) < len(looks):
        return None
    return _given(looks) @ torch.stack(poses) if posed else torch.stack(poses)


def _sight(
    one: Look,
    carried: Carried,
    poses: Float[Tensor, "P 4 4"],
    number: int,
    vertices: Float[Tensor, "V 3"],
    settings: LocateSettings,
) -> Sight:
    given = one.world_from_camera
    camera_from_world = torch.eye(4, dtype=torch.float64) if given is None else se3.inverse(given.double())
    # half of the bone has half of its independent parts
    column, row = one.camera.project(camera_from_world @ poses[number], vertices).T
    inside = (column >= 0) & (column <= one.camera.width - 1) & (row >= 0) & (row <= one.camera.height - 1)
    worth = max(1.0, settings.independent * float(inside.double().mean()))
    return Sight(carried, one.camera, camera_from_world, number, min(worth, float(len(carried.votes.std))))


def _nowhere(
    model: ShapeModel,
    looks: Sequence[Look],
    covered: list[Bool[Tensor, "h w"]],
    reason: str,
    settings: LocateSettings,
) -> Located:
    """No pose at all: the mean shape, where it would be expected, with no certainty."""
    posed = looks[0].world_from_camera is not None
    origin, eye = torch.zeros(3, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    expected = [world_from_view("ap", origin, settings.depth * float(one.camera.sdd)) for one in looks]
    poses = 6 * (1 if posed else len(looks))
    variance = torch.ones(poses + model.modes, dtype=torch.float64)
    variance[:poses] = torch.inf
    return Located(
        torch.zeros(model.modes, dtype=torch.float64), eye,
        _given(looks) if posed else torch.stack(expected), model.mean.double(), variance.diag(),
        [0.0] * len(looks), False, reason, [1.0] * len(looks),
        [one.seen for one in looks], [one.camera for one in looks], covered, posed,
    )  # fmt: skip
