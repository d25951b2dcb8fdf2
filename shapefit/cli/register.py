"""A bone or CT that is known, placed in X-rays."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from shapefit.cli.options import (
    FIT_FAILED,
    Files,
    Folder,
    Labels,
    Meshes,
    Start,
    command_line,
    label_numbers,
    progress_bar,
    tell,
)
from shapefit.settings import CTSettings, LandscapeSettings, MeshSettings, RegisterSettings, SurfaceSettings


def register(
    bone: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CT_OR_MESH")],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")],
    /,
    *,
    output: Folder,
    camera: Files = (),
    labels: Labels = (),
    segmentation: Path | None = None,
    init: Start = "auto",
    network: str | None = None,
    model: str = "pelvis",
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
    settings: Annotated[RegisterSettings, tyro.conf.arg(name="")] = RegisterSettings(),
    ct: Annotated[CTSettings, tyro.conf.arg(name="")] = CTSettings(),
    slices: Annotated[LandscapeSettings, tyro.conf.arg(name="landscape")] = LandscapeSettings(),
    landscape: bool = True,
    surface: SurfaceSettings = SurfaceSettings(),
    meshes: Meshes = MeshSettings(),
) -> int:
    """Find where a known bone or CT lies in one or more X-rays, jointly. Exit status 3: it was not found.

    Args:
        bone: a CT in HU (NIfTI, NRRD, a DICOM folder), a closed mesh, a folder of meshes (of `shapefit fit`,
            say), or, with --labels, a label map
        images: X-rays: PNG, TIFF, NIfTI, DICOM or .npy
        output: for pose.tfm (3D Slicer), pose.json, fit.json, overlay_<i>.png, difference_<i>.png,
            convergence.gif, landscape.html and report.html
        camera: camera files (JSON), one per image; not needed for DICOM whose tags give the geometry
        labels: the bone's structures: sacrum=1, or a name alone where the file or TotalSegmentator knows it
        segmentation: a label map of the CT: only what --labels names in it is registered
        init: where to begin. prior: as the files' coordinates say; scene: where a network sees the bone;
            auto: at both, if a network knows the bone's structures and sees them; or a file: .tfm, pose.json,
            fit.json, or 4x4 JSON
        network: a file of `shapefit train-scene`, or a name; if absent, that which comes with shapefit
        model: the shape model that the network was trained on, which brings the bone's surface to its mesh
        polarity: how bone looks in the images: bone-dark, bone-bright or auto
        seen_from: from where the images show the patient: source or detector (then they are flipped)
        frame: which frame of an image with several, from 0
        landscape: write landscape.html, the loss around the answer
    """
    from shapefit.jobs import register_job
    from shapefit.report.fit_text import start_in_words

    structures = label_numbers(labels) or None
    with progress_bar("register") as progress:
        record = register_job(
            bone, images, camera, output, settings, slices, ct, structures, segmentation, init, polarity,
            seen_from, frame, command_line(), progress, meshes, surface, landscape, network, model,
        )  # fmt: skip
    tell(record["findings"])
    if said := start_in_words(record["init"]):
        print(f"begun {said}")
    for view in record["views"]:
        terms = ", ".join(f"{name} {value:.3f}" for name, value in view["terms"].items())
        if terms:
            print(f"{view['name']}: loss {view['loss']:.4f} ({terms})")
    print(f"{record['seconds']:.1f} s")
    print(output / "report.html")
    if not record["converged"]:
        print(f"shapefit: the bone was not found: {record['reason']}; no pose was written", file=sys.stderr)
        return FIT_FAILED
    for row in record["world_from_bone"]:
        print("  " + " ".join(f"{value:11.5f}" for value in row))
    print(output / "pose.tfm")
    return 0
