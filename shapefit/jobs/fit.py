"""X-rays -> shape and pose of the bone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.fit.solve import XRayFit, fit_xrays
from shapefit.io.atomic import atomic_folder
from shapefit.io.mesh import write_surfaces
from shapefit.io.model import read_model
from shapefit.io.record import (
    FILE,
    camera_entry,
    landmark_places,
    new_record,
    read_record,
    write_record,
)
from shapefit.io.xray import read_view
from shapefit.jobs.scene_start import (
    RECORD,
    SCENE,
    ask_for_fit,
    kind_of_start,
    nothing_located,
    start_of_fit,
)
from shapefit.render import render_mesh
from shapefit.report import fit_page, write_overlays
from shapefit.settings import FitSettings
from shapefit.shape_model import ShapeModel
from shapefit.surface import Surfaces
from shapefit.view import View


def fit_job(
    images: Sequence[Path],
    cameras: Sequence[Path],
    model: str | Path,
    output: Path,
    settings: FitSettings,
    masks: Sequence[Path] = (),
    init: str | Path | None = None,
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
    network: str | None = None,
) -> dict:
    """Shape and pose from X-rays -> meshes (world mm), fit.json, overlays and report; returns the record.

    `init` is where to begin: scene: where `network` (that which comes with shapefit if absent) sees the bone;
    prior: a search over views; auto, or nothing: scene if there is a network of this model and it finds the
    bone, beside a search where that is doubtful; else the fit.json of an earlier fit. A fit that did not
    succeed writes its record and report, and no mesh.
    """
    if settings.device not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {settings.device!r}; expected 'cpu' or 'cuda'")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is available here; use --device cpu")
    shape_model = read_model(model)
    views = read_views(images, cameras, masks, settings.free_views, polarity, seen_from, frame)
    kind = kind_of_start(init)
    start = read_record(str(init)) if kind == RECORD else None
    with atomic_folder(output):  # tells now, not after the fit, if the folder cannot be written
        asked = ask_for_fit(kind, network, shape_model, views, settings)
        located = asked.located
        if kind == SCENE and located is not None and not located.found:
            fit = nothing_located(located, views)
        else:
            seen = located is not None and located.found
            begin = start_of_fit(located, kind == SCENE) if seen else start
            fit = fit_xrays(shape_model, views, settings, progress, begin)
    fit = replace(fit, start=fit.start | asked.told())
    return write_fit(output, shape_model, views, images, fit, settings, command)


def write_fit(
    output: Path,
    model: ShapeModel,
    views: Sequence[View],
    images: Sequence[Path],
    fit: XRayFit,
    settings: FitSettings,
    command: str = "",
    truth: Surfaces | None = None,
    metrics: dict | None = None,
    baselines: dict | None = None,
    note: str = "",
) -> dict:
    """Write what a fit found, all of it or nothing; returns the record.

    Without success there is no mesh, and an older one of the same folder goes. With `truth`, the report
    shows the distances to it: `metrics` as of `compare`, and `baselines` likewise, by name.
    """
    meshes = tuple(f"{name}.ply" for name in model.names)
    record = fit_record(model, views, images, fit, settings.seed, command)
    surfaces: Surfaces = {}
    paths: list[Tensor] = []
    with atomic_folder(output, replaces=(*meshes, "overlay_*.png")) as folder:
        if fit.converged:
            surfaces = model.surfaces(fit.vertices)
            paths = path_lengths(model, fit.vertices, views, fit.world_from_camera)
            write_surfaces(folder, surfaces)
            write_overlays(folder, views, paths, list(surfaces))
        write_record(folder / FILE, record)
        fit_page(
            folder / "report.html", record, surfaces, views, paths,
            truth=truth, metrics=metrics, baselines=baselines, note=note,
        )  # fmt: skip
    return record


def read_views(
    images: Sequence[Path],
    cameras: Sequence[Path],
    masks: Sequence[Path] = (),
    free_views: bool = False,
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
) -> list[View]:
    """X-rays with their cameras and masks, in order; without cameras the images' own tags are asked.

    Raises ValueError for counts that do not match, and for several views of which one has no pose while
    their poses are to be trusted.
    """
    if not images:
        raise ValueError("no X-ray was given; name at least one image")
    count = len(images)
    if len(cameras) not in (0, count) and not (len(cameras) == 1 and free_views):
        raise ValueError(
            f"{count} image{'s' * (count != 1)} but {len(cameras)} camera file{'s' * (len(cameras) != 1)}: "
            "give one per image, in the order of the images (one for all is taken with --free-views)"
        )
    if len(masks) not in (0, count):
        raise ValueError(
            f"{count} image{'s' * (count != 1)} but {len(masks)} mask{'s' * (len(masks) != 1)}: "
            "give one per image, in the order of the images, or none"
        )
    files = list(cameras) * count if len(cameras) == 1 else list(cameras) or [None] * count
    views = [
        read_view(image, camera, mask, polarity, seen_from, frame)
        for image, camera, mask in zip(images, files, list(masks) or [None] * count, strict=True)
    ]
    if count > 1 and not free_views:
        for view, file, image in zip(views, files, images, strict=True):
            if view.world_from_camera is None:
                raise ValueError(
                    f"{file or image} gives no world_from_camera: with several X-rays give it for each, "
                    "or pass --free-views to have every pose estimated"
                )
    return views


def fit_record(
    model: ShapeModel,
    views: Sequence[View],
    images: Sequence[Path],
    fit: XRayFit,
    seed: int,
    command: str,
) -> dict:
    """The content of fit.json for a fit to X-rays."""
    return new_record(command, seed, model) | {
        "coefficients": fit.coefficients.tolist(),
        "scale": fit.scale,
        "world_from_model": fit.world_from_model.tolist(),
        "views": [
            {
                "name": view.name,
                "image": str(images[n]) if images else None,
                "world_from_camera": fit.world_from_camera[n].tolist(),
                "camera": camera_entry(view.camera),
                "loss": fit.losses[n],
                "terms": fit.terms[n],
                "dice": fit.dice[n],
            }
            for n, view in enumerate(views)
        ],
        "start": fit.start,
        "converged": fit.converged,
        "reason": fit.reason,
        "landmarks": landmark_places(model, fit.vertices),
        "seconds": fit.seconds,
        "history": fit.history,
    }


def path_lengths(
    model: ShapeModel,
    vertices: Float[Tensor, "V 3"],
    views: Sequence[View],
    world_from_camera: Float[Tensor, "N 4 4"],
) -> list[Float[Tensor, "S H W"]]:
    """mm of each structure (S, H, W) along the rays of each view, for vertices (V, 3) in world mm."""
    return [
        render_mesh(
            vertices[None].double(),
            model.faces,
            se3.inverse(pose.double())[None],
            view.camera,
            model.structure,
        )[0]
        for view, pose in zip(views, world_from_camera, strict=True)
    ]
