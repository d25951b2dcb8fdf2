"""From segmentations to a model, from images to a bone, from results to figures, from a bone to a picture."""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from shapefit.cli.options import (
    FIT_FAILED,
    INTERRUPTED,
    Cases,
    File,
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
from shapefit.settings import (
    BuildSettings,
    EvaluateSettings,
    FitSettings,
    MeshSettings,
    ProjectSettings,
    RenderSettings,
    SurfaceSettings,
)


def build(
    cases: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CASE [CASE ...]")],
    /,
    *,
    output: File,
    labels: Labels = (),
    settings: Annotated[BuildSettings, tyro.conf.arg(name="")] = BuildSettings(),
    surface: SurfaceSettings = SurfaceSettings(),
    meshes: Meshes = MeshSettings(),
    fresh: bool = False,
) -> int:
    """Train a shape model from segmentations. An interrupted build goes on where it stopped.

    Args:
        cases: label maps (NIfTI, NRRD), or folders of closed <structure>.ply, .stl, .obj or .vtp meshes
        output: the model, MODEL.h5; its card and report appear beside it
        labels: which label is which structure, as in sacrum=1 hip_left=2; a name alone (sacrum) where the
            file or TotalSegmentator's table knows its label; all meshes of a folder if absent
        fresh: start anew, also if an interrupted build of this model has left finished pieces
    """
    from shapefit.jobs import build_job
    from shapefit.jobs.build import work_folder

    kept = work_folder(output)
    if kept.is_dir() and not fresh:
        pieces = len(list(kept.glob("*.npz")))
        print(f"shapefit: {kept} holds {pieces} finished pieces: what still fits is taken over "
              "(--fresh starts anew)", file=sys.stderr)  # fmt: skip
    numbers = label_numbers(labels)
    try:
        with progress_bar("build") as progress:
            model = build_job(
                cases, numbers, output, settings, surface, command_line(), progress, meshes, fresh
            )
    except (KeyboardInterrupt, ValueError, OSError) as error:
        if kept.is_dir():
            print(f"shapefit: what is finished is in {kept}; the same command goes on from it",
                  file=sys.stderr)  # fmt: skip
        if not isinstance(error, KeyboardInterrupt):
            raise
        return INTERRUPTED
    card = json.loads(output.with_suffix(".card.json").read_text())
    for name, findings in card["findings"].items():
        tell(findings, f"{name}/")
    for name, reason in card.get("failures", {}).items():
        print(f"shapefit: {name} is not in the model: {reason}", file=sys.stderr)
    print(f"{model.metadata['id']}: {len(model.mean)} vertices, {len(model.std)} shape modes")
    for suffix in (".h5", ".card.json", ".html"):
        print(output.with_suffix(suffix))
    return 0


def project(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    case: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")],
    /,
    *,
    output: Folder,
    settings: Annotated[ProjectSettings, tyro.conf.arg(name="")] = ProjectSettings(),
    meshes: Meshes = MeshSettings(),
) -> int:
    """Fit a shape model to a 3D segmentation: what the model can say at best.

    Args:
        model: a model file, or the name of a model that comes with shapefit (pelvis)
        case: a label map, or a folder of meshes
        output: for <structure>.ply (world mm) and fit.json
    """
    from shapefit.jobs import project_job

    with progress_bar("project") as progress:
        record = project_job(model, case, output, settings, command_line(), progress, meshes)
    tell(record["findings"])
    for name, value in record["residual"].items():
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    print(output / "fit.json")
    return 0


def fit(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")],
    /,
    *,
    model: str,
    output: Folder,
    camera: Files = (),
    mask: Files = (),
    init: Start = "auto",
    network: str | None = None,
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
    settings: Annotated[FitSettings, tyro.conf.arg(name="")] = FitSettings(),
) -> int:
    """Find shape and pose of a bone from one or more X-rays, jointly. Exit status 3: no fit was found.

    Args:
        images: X-rays: PNG, TIFF, NIfTI, DICOM or .npy
        model: a model file, or the name of a model that comes with shapefit (pelvis)
        output: for <structure>.ply (world mm), fit.json, overlay_<i>.png and report.html
        camera: camera files (JSON), one per image; not needed for DICOM whose tags give the geometry
        mask: integer images, one per X-ray: 1.. the model's structures in order, 0 background, 255 ignore
        init: where to begin. scene: where a network sees the bone; prior: a search over all views; auto:
            scene if there is a network of the model and it sees the bone, and where that is doubtful the
            better of both within what the network's covariance allows; or the fit.json of a fit or of
            locate, whose shape and poses are taken
        network: a file of `shapefit train-scene`, or a name; if absent, that which comes with shapefit
        polarity: how bone looks in the images: bone-dark, bone-bright or auto
        seen_from: from where the images show the patient: source or detector (then they are flipped)
        frame: which frame of an image with several, from 0
    """
    from shapefit.jobs import fit_job
    from shapefit.report.fit_text import start_in_words

    with progress_bar("fit") as progress:
        record = fit_job(
            images, camera, model, output, settings, mask, init, polarity, seen_from, frame,
            command_line(), progress, network,
        )  # fmt: skip
    if said := start_in_words(record["start"]):
        print(f"begun {said}")
    for view in record["views"]:
        terms = ", ".join(f"{name} {value:.3f}" for name, value in view["terms"].items())
        dice = "".join(f", Dice {name} {value:.3f}" for name, value in (view["dice"] or {}).items())
        if terms:
            print(f"{view['name']}: loss {view['loss']:.4f} ({terms}){dice}")
    print(f"{record['seconds']:.1f} s")
    print(output / "report.html")
    if not record["converged"]:
        print(f"shapefit: no fit was found: {record['reason']}; no mesh was written", file=sys.stderr)
        return FIT_FAILED
    return 0


def evaluate(
    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR [DIR ...]")],
    /,
    *,
    reference: Cases,
    output: Folder,
    labels: Labels = (),
    structures: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STRUCTURE [...]")] = (),
    settings: Annotated[EvaluateSettings, tyro.conf.arg(name="")] = EvaluateSettings(),
    meshes: Meshes = MeshSettings(),
) -> int:
    """Measure results against references: surface distances per structure and in all.

    Args:
        results: folders that `shapefit fit`, `locate` or `project` wrote, or `register`, of meshes
        reference: label maps or folders of meshes, one per result in the same order, or one for all
        output: for metrics.json, metrics.csv and report.html
        labels: labels of the reference's structures, as for build, where the result's model does not say them
        structures: only these; all that the model has if absent
    """
    from shapefit.jobs import evaluate_job

    with progress_bar("evaluate") as progress:
        table = evaluate_job(
            results,
            reference,
            output,
            settings,
            label_numbers(labels),
            structures,
            command_line(),
            progress,
            meshes,
        )
    for measured in table["records"]:
        tell(measured.get("findings", {}), f"{measured['case']}/")
    for alignment, by_structure in table["table"].items():
        figures = by_structure["all"]
        shown = [f"{name} {figures[name]['mean']:.2f} mm" for name in ("assd", "hd95", "hausdorff")
                 if name in figures and figures[name]["mean"] is not None]  # fmt: skip
        print(f"{alignment}: {', '.join(shown) or 'nothing could be measured'}")
    print(f"{table['cases']} cases, {len(table['failures'])} failures")
    print(output / "report.html")
    return 0


def render(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_MESHES")],
    /,
    *,
    camera: Path,
    output: File,
    settings: Annotated[RenderSettings, tyro.conf.arg(name="")] = RenderSettings(),
    meshes: Meshes = MeshSettings(),
) -> int:
    """Draw a path-length map or an X-ray of a model or of meshes.

    Args:
        source: a model (file or name), a mesh, or a folder of meshes in world mm
        camera: a camera file (JSON); the identity is its pose if it names none
        output: .png (16 bit; its text "scale" is the value of a grey level), .tif, .npy (float) or .nii.gz
    """
    from shapefit.jobs import render_job

    drawn = render_job(source, camera, output, settings, meshes)
    tell(drawn["findings"])
    print(f"{drawn['lowest']:.4g} to {drawn['highest']:.4g} {'mm' if settings.picture == 'paths' else ''}")
    print(output)
    return 0
