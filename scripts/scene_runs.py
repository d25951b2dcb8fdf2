"""Simulated X-rays of bones unknown to a scene network, each located, and what came of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from scene_errors import pose_errors, shape_errors, surprises

import shapefit as sf
from shapefit import se3
from shapefit.fit.belief import rigid_belief
from shapefit.fit.rigid import register_views
from shapefit.fit.rigid_matter import matter_of, middle
from shapefit.fit.rigid_scene import poses_of
from shapefit.fit.scene_start import SceneStart
from shapefit.jobs.scene_start import start_of_fit
from shapefit.pca import aligned_to
from shapefit.scene.locate import Located, locate_views
from shapefit.scene.network import SceneNetwork
from shapefit.scene.sample import Sample
from shapefit.scene.simulate import Stage, simulate_sample, stage_of_shapes
from shapefit.settings import LocateSettings, RegisterSettings, SimulateSettings

SAME = 0.05  # mm, by which a network's template may differ from the mean of the model that it was trained on


class Known(NamedTuple):
    """What is known before any X-ray is seen: the network, the shape model, and the bones to be shown."""

    network: SceneNetwork
    model: sf.ShapeModel  # located with; holds none of the bones
    names: tuple[str, ...]  # of the bones
    shapes: torch.Tensor  # (N, V, 3) mm, rigidly on the model's mean
    stage: Stage


@dataclass(frozen=True)
class Work:
    """One kind of run, for workers."""

    known: Known
    simulate: SimulateSettings
    locate: LocateSettings
    # refine what was located: a fit of shape and pose, or a registration of the one bone
    refine: sf.FitSettings | RegisterSettings | None = None
    init: str = "auto"  # where that begins: auto, scene or prior


def left_out(
    network: SceneNetwork, bones: sf.ShapeModel, subjects: Sequence[str], settings: SimulateSettings
) -> Known:
    """The model without subjects, and their registered shapes and mirror images as bones to be shown.

    Raises ValueError for an unknown subject, none, and a network of another mesh or of other bones.
    """
    if not subjects:
        raise ValueError(f"name the subjects that the network has not seen: {', '.join(bones.subjects())}")
    model = reduce(sf.ShapeModel.without, subjects, bones)
    rows = [row for row, case in enumerate(bones.cases) if case.rstrip("~") in subjects]
    if set(model.cases) & {bones.cases[row] for row in rows}:
        raise ValueError("the model still holds bones that should be left out")
    shapes = torch.stack([aligned_to(model.mean, shape) for shape in bones.training_shapes()[rows]])
    return _known(network, model, tuple(bones.cases[row] for row in rows), shapes, settings)


def one_bone(network: SceneNetwork, bone: sf.ShapeModel, settings: SimulateSettings) -> Known:
    """A model's mean as the only bone, known to the network. Raises ValueError for another mesh."""
    rigid = replace(bone, components=bone.components[:0], std=bone.std[:0], scores=bone.scores[:, :0])
    return _known(network, rigid, (str(bone.metadata.get("id", "bone")),), bone.mean[None], settings)


def _known(
    network: SceneNetwork,
    model: sf.ShapeModel,
    names: tuple[str, ...],
    shapes: torch.Tensor,
    settings: SimulateSettings,
) -> Known:
    if network.faces.shape != model.faces.shape or not torch.equal(network.faces.cpu(), model.faces):
        raise ValueError(
            f"the network's template has {len(network.faces)} faces that are not the model's "
            f"{len(model.faces)}; both must come from one mesh"
        )
    apart = float((network.template.cpu().double() - model.mean).norm(dim=1).mean())
    if apart > SAME:
        raise ValueError(
            f"the network's template lies {apart:.2f} mm from the mean of the model without "
            f"{', '.join(names)}; "
            "it was trained on other bones, perhaps on these: name those that it has not seen"
        )
    return Known(network, model, names, shapes, stage_of_shapes(model, shapes, settings))


def batch(work: Work, numbers: Sequence[int]) -> list[dict]:
    """The records of some runs; run i depends on the seed of the simulation and i alone."""
    return [run(work, number) for number in numbers]


def run(work: Work, number: int) -> dict:
    """One X-ray: simulated, located, perhaps refined. `errors` is None where there is no answer."""
    known = work.known
    sample = simulate_sample(known.stage, number, work.simulate)
    view = sf.View(sample.image.float(), sample.camera, name=f"sample {number}")
    began = time.process_time()
    located = locate_views(known.network, known.model, [view], work.locate)
    bone = number % len(known.shapes)
    record: dict[str, Any] = {
        "number": number,
        "bone": known.names[bone],
        "drawn": {k: v for k, v in sample.drawn.items() if isinstance(v, bool | int | float | str)},
        "covered": float(sample.covered.float().mean()),
        "found": bool(located.found),
        "reason": located.reason,
        "errors": None,
        "surprises": None,
        "cpu_seconds": time.process_time() - began,
    }
    if record["drawn"].get("empty"):
        return record
    if located.found:
        record |= _judged(known, sample, located, bone, work.locate.modes)
    if work.refine is not None:
        # bone that is bright is read as such: `--polarity bone-bright`
        if sample.drawn["bright"]:
            view = replace(view, image=1 - view.image)
        record["refined"] = _refined(work, sample, view, located, bone)
    return record


