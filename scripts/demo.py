"""An X-ray of a pelvis unknown to the model -> shape and pose -> out/demo/report.html.

The X-ray is SIMULATED, so that the answer is known: a random shape of the model, bent by a smooth
deformation that the model does not contain, turned and shifted, with soft tissue and noise. The true
surface can therefore be approached but not reached exactly; the report shows how near the model could
come at best (fitted to the true surface itself) and what the mean shape would have given.
"""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tqdm import tqdm

import shapefit as sf
from shapefit import se3
from shapefit.jobs.fit import write_fit
from shapefit.metrics import ALL

CAMERA = sf.Camera(sdd=1020.0, delx=1.552, dely=1.552, x0=0.0, y0=0.0, height=192, width=192)
SOURCE_TO_CENTRE = 720.0  # mm; the field is then 210 mm wide and cuts the pelvis off at both sides
BUMP_WIDTH, BUMP_SIZE = 30.0, 4.0  # mm: how smooth the deformation is, and its mean length
NOTE = (
    "The X-ray is simulated from a known pelvis: a random shape of the model, bent by a smooth deformation "
    "outside the model, so the truth is known and cannot be reached exactly. "
    "This says nothing of real patients."
)


def unknown_pelvis(model: sf.ShapeModel, seed: int) -> torch.Tensor:
    """Vertices (V, 3) in world mm: random coefficients, smooth bumps outside the model, a small motion."""
    draw = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(model.modes, generator=draw, dtype=torch.float64).clamp(-2, 2)
    vertices = model.instance(coefficients)
    bumps = torch.zeros_like(vertices)
    for centre in torch.randperm(len(vertices), generator=draw)[:20]:
        distance = (vertices - vertices[centre]).norm(dim=1, keepdim=True)
        push = torch.randn(3, generator=draw, dtype=torch.float64)
        bumps += torch.exp(-0.5 * (distance / BUMP_WIDTH) ** 2) * push
    modes = model.components.flatten(1)
    bumps -= (modes.T @ (modes @ bumps.flatten())).view_as(bumps)  # what the model could say is taken out
    vertices = vertices + bumps * BUMP_SIZE / bumps.norm(dim=1).mean()
    turn = torch.deg2rad(torch.tensor([7.0, -5.0, 3.0], dtype=torch.float64))
    shift = torch.tensor([12.0, 15.0, -8.0], dtype=torch.float64)
    return se3.transform(se3.exp(torch.cat([turn, torch.zeros(3, dtype=torch.float64)])), vertices) + shift


def main(
    model: str = "pelvis",
    output: Path = Path("out/demo"),
    settings: Annotated[sf.FitSettings, tyro.conf.arg(name="")] = sf.FitSettings(),
) -> None:
    """Simulate an X-ray of an unknown pelvis, fit the model to it, and report how near it came.

    Another --seed is another pelvis and other noise.

    Args:
        model: a model file, or the name of a model that comes with shapefit
        output: folder for report.html, meshes and fit.json; the simulated input goes into input/
    """
    began = time.monotonic()
    bone = sf.read_model(model)

    # The input, as files, as a patient's would be: an image, and a camera with the pose of an AP view.
    pose = sf.world_from_view("ap", torch.zeros(3), SOURCE_TO_CENTRE)
    hidden = unknown_pelvis(bone, settings.seed)
    truth = bone.surfaces(hidden)
    simulated = sf.simulate_view(hidden, bone.faces, bone.structure, pose, CAMERA, settings.seed)
    given = output / "input"
    sf.write_surfaces(given / "truth", truth)
    sf.write_image(given / "xray.png", simulated.image)
    sf.write_camera(given / "camera.json", CAMERA, pose)
    print(f"A simulated X-ray of a pelvis that the model does not know: {given / 'xray.png'}")

    # The fit sees these two files and nothing else.
    view = sf.read_view(given / "xray.png", given / "camera.json")
    with tqdm(total=1.0, desc="fit", bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}") as bar:

        def progress(what: str, share: float) -> None:
            bar.set_description_str(f"fit, {what}", refresh=False)
            bar.update(share - bar.n)

        found = sf.fit_xrays(bone, [view], settings, progress)

    # How near it came, beside the mean shape in the same pose and the best that the model can say.
    print("Comparing with the true surface...", file=sys.stderr)
    figures = {"this fit": sf.compare(bone.surfaces(found.vertices), truth, views=[view], name="fit")}
    mean = bone.surfaces(se3.transform(found.world_from_model, bone.mean))
    figures["mean shape at the same pose"] = sf.compare(mean, truth, views=[view], name="mean")
    # no need to search for the placement here: patient and model have the same axes to within a few degrees
    brief = sf.ProjectSettings(starts=1, rigid_steps=10, steps=15)
    best = bone.surfaces(sf.fit_surface(bone, truth, brief).vertices)
    figures["the model fitted to the true surface"] = sf.compare(best, truth, views=[view], name="best")
    command = shlex.join(["python", *sys.argv])
    images = [given / "xray.png"]
    baselines = {name: figures[name] for name in list(figures)[1:]}
    write_fit(
        output, bone, [view], images, found, settings, command, truth, figures["this fit"], baselines, NOTE
    )

    print(f"\n{'distance from the true surface, mm':<40}{'ASSD':>8}{'HD95':>8}   similarity-aligned ASSD")
    for name, record in figures.items():
        absolute, similar = (record["metrics"][kind][ALL] for kind in ("absolute", "similarity"))
        print(f"{name:<40}{absolute['assd']:8.2f}{absolute['hd95']:8.2f}{similar['assd']:12.2f}")
    print("\nThe X-ray is simulated; the truth has a part that the model cannot express.")
    print(f"Fitted in {found.seconds:.0f} s, {time.monotonic() - began:.0f} s in all. The report:")
    print((output / "report.html").resolve())
    if not found.converged:
        sys.exit(f"the fit did not succeed: {found.reason}")


if __name__ == "__main__":
    tyro.cli(main)
