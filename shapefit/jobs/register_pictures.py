"""A registration drawn: the bone's shadows at its start, at its answer and on the way there."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera
from shapefit.fit.rigid_matter import line_integrals, matter_of
from shapefit.interop import mesh_arrays
from shapefit.jobs.bone import Matter
from shapefit.render import render_mesh, render_volume
from shapefit.report.register import Drawn
from shapefit.report.register_animation import ALONE, WIDTH, Frame, animation, chosen
from shapefit.report.register_pictures import (
    arrays,
    difference_picture,
    drawn_camera,
    drr_picture,
    enlarged,
    overlay,
    xray_picture,
)
from shapefit.settings import RegisterSettings
from shapefit.view import View
from shapefit.volume import Volume

_STILL, _FILM = 0.5, 0.6  # voxels of a CT between neighbouring rays of a picture, and of the animation
_FINE = 2.0  # mm of a voxel below which the animation is made of twice as large ones


@torch.no_grad()
def draw_views(
    matter: Matter,
    views: Sequence[View],
    start: Float64[Tensor, "4 4"],
    end: Float64[Tensor, "4 4"],
    centre: Float64[Tensor, "3"],
    colours: Sequence[str],
    settings: RegisterSettings,
) -> list[Drawn]:
    """The pictures of every view; poses are world_from_bone, `centre` is in the bone's own frame."""
    drawn = []
    for view in views:
        camera = drawn_camera(view.camera)
        camera_from_world = _camera_from_world(view)
        grey = xray_picture(view, camera.height, camera.width)
        poses = torch.stack([camera_from_world @ start, camera_from_world @ end])
        few = _few_rays(matter, camera, float(se3.transform(poses[1], centre[None])[0, 2]), _STILL)
        size = camera.height, camera.width
        first, last = (enlarged(arrays(shadow), *size) for shadow in shadows(matter, poses, few, settings))
        of_ct = isinstance(matter, Volume)
        line = last.sum(0) if of_ct else arrays(drr(matter, poses[1], camera, settings))
        drawn.append(
            Drawn(
                view.name,
                grey,
                drr_picture(line),
                overlay(grey, first, colours),
                overlay(grey, last, colours),
                difference_picture(view, line, float(camera.delx)),
                float(se3.transform(poses[1], centre[None])[0, 2]),
            )
        )
    return drawn


@torch.no_grad()
def draw_animation(
    matter: Matter,
    views: Sequence[View],
    start: Float64[Tensor, "4 4"],
    centre: Float64[Tensor, "3"],
    history: Sequence[dict],
    colours: Sequence[str],
    settings: RegisterSettings,
) -> bytes:
    """The way from the start along the history's poses, as a GIF."""
    steps = [history[n] for n in chosen(len(history))] if history else []
    way = [start, *(torch.tensor(step["world_from_bone"], dtype=torch.float64) for step in steps)]
    if isinstance(matter, Volume) and float(matter.spacing.min()) < _FINE:
        matter = matter.downsampled(2)
    greys: list[ndarray] = []
    seen: list[list[ndarray]] = []
    for view in views:
        camera = drawn_camera(view.camera, WIDTH if len(views) > 1 else ALONE)
        size = camera.height, camera.width
        greys.append(xray_picture(view, *size))
        poses = _camera_from_world(view) @ torch.stack(way)
        depth = float(se3.transform(poses[-1], centre[None])[0, 2])
        small = _few_rays(matter, camera, depth, _FILM)
        seen.append(
            [
                enlarged(arrays(shadow), *size)
                for pose in poses
                for shadow in shadows(matter, pose[None], small, settings)
            ]
        )
    frames = [Frame([shadow[0] for shadow in seen], "", None, None)]
    for n, step in enumerate(steps, 1):
        frames.append(Frame([shadow[n] for shadow in seen], step["stage"], step["step"], step["loss"]))
    return animation(greys, frames, colours, [view.name for view in views])


def shadows(
    matter: Matter, camera_from_bone: Float64[Tensor, "B 4 4"], camera: Camera, settings: RegisterSettings
) -> Float[Tensor, "B S H W"]:
    """What the rays meet of each part: attenuation of a CT, mm of a mesh."""
    if isinstance(matter, Volume):
        return render_volume(matter, camera_from_bone, camera, settings.method)
    vertices, faces, structure = mesh_arrays(matter)
    return render_mesh(
        vertices.expand(len(camera_from_bone), -1, -1), faces, camera_from_bone, camera, structure
    )


def drr(
    matter: Matter, camera_from_bone: Float64[Tensor, "4 4"], camera: Camera, settings: RegisterSettings
) -> Float[Tensor, "H W"]:
    """The line integrals that the registration compares with the X-ray, unitless."""
    lines = line_integrals(matter_of(matter), camera_from_bone[None], camera, None, settings)
    return lines.view(camera.height, camera.width)


def _few_rays(matter: Matter, camera: Camera, depth: float, voxels: float) -> Camera:
    """The detector with rays no closer than so many voxels of a CT at `depth` mm: finer ones see no more."""
    if not isinstance(matter, Volume):
        return camera
    pitch = float(camera.delx) * depth / float(camera.sdd)
    factor = min(1.0, pitch / (voxels * float(matter.spacing.min())))
    return camera.resized(*(max(32, round(factor * n)) for n in (camera.height, camera.width)))


def _camera_from_world(view: View) -> Float64[Tensor, "4 4"]:
    assert view.world_from_camera is not None
    return se3.inverse(view.world_from_camera.to(torch.float64))
