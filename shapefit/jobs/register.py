"""X-rays and a known bone -> where the bone lies."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from shapefit import se3
from shapefit.fit.landscape import Landscape, loss_landscape
from shapefit.fit.rigid import RigidFit, likeness, register_views
from shapefit.fit.rigid_matter import matter_of, middle
from shapefit.io.atomic import atomic_folder
from shapefit.io.label_names import Structures
from shapefit.io.pose import read_pose, write_pose
from shapefit.io.record import FILE, SCHEMA, camera_entry, write_record
from shapefit.io.tfm import write_tfm
from shapefit.jobs.bone import BoneFile, Matter, read_bone
from shapefit.jobs.fit import read_views
from shapefit.jobs.register_pictures import draw_animation, draw_views
from shapefit.jobs.scene_start import (
    AUTO,
    PRIOR,
    RECORD,
    SCENE,
    ask_for_bone,
    belief_of_bone,
    kind_of_start,
    nothing_registered,
)
from shapefit.report.colours import structure_colours
from shapefit.report.landscape import landscape_page
from shapefit.report.register import register_page
from shapefit.report.register_pictures import write_png
from shapefit.report.scene_mesh import lighten
from shapefit.settings import CTSettings, LandscapeSettings, MeshSettings, RegisterSettings, SurfaceSettings
from shapefit.view import View
from shapefit.volume import Volume

LANDSCAPE, ANIMATION = "landscape.html", "convergence.gif"
REPLACED = ("pose.tfm", "pose.json", "overlay_*.png", "difference_*.png", ANIMATION, LANDSCAPE)
Progress = Callable[[str, float], None]


def register_job(
    bone: str | Path,
    images: Sequence[Path],
    cameras: Sequence[Path],
    output: Path,
    settings: RegisterSettings,
    landscape: LandscapeSettings | None = None,
    ct: CTSettings | None = None,
    structures: Structures = None,
    segmentation: Path | None = None,
    init: str | Path | None = None,
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
    command: str = "",
    progress: Progress | None = None,
    meshes: MeshSettings | None = None,
    surface: SurfaceSettings | None = None,
    with_landscape: bool = True,
    network: str | None = None,
    model: str | Path = "pelvis",
) -> dict:
    """The rigid pose of a CT or of meshes from X-rays -> pose.tfm, pose.json, fit.json, pictures and report.

    Arguments are those of `read_bone`, `read_views` and `register_views`. `init` is where to begin: scene:
    where `network` sees the bone, whose surface the shape model of its mesh, `model`, brings into
    correspondence; prior: as the files' coordinates say; auto, or nothing: both, where a network knows the
    bone's structures and sees them; else a file for `read_pose`. Returns the record. A registration that did
    not succeed writes its record and report, and no pose.
    """
    if settings.device not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {settings.device!r}; expected 'cpu' or 'cuda'")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is available here; use --device cpu")
    tell = progress or (lambda what, fraction: None)
    kind = kind_of_start(init)
    start = read_pose(str(init)) if kind == RECORD else torch.eye(4, dtype=torch.float64)
    views = _views(images, cameras, polarity, seen_from, frame)
    read = read_bone(bone, structures, segmentation, ct, meshes, surface)
    with atomic_folder(output):  # tells now, not after the fit, if the folder cannot be written
        asked, located = ask_for_bone(kind, network, model, read, views, settings)
        starts = start
        if located is not None:
            starts = located if kind == SCENE else torch.stack([located, start])
        if kind == SCENE and located is None:
            found = nothing_registered(asked, read.matter, views, settings)
        else:
            belief = None if located is None else belief_of_bone(asked.located, located)
            found = register_views(
                read.matter, views, settings, lambda what, share: tell(what, 0.7 * share), starts, belief
            )
    begun = start if found.start is None else found.start
    if kind == AUTO:
        kind = SCENE if located is not None and torch.equal(begun, located) else PRIOR
    return write_registration(
        output, bone, read, views, images, found, begun, settings,
        (landscape or LandscapeSettings()) if with_landscape else None, command,
        lambda what, fraction: tell(what, 0.7 + 0.3 * fraction),
        begun={"kind": kind} | asked.told() | ({} if found.apart is None else {"apart": found.apart}),
    )  # fmt: skip


def _views(
    images: Sequence[Path], cameras: Sequence[Path], polarity: str, seen_from: str, frame: int | None
) -> list[View]:
    """X-rays with their cameras. Raises ValueError as `read_views`, and for one of several without a pose."""
    count = len(images)
    if count and len(cameras) not in (0, count):
        raise ValueError(
            f"{count} images but {len(cameras)} camera files: give one per image, in their order"
        )
    views = read_views(images, cameras, (), True, polarity, seen_from, frame)
    for view, file in zip(views, cameras or images, strict=True):
        if count > 1 and view.world_from_camera is None:
            raise ValueError(
                f"{file} gives no world_from_camera: a registration to several X-rays needs the pose of each"
            )
    return views


def write_registration(
    output: Path,
    bone: str | Path,
    read: BoneFile,
    views: Sequence[View],
    images: Sequence[Path],
    found: RigidFit,
    start: Float64[Tensor, "4 4"],
    settings: RegisterSettings,
    landscape: LandscapeSettings | None = None,
    command: str = "",
    progress: Progress | None = None,
    note: str = "",
    begun: dict | None = None,
) -> dict:
    """Write what a registration found, all of it or nothing; returns the record.

    `landscape` says how the loss around the answer is shown; None leaves its page away (half of the time).
    `begun` says what the start was: the record's "init".
    Without success there is no pose, no overlay and no landscape, and older ones of the same folder go.
    """
    tell = progress or (lambda what, fraction: None)
    centre, _ = middle(matter_of(read.matter))
    posed = [view.posed(pose) for view, pose in zip(views, found.world_from_camera, strict=True)]
    record = registration_record(bone, read, posed, images, found, start, centre, settings.seed, command)
    record["init"] = begun or {}
    colours = structure_colours(list(read.labels))
    with atomic_folder(output, replaces=REPLACED) as folder:
        tell("pictures", 0.0)
        drawn = draw_views(
            read.matter, posed, start, found.world_from_bone, centre, list(colours.values()), settings
        )
        tell("animation", 0.2)
        film = draw_animation(
            read.matter, posed, start, centre, found.history, list(colours.values()), settings
        )
        page = ""
        if found.converged:
            write_tfm(folder / "pose.tfm", found.world_from_bone)
            write_pose(folder / "pose.json", found.world_from_bone, str(bone), list(read.labels))
            (folder / ANIMATION).write_bytes(film)
            for n, view in enumerate(drawn):
                write_png(folder / f"overlay_{n}.png", view.end)
                write_png(folder / f"difference_{n}.png", view.difference)
            if landscape is not None:
                slices = landscape_around(
                    read.matter, posed, found.world_from_bone, centre, settings, landscape,
                    lambda what, fraction: tell(what, 0.4 + 0.6 * fraction),
                )  # fmt: skip
                way = torch.tensor([step["world_from_bone"] for step in found.history], dtype=torch.float64)
                names = [view.name for view in posed]
                landscape_page(
                    folder / LANDSCAPE,
                    slices,
                    start,
                    way.reshape(-1, 4, 4),
                    landscape.image,
                    names,
                    Path(bone).name,
                )
                page = LANDSCAPE
        write_record(folder / FILE, record)
        register_page(folder / "report.html", record, drawn, colours, film, page, note)
    return record


def landscape_around(
    matter: Matter,
    views: Sequence[View],
    answer: Float64[Tensor, "4 4"],
    centre: Float64[Tensor, "3"],
    settings: RegisterSettings,
    shown: LandscapeSettings,
    progress: Progress | None = None,
) -> Landscape:
    """Slices of the loss that `register_views` descends, around its answer, in the axes of the first view.

    `centre` (mm, the bone's own frame) is the point that rotations go about. Meshes of many faces are
    lightened first: on images of some dozen pixels nobody can tell.
    """
    light = _light(matter)

    def losses(poses: Tensor) -> Tensor:
        # the first pose is the one that an X-ray may not miss
        return likeness(light, views, torch.cat([answer[None], poses]), settings, shown.image)[1:]

    pose = views[0].world_from_camera
    assert pose is not None
    place = se3.transform(answer, centre[None])[0]
    return loss_landscape(losses, answer, place, pose[:3, :3].to(torch.float64), shown, progress)


def _light(matter: Matter) -> Matter:
    if isinstance(matter, Volume):
        return matter
    light = lighten(matter)
    try:
        matter_of(light)
    except ValueError:  # decimation may open a mesh
        return matter
    return light


def registration_record(
    bone: str | Path,
    read: BoneFile,
    views: Sequence[View],
    images: Sequence[Path],
    found: RigidFit,
    start: Float64[Tensor, "4 4"],
    centre: Float64[Tensor, "3"],
    seed: int,
    command: str,
) -> dict:
    """The content of fit.json for a registration; `centre` is in the bone's own frame."""
    return {
        "schema_version": SCHEMA,
        "package_version": version("shapefit"),
        "command": command,
        "seed": seed,
        "bone": str(bone),
        "structures": read.labels,
        "findings": read.findings,
        "start": start.tolist(),
        "world_from_bone": found.world_from_bone.tolist(),
        "centre": centre.tolist(),
        "views": [
            {
                "name": view.name,
                "image": str(images[n]) if images else None,
                "world_from_camera": found.world_from_camera[n].tolist(),
                "camera": camera_entry(view.camera),
                "loss": found.losses[n],
                "terms": found.terms[n],
            }
            for n, view in enumerate(views)
        ],
        "converged": found.converged,
        "reason": found.reason,
        "candidates": found.candidates,
        "seconds": found.seconds,
        "history": found.history,
    }