def _judged(known: Known, sample: Sample, located: Located, bone: int, modes: int) -> dict:
    shape, pose = known.shapes[bone], sample.camera_from_bone.double()
    camera_from_world = se3.inverse(located.world_from_camera[0].double())
    found, truth = se3.transform(camera_from_world, located.vertices.double()), se3.transform(pose, shape)
    errors = pose_errors(found, truth, sample.camera) | shape_errors(found, truth, known.model.faces)
    expected = surprises(
        camera_from_world @ located.world_from_model.double(),
        located.coefficients.double(),
        located.covariance.double(),
        pose,
        known.model.coefficients(shape),
        modes,
    )
    return {"errors": errors, "surprises": expected, "inliers": float(located.inlier_share[0])}


def _refined(work: Work, sample: Sample, view: sf.View, located: Located, bone: int) -> dict:
    """What a fit or a registration makes of it. Where `init` is scene, there is none without an answer."""
    known = work.known
    began = time.process_time()
    if work.init == "scene" and not located.found:
        return {
            "start": "none",
            "errors": None,
            "converged": False,
            "reason": located.reason,
            "cpu_seconds": 0.0,
        }
    refine = _registered if isinstance(work.refine, RegisterSettings) else _fitted
    found, told = refine(work, view, located)
    truth = se3.transform(sample.camera_from_bone.double(), known.shapes[bone])
    errors = pose_errors(found, truth, sample.camera) | shape_errors(found, truth, known.model.faces)
    return told | {"errors": errors, "cpu_seconds": time.process_time() - began}


def _fitted(work: Work, view: sf.View, located: Located) -> tuple[torch.Tensor, dict]:
    """Vertices (V, 3) in camera mm, and what is told of them."""
    fit = sf.fit_xrays(work.known.model, [view], work.refine, init=begin(located, work.init))
    found = se3.transform(se3.inverse(fit.world_from_camera[0]), fit.vertices.double())
    return found, {
        "start": fit.start["kind"], "doubt": fit.start.get("doubt", ""), "apart": fit.start.get("apart"),
        "agreement": fit.terms[0]["agreement"], "converged": fit.converged, "reason": fit.reason,
    }  # fmt: skip


def _registered(work: Work, view: sf.View, located: Located) -> tuple[torch.Tensor, dict]:
    """The same of the one bone, as `shapefit register --init` places its meshes."""
    model, settings = work.known.model, work.refine
    meshes = model.surfaces(model.mean)
    assumed = poses_of([view], middle(matter_of(meshes))[0], settings)[0]
    belief = None
    starts = {} if work.init == "scene" else {"prior": torch.eye(4, dtype=torch.float64)}
    if located.found and work.init != "prior":
        seen = se3.inverse(located.world_from_camera[0].double()) @ located.world_from_model.double()
        starts = {"scene": assumed @ seen} | starts
        belief = rigid_belief(located.covariance, assumed @ seen, torch.eye(4, dtype=torch.float64))
    init = torch.stack(list(starts.values()))
    fit = register_views(meshes, [view.posed(assumed)], settings, init=init, belief=belief)
    found = se3.transform(se3.inverse(fit.world_from_camera[0]) @ fit.world_from_bone, model.mean.double())
    return found, {
        "start": next(kind for kind, start in starts.items() if torch.equal(fit.start, start)),
        "agreement": fit.terms[0]["agreement"],
        "apart": fit.apart,
        "converged": fit.converged,
        "reason": fit.reason,
    }


def begin(located: Located, init: str) -> SceneStart | None:
    """Where a fit begins, as `shapefit fit --init` has it: auto, scene or prior; None is the prior."""
    return start_of_fit(located, alone=init == "scene") if located.found and init != "prior" else None


def references(known: Known, modes: int) -> dict[str, dict[str, float]]:
    """Of each bone: distances (mm) of the mean shape and of the model's best shape of so many modes."""
    figures = {}
    for name, shape in zip(known.names, known.shapes, strict=True):
        best = known.model.instance(known.model.coefficients(shape)[: min(modes, known.model.modes)])
        figures[name] = {
            "mean_shape": shape_errors(known.model.mean, shape, known.model.faces)["similarity_assd_mm"],
            "models_best": shape_errors(best, shape, known.model.faces)["similarity_assd_mm"],
        }
    return figures
