"""Shape and pose of a bone from X-rays, through the Python API: what `shapefit fit` does, step by step.

python scripts/fit_shape.py ap.png --cameras ap.json --model pelvis -o out/ap
"""

import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro

import shapefit as sf
from shapefit import se3


def main(
    images: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    cameras: tuple[Path, ...],
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    model: str = "pelvis",
    settings: Annotated[sf.FitSettings, tyro.conf.arg(name="")] = sf.FitSettings(),
) -> None:
    """Fit a shape model to X-rays and write the meshes.

    Args:
        images: X-rays of one bone
        cameras: their camera files, in the same order
        output: folder for the meshes and a picture of each view's path lengths
        model: a model file, or the name of one that comes with shapefit
    """
    bone = sf.read_model(model)
    views = [sf.read_view(image, camera) for image, camera in zip(images, cameras, strict=True)]

    fit = sf.fit_xrays(
        bone, views, settings, lambda what, share: print(f"{share:4.0%} {what}", file=sys.stderr)
    )
    if not fit.converged:
        sys.exit(f"no fit was found: {fit.reason}")

    # The fit is numbers; the model turns them into surfaces, and the renderer surfaces into pictures.
    surfaces = bone.surfaces(fit.vertices)
    sf.write_surfaces(output, surfaces)
    for view, world_from_camera in zip(views, fit.world_from_camera, strict=True):
        camera_from_world = se3.inverse(world_from_camera)[None]
        paths = sf.render_mesh(fit.vertices[None], bone.faces, camera_from_world, view.camera, bone.structure)
        sf.write_image(output / f"{view.name}_paths.tif", paths[0].sum(0))

    for view, loss, terms in zip(views, fit.losses, fit.terms, strict=True):
        print(f"{view.name}: loss {loss:.3f}", {name: round(value, 3) for name, value in terms.items()})
    largest = torch.topk(fit.coefficients.abs(), min(3, len(fit.coefficients))).indices.tolist()
    print("largest coefficients (std):", {k: round(float(fit.coefficients[k]), 2) for k in largest})
    for name, mesh in surfaces.items():
        print(f"{output / name}.ply: {mesh.volume / 1000:.0f} ml")


if __name__ == "__main__":
    tyro.cli(main)
