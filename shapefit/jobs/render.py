"""A model or meshes -> their picture."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from shapefit import se3
from shapefit.camera import world_from_view
from shapefit.io.mesh import MESH_SUFFIXES, read_mesh, read_surfaces
from shapefit.io.model import read_model
from shapefit.io.xray import read_camera, write_image
from shapefit.render import render_mesh
from shapefit.render.simulate import simulate_view
from shapefit.settings import RenderSettings


def render_job(source: str | Path, camera: Path, output: Path, settings: RenderSettings) -> dict:
    """A path-length map (mm, all structures together) or X-ray of a model or of meshes -> one image file."""
    vertices, faces, structure = _matter(source, settings)
    geometry, pose = read_camera(camera)
    if settings.picture not in ("paths", "xray"):
        raise ValueError(f"unknown picture {settings.picture!r}; expected 'paths' or 'xray'")
    if settings.view:
        centre = (vertices.amin(0) + vertices.amax(0)) / 2
        pose = world_from_view(settings.view, centre, settings.depth * float(geometry.sdd))
    elif pose is None:
        pose = torch.eye(4, dtype=torch.float64)
    if settings.picture == "xray":
        image = simulate_view(vertices, faces, structure, pose, geometry, settings.seed).image
    else:
        image = render_mesh(vertices[None], faces, se3.inverse(pose)[None], geometry, structure)[0].sum(0)
    grey = write_image(output, image, (float(geometry.dely), float(geometry.delx)))
    low, high = float(image.min()), float(image.max())
    return {"path": str(output), "lowest": low, "highest": high, "per_grey_level": grey}


def _matter(
    source: str | Path, settings: RenderSettings
) -> tuple[Float64[Tensor, "V 3"], Int[Tensor, "F 3"], Int[Tensor, "F"]]:
    path = Path(source)
    if path.is_dir() or path.suffix.lower() in MESH_SUFFIXES:
        if settings.coefficients:
            raise ValueError(f"coefficients need a shape model, and {source} is meshes")
        meshes = list((read_surfaces(path) if path.is_dir() else {path.stem: read_mesh(path)}).values())
        start = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
        vertices = np.concatenate([np.asarray(mesh.vertices, dtype=np.float64) for mesh in meshes])
        faces = np.concatenate([np.asarray(m.faces) + n for m, n in zip(meshes, start, strict=False)])
        structure = np.repeat(np.arange(len(meshes)), [len(mesh.faces) for mesh in meshes])
        return torch.from_numpy(vertices), torch.from_numpy(faces), torch.from_numpy(structure)
    model = read_model(source)
    coefficients = torch.tensor(settings.coefficients, dtype=torch.float64)
    return model.instance(coefficients), model.faces, model.structure
