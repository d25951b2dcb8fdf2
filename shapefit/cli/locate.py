"""A bone located in X-rays by a network that was trained on its shape model."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from shapefit.cli.options import FIT_FAILED, Files, Folder, command_line, progress_bar
from shapefit.settings import LocateSettings


def locate(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")],
    /,
    *,
    output: Folder,
    camera: Files = (),
    network: str = "pelvis-scene",
    model: str = "pelvis",
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
    settings: Annotated[LocateSettings, tyro.conf.arg(name="")] = LocateSettings(),
) -> int:
    """Locate a bone in one or more X-rays by a network, at once. Exit status 3: it was not found.

    A quick answer, in about a second; `shapefit fit` refines it (--init DIR/fit.json).

    Args:
        images: X-rays: PNG, TIFF, NIfTI, DICOM or .npy
        output: for <structure>.ply (world mm), fit.json, overlay_<i>.png, structures_<i>.png, entry_<i>.png,
            exit_<i>.png, std_<i>.png and report.html
        camera: camera files (JSON), one per image; not needed for DICOM whose tags give the geometry
        network: a file of `shapefit train-scene`, or the name of one that comes with shapefit (pelvis-scene)
        model: the shape model that the network was trained on, file or name (pelvis); the model.h5 of its
            folder of X-rays always is
        polarity: how bone looks in the images: bone-dark, bone-bright or auto
        seen_from: from where the images show the patient: source or detector (then they are flipped)
        frame: which frame of an image with several, from 0
    """
    from shapefit.jobs import locate_job

    with progress_bar("locate") as progress:
        record = locate_job(
            images, camera, output, settings, network, model, polarity, seen_from, frame,
            command_line(), progress,
        )  # fmt: skip
    for view in record["views"]:
        print(f"{view['name']}: {100 * view['inlier_share']:.0f} % inliers")
    if record["uncertainty"]:
        print(record["uncertainty"])
    print(f"{record['seconds']:.1f} s")
    print(output / "report.html")
    if not record["converged"]:
        print(f"shapefit: nothing was located: {record['reason']}; no mesh was written", file=sys.stderr)
        return FIT_FAILED
    return 0
