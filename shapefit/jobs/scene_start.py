"""Where a fit or a registration begins: where a scene-coordinate network sees the bone, if one knows it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from shapefit import se3
from shapefit.fit.belief import Belief, rigid_belief
from shapefit.fit.result import XRayFit
from shapefit.fit.rigid import RigidFit
from shapefit.fit.rigid_matter import matter_of, middle
from shapefit.fit.rigid_scene import poses_of
from shapefit.fit.scene_start import SceneStart
from shapefit.fit.surface import fit_surface
from shapefit.io.model import read_model
from shapefit.io.scene import read_scene, read_scene_mesh
from shapefit.jobs.bone import BoneFile, Matter
from shapefit.scene.locate import Located, locate_views
from shapefit.scene.network import SceneNetwork
from shapefit.settings import FitSettings, LocateSettings, ProjectSettings, RegisterSettings, SurfaceSettings
from shapefit.shape_model import ShapeModel
from shapefit.surface import Surfaces, surfaces_from_labels
from shapefit.surface_distance import join
from shapefit.view import View
from shapefit.volume import NO_STRUCTURE, Volume

AUTO, SCENE, PRIOR, RECORD = "auto", "scene", "prior", "record"
SHIPPED = "pelvis-scene"
ALIGNED = ProjectSettings(samples=3000, rigid_steps=30, steps=20)  # a start need not be exact
COARSE = SurfaceSettings(faces=5000)


class Asked(NamedTuple):
    """What became of the question where the bone is."""

    located: Located | None  # None: no network was asked
    network: str  # its name or file; "" if none was asked
    reason: str  # why none could be asked, or what the answer rests on; "" if none was wanted

    def told(self) -> dict:
        """The part of a record that speaks of the network; nothing where none was wanted."""
        return {"network": self.network, "network_says": self.reason} if self.reason else {}


class AskedOfBone(NamedTuple):
    """The same for a known bone, and where it is."""

    asked: Asked
    world_from_bone: Float64[Tensor, "4 4"] | None  # None: it was not found, or no network was asked


def kind_of_start(init: str | Path | None) -> str:
    """auto, scene or prior; record for a file. Nothing said is auto."""
    word = AUTO if init is None else str(init)
    return word if word in (AUTO, SCENE, PRIOR) else RECORD


def ask_for_fit(
    kind: str, network: str | None, model: ShapeModel, views: Sequence[View], settings: FitSettings
) -> Asked:
    """Where a network sees the bone of a model.

    `network` is a file or a name; that which comes with shapefit if absent. A network knows the model if it
    was trained on the same mesh. Raises ValueError for a named network that does not know it or cannot be
    read, and where `kind` is scene, for having none.
    """
    if kind not in (AUTO, SCENE):
        return Asked(None, "", "")
    path = network or SHIPPED
    try:
        _, faces = read_scene_mesh(path)
        if not (faces.shape == model.faces.shape and torch.equal(faces, model.faces)):
            raise ValueError(
                f"the network {path} was trained on another mesh ({len(faces)} faces) than that of the "
                f"model {model.metadata.get('id', '')} ({len(model.faces)} faces)"
            )
        known = read_scene(path)
    except ValueError as error:
        return _without(kind, network, error)
    located = _locate(known, model, views, settings.free_views, settings)
    return Asked(located, str(path), located.reason)


def _without(kind: str, network: str | None, error: ValueError) -> Asked:
    if kind == SCENE or network:
        raise error
    return Asked(None, "", str(error))


def _locate(
    network: SceneNetwork,
    model: ShapeModel,
    views: Sequence[View],
    free_views: bool,
    settings: FitSettings | RegisterSettings,
) -> Located:
    how = LocateSettings(free_views=free_views, seed=settings.seed, device=settings.device)
    return locate_views(network.to(settings.device), model, views, how)


def start_of_fit(located: Located, alone: bool) -> SceneStart:
    """What was located as the start of a fit; `alone` keeps other starts from competing."""
    shows = tuple(share for share in located.inlier_share if share > 0)
    return SceneStart(
        located.coefficients, located.world_from_model, located.world_from_camera, shows or (0.0,), alone,
        located.covariance,
    )  # fmt: skip


def nothing_located(located: Located, views: Sequence[View]) -> XRayFit:
    """The failed fit of X-rays in which no bone was located."""
    count = len(views)
    return XRayFit(
        located.coefficients, 1.0, located.world_from_model, located.world_from_camera, located.vertices,
        [math.nan] * count, [{}] * count, [None] * count, False, located.reason, [], 0.0, {"kind": SCENE},
    )  # fmt: skip


def ask_for_bone(
    kind: str,
    network: str | None,
    model: str | Path,
    bone: BoneFile,
    views: Sequence[View],
    settings: RegisterSettings,
) -> AskedOfBone:
    """Where a network sees a known bone, of whose structures it must know some by their names.

    A single view without a pose is taken as the settings expect it. The bone's surfaces are brought into
    correspondence with the network's template by `model`, if that has its mesh, else rigidly; the network
    then places this one shape, and not one that it estimates. Raises ValueError as `ask_for_fit`.
    """
    if kind not in (AUTO, SCENE):
        return AskedOfBone(Asked(None, "", ""), None)
    path = network or SHIPPED
    try:
        names, _ = read_scene_mesh(path)
        shared = [name for name in _parts(bone) if name in names]
        if not shared:
            raise ValueError(
                f"the network {path} knows {', '.join(names)}, but the bone has {', '.join(_parts(bone))}"
            )
        known = read_scene(path)
        one, bone_from_model = _aligned(known, model, _surfaces(bone, shared))
    except ValueError as error:
        return AskedOfBone(_without(kind, network, error), None)
    located = _locate(known, one, _posed(bone, views, settings), False, settings)
    asked = Asked(located, str(path), located.reason)
    if not located.found:
        return AskedOfBone(asked, None)
    return AskedOfBone(asked, located.world_from_model @ se3.inverse(bone_from_model))


def belief_of_bone(located: Located, world_from_bone: Float64[Tensor, "4 4"]) -> Belief | None:
    """What a registration may expect of a known bone that `ask_for_bone` placed there."""
    bone_from_model = se3.inverse(world_from_bone) @ located.world_from_model
    return rigid_belief(located.covariance, world_from_bone, bone_from_model)


def nothing_registered(
    asked: Asked, matter: Matter, views: Sequence[View], settings: RegisterSettings
) -> RigidFit:
    """The failed registration of a bone that was not located, as the file's coordinates say."""
    centre, _ = middle(matter_of(matter))
    return RigidFit(
        torch.eye(4, dtype=torch.float64), torch.stack(poses_of(views, centre, settings)),
        [math.nan] * len(views), [{}] * len(views), False, asked.reason, [], [], 0.0,
    )  # fmt: skip


