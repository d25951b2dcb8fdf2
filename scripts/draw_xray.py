"""An X-ray of a model in a body of soft tissue, through the Python API: how docs/xray.png was drawn.

python scripts/draw_xray.py -o docs/xray.png
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import trimesh
import tyro
from PIL import Image

import shapefit as sf
from shapefit import se3


def main(
    *,
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    model: str = "pelvis",
    view: str = "ap",
    kv: float = 70.0,
    copper: float = 0.0,
    photons: float = 60_000.0,
) -> None:
    """Draw the mean shape of a model as an X-ray.

    Args:
        output: a PNG, bone bright, windowed on the logarithm
        model: a model file, or the name of one that comes with shapefit
        view: ap, pa, lateral or lateral-right
        kv: kV of the X-ray tube
        copper: mm of copper in the beam
        photons: detected per pixel of the open beam
    """
    bone = sf.read_model(model)
    scene = bone.surfaces(bone.mean)
    low, high = bone.mean.amin(0).numpy(), bone.mean.amax(0).numpy()
    body = trimesh.creation.icosphere(subdivisions=5)
    body.vertices = (low + high) / 2 + body.vertices * [1.3, 1.35, 2.2] * (high - low) / 2

    camera = sf.Camera(sdd=1150.0, delx=0.75, dely=0.75, x0=0.0, y0=0.0, height=460, width=560)
    pose = sf.world_from_view(view, torch.from_numpy((low + high) / 2), 880.0)
    picture = sf.render_xray(
        scene | {"body": body},
        se3.inverse(pose)[None],
        camera,
        materials=[sf.Bone()] * len(scene) + ["soft tissue"],
        within=[len(scene)] * len(scene) + [-1],  # bones take the place of soft tissue
        spectrum=sf.spectrum(kv, copper=copper),
        detector=sf.Detector(blur=0.5),
        photons=photons,
        generator=torch.Generator().manual_seed(0),
    )[0, 0]

    line = -picture.clamp(min=0.1 / photons).log().numpy()
    dark, bright = np.quantile(line, [0.02, 0.998])
    grey = ((line - dark) / (bright - dark)).clip(0, 1)
    Image.fromarray((255 * grey).astype(np.uint8)).save(output)
    print(f"{output}: {picture.min():.2g} to {picture.max():.2g} of the open beam")


if __name__ == "__main__":
    tyro.cli(main)
