"""X-rays and a scene-coordinate network -> shape and pose of the bone, at once and without a start."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from shapefit.io.atomic import atomic_folder
from shapefit.io.mesh import write_surfaces
from shapefit.io.model import read_model
from shapefit.io.record import FILE, write_record
from shapefit.io.scene import read_scene
from shapefit.jobs.fit import path_lengths, read_views
from shapefit.jobs.locate_record import located_record
from shapefit.report import write_overlays
from shapefit.report.colours import structure_colours
from shapefit.report.locate import locate_page
from shapefit.report.locate_pictures import coordinate_maps
from shapefit.report.register_pictures import drawn_camera, write_png, xray_picture
from shapefit.scene.locate import Located, locate_views
from shapefit.scene.network import SceneNetwork
from shapefit.settings import LocateSettings
from shapefit.shape_model import ShapeModel
from shapefit.surface import Surfaces
from shapefit.view import View

REPLACED = ("overlay_*.png", "structures_*.png", "entry_*.png", "exit_*.png", "std_*.png")


def locate_job(
    images: Sequence[Path],
    cameras: Sequence[Path],
    output: Path,
    settings: LocateSettings | None = None,
    network: str | Path = "pelvis-scene",
    model: str | Path = "pelvis",
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> dict:
    """Where a network finds a bone -> meshes (world mm), fit.json, overlays, its maps, report; the record.

    `network` and `model` are files, or names of what comes with shapefit. Where the network finds no bone,
    there are no meshes and overlays, and the record and the report say why.
    """
    settings = settings or LocateSettings()
    if settings.device not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {settings.device!r}; expected 'cpu' or 'cuda'")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is available here; use --device cpu")
    tell = progress or (lambda what, fraction: None)
    shape_model = read_model(model)
    scene = read_scene(network).to(settings.device)
    views = read_views(images, cameras, (), settings.free_views, polarity, seen_from, frame)
    tell("looking", 0.2)
    with atomic_folder(output):  # tells now if the folder cannot be written
        began = time.perf_counter()
        located = locate_views(scene, shape_model, views, settings)
        seconds = time.perf_counter() - began
    tell("pictures", 0.5)
    return write_located(
        output, shape_model, scene, views, images, located, settings, str(network), command, seconds
    )


def write_located(
    output: Path,
    model: ShapeModel,
    network: SceneNetwork,
    views: Sequence[View],
    images: Sequence[Path],
    located: Located,
    settings: LocateSettings,
    name: str = "",
    command: str = "",
    seconds: float = 0.0,
    note: str = "",
) -> dict:
    """Write what a network located, all of it or nothing; returns the record.

    `name` says which network it was. Meshes and pictures of an earlier run in the same folder go.
    """
    meshes = tuple(f"{structure}.ply" for structure in model.names)
    record = located_record(model, views, images, located, settings.seed, command, seconds)
    record |= {"network": name, "network_licence": network.about.get("licence", "")}
    surfaces: Surfaces = {}
    paths: list[Tensor] = []
    maps = draw_maps(network, views, located)
    with atomic_folder(output, replaces=(*meshes, *REPLACED)) as folder:
        if located.found:
            surfaces = model.surfaces(located.vertices)
            paths = path_lengths(model, located.vertices, views, located.world_from_camera)
            write_surfaces(folder, surfaces)
            write_overlays(folder, views, paths, list(surfaces))
        for n, of_view in enumerate(maps):
            for kind, pixels in of_view.items():
                write_png(folder / f"{kind}_{n}.png", pixels)
        write_record(folder / FILE, record)
        locate_page(folder / "report.html", record, surfaces, views, paths, maps, network.structures, note)
    return record


def draw_maps(
    network: SceneNetwork, views: Sequence[View], located: Located
) -> list[dict[str, UInt8[np.ndarray, "_ _ 3"]]]:
    """The pictures of `coordinate_maps` for every view."""
    template = network.template.double().cpu().numpy()
    box = np.stack([template.min(0), template.max(0)])
    colours = list(structure_colours(network.structures).values())
    drawn = []
    for view, seen in zip(views, located.seen, strict=True):
        size = drawn_camera(view.camera)
        drawn.append(coordinate_maps(seen, xray_picture(view, size.height, size.width), box, colours))
    return drawn