def _posed(bone: BoneFile, views: Sequence[View], settings: RegisterSettings) -> list[View]:
    if all(view.world_from_camera is not None for view in views):
        return list(views)
    centre, _ = middle(matter_of(bone.matter))
    poses = poses_of(views, centre, settings)
    return [view.posed(pose) for view, pose in zip(views, poses, strict=True)]


def _parts(bone: BoneFile) -> tuple[str, ...]:
    """Names of the structures that are known apart; those of a whole CT are not."""
    matter = bone.matter
    return (matter.names or ("a whole CT",)) if isinstance(matter, Volume) else tuple(matter)


def _surfaces(bone: BoneFile, names: Sequence[str]) -> Surfaces:
    """Closed meshes (mm, the bone's own frame) of some of its structures; of a CT, of its segmentation."""
    matter = bone.matter
    if not isinstance(matter, Volume):
        return {name: matter[name] for name in names}
    assert matter.structure is not None
    number = torch.where(matter.structure == NO_STRUCTURE, 0, matter.structure + 1).cpu()
    labels = {name: matter.names.index(name) + 1 for name in names}
    return surfaces_from_labels(Volume(number, matter.world_from_voxel.cpu()), labels, COARSE)[0]


def _aligned(
    network: SceneNetwork, model: str | Path, surfaces: Surfaces
) -> tuple[ShapeModel, Float64[Tensor, "4 4"]]:
    """The bone as a model without modes on the network's mesh, and the motion bone_from_model.

    Without a shape model of that mesh the template itself is laid on the bone, which then must have all
    of its structures: a network that was trained on this very bone.
    """
    faces = network.faces.cpu()
    shapes = _model_of_mesh(model, faces)
    if shapes is None:
        if missing := [name for name in network.structures if name not in surfaces]:
            raise ValueError(f"the bone has no {', '.join(missing)}, and there is no model to fill it in")
        surfaces = {"bone": join(list(surfaces.values()))}
        empty = torch.zeros(0, dtype=torch.float64)
        template = network.template.double().cpu()
        shapes = ShapeModel(
            template, empty.reshape(0, *template.shape), empty, 0.0, faces,
            torch.zeros(len(faces), dtype=torch.int64), ("bone",), (1,),
        )  # fmt: skip
    fitted = fit_surface(shapes, surfaces, ALIGNED)
    mean = shapes.instance(fitted.coefficients)
    return replace(shapes.truncate(0), mean=mean), fitted.world_from_model


def _model_of_mesh(model: str | Path, faces: Tensor) -> ShapeModel | None:
    try:
        shapes = read_model(model)
    except ValueError:
        return None
    same = shapes.faces.shape == faces.shape and torch.equal(shapes.faces, faces)
    return shapes if same else None
