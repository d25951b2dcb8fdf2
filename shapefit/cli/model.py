"""`shapefit model ...`: what one does with a shape model."""

import json as jsons
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro

from shapefit.cli.options import File, Folder
from shapefit.settings import (
    ExportSettings,
    ModelFileSettings,
    ModesSettings,
    PosteriorSettings,
    SampleSettings,
)

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
ModelFile = Annotated[ModelFileSettings, tyro.conf.arg(name="")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
SHOWN = 10  # modes whose variance is printed


def info(model: Model, /, *, json: Flag = False, file: ModelFile = ModelFileSettings()) -> int:
    """Say what a shape model is: frame, licence, structures, modes and noise, landmarks, subjects.

    Args:
        model: a model file (ours, statismo, Scalismo), or the name of a model that comes with shapefit
        json: as one JSON object
    """
    from shapefit.jobs.model import model_info

    told = model_info(model, file)
    if json:
        print(jsons.dumps(told, indent=2))
        return 0
    frame = " ".join(filter(None, (told["frame"], told["units"])))
    file_frame = f" (file: {told['frame_of_file']})" if told["frame_of_file"] else ""
    print(f"{told['id'] or model}: {frame or 'frame and units are not stated'}{file_frame}")
    for key in ("license", "source", "read_from", "origin_in_file"):
        if told[key]:
            print(f"{key.replace('_', ' ')}: {told[key]}")
    print(f"{told['vertices']} vertices, {told['faces']} faces")
    for name, entry in told["structures"].items():
        state = f"{entry['open_edges']} open edges" if entry["open_edges"] else f"{entry['volume_ml']:.0f} ml"
        size = f"{entry['vertices']} vertices, {entry['faces']} faces"
        print(f"  {name} (label {entry['label']}): {size}, {state}")
    spread = f"std of the vertices {told['vertex_std_mm']:.2f} mm, of the noise {told['noise_std_mm']:.2f} mm"
    print(f"{told['modes']} modes; {spread}")
    if told["variance"]:
        print("  mode  variance  together  1 std moves the vertices by (rms)")
    for row in told["variance"][:SHOWN]:
        shares = f"{100 * row['share']:7.1f} %{100 * row['cumulative']:8.1f} %"
        print(f"  {row['mode']:4d} {shares}  {row['vertex_rms_mm']:.2f} mm")
    mirrored = " and their mirror images" if told["mirrored"] else ""
    for what, names in ((f"subjects{mirrored}", told["subjects"]), ("landmarks", told["landmarks"])):
        print(f"{len(names)} {what}{': ' if names else ''}{', '.join(names)}")
    for key, value in told["metadata"].items():
        print(f"{key}: {value}")
    return 0


def sample(
    model: Model,
    /,
    *,
    output: Folder,
    count: Annotated[int, tyro.conf.arg(aliases=("-n",), metavar="N")] = 10,
    settings: Annotated[SampleSettings, tyro.conf.arg(name="")] = SampleSettings(),
    file: ModelFile = ModelFileSettings(),
) -> int:
    """Draw random shapes from a shape model.

    Args:
        model: a model file, or the name of a model that comes with shapefit
        output: for sample_<i>/<structure>.<format> (mm, model frame) and coefficients.csv
        count: how many
    """
    from shapefit.jobs.model import sample_job

    sample_job(model, output, settings, count, file)
    print(output / "coefficients.csv")
    return 0


def modes(
    model: Model,
    /,
    *,
    output: Folder,
    settings: Annotated[ModesSettings, tyro.conf.arg(name="")] = ModesSettings(),
    file: ModelFile = ModelFileSettings(),
) -> int:
    """Write the mean of a shape model, and the shapes to either side of it along each mode.

    Args:
        model: a model file, or the name of a model that comes with shapefit
        output: for mean/ and mode_<i>_minus|plus_<k>_std/<structure>.<format>, and variance.csv
    """
    from shapefit.jobs.model import modes_job

    table = modes_job(model, output, settings, file)
    for row in table[: settings.modes or None]:
        print(f"mode {row['mode']}: {100 * row['share']:.1f} % of the variance")
    print(output)
    return 0


def posterior(
    model: Model,
    /,
    *,
    output: File,
    landmarks: Path | None = None,
    points: Path | None = None,
    settings: Annotated[PosteriorSettings, tyro.conf.arg(name="")] = PosteriorSettings(),
    file: ModelFile = ModelFileSettings(),
) -> int:
    """Condition a shape model on landmarks or vertices whose place in a patient is known.

    Args:
        model: a model file, or the name of a model that comes with shapefit
        output: the conditioned model, MODEL.h5, in the frame of the one it came from
        landmarks: landmarks in world mm, matched by name: .mrk.json, .fcsv or landmarks.json
        points: a CSV of vertex, x, y, z (world mm, RAS) and, if wanted, noise (mm)
    """
    from shapefit.jobs.posterior import posterior_job

    _, found = posterior_job(model, output, settings, landmarks, points, file)
    if found["not_in_model"]:
        print(f"not in the model: {', '.join(found['not_in_model'])}")
    print(f"{len(found['landmarks'])} landmarks and {found['points']} vertices; rigid pose world_from_model:")
    for row in found["world_from_model"]:
        print("  " + " ".join(f"{value:10.4f}" for value in row))
    print(
        f"distance at the points: {found['distance_before_mm']:.2f} mm (mean shape, posed) -> "
        f"{found['distance_after_mm']:.2f} mm; standard deviation of the vertices: "
        f"{found['vertex_std_before_mm']:.2f} -> {found['vertex_std_after_mm']:.2f} mm"
    )
    print(output)
    return 0


def export(
    model: Model,
    /,
    *,
    output: Folder,
    settings: Annotated[ExportSettings, tyro.conf.arg(name="")] = ExportSettings(),
    file: ModelFile = ModelFileSettings(),
) -> int:
    """Write a shape model for other programs: meshes, landmarks, scores, variances, statismo.

    Args:
        model: a model file, or the name of a model that comes with shapefit
        output: for <structure>.<format>, mean.vtp, landmarks.mrk.json and .fcsv, scores.csv, variance.csv
    """
    from shapefit.jobs.model import export_job

    for path in export_job(model, output, settings, file):
        print(path)
    return 0


# a union of constructors is how tyro spells a second level of commands
Action = reduce(
    or_,
    [
        Annotated[Any, tyro.conf.subcommand(command.__name__, constructor=command, prefix_name=False)]
        for command in (info, sample, modes, posterior, export)
    ],
)


def model(action: Annotated[Action, tyro.conf.arg(name="", prefix_name=False)]) -> int:  # type: ignore[valid-type]
    """Look into a shape model, draw from it, condition it, hand it to other programs."""
    return action
