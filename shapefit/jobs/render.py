"""A model or meshes -> their picture."""

from pathlib import Path

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from shapefit import se3
from shapefit.camera import world_from_view
from shapefit.interop import mesh_arrays
from shapefit.io.mesh import MESH_SUFFIXES, read_closed, read_closed_surfaces
from shapefit.io.model import read_model
from shapefit.io.xray import read_camera, write_image
from shapefit.render import Bone, Exposure, render_mesh, simulate_view
from shapefit.repair import RepairFindings
from shapefit.settings import MeshSettings, RenderSettings
from shapefit.spectra import spectrum


def render_job(
    source: str | Path,
    camera: Path,
    output: Path,
    settings: RenderSettings,
    meshes: MeshSettings | None = None,
) -> dict:
    """A path-length map (mm, all structures together) or X-ray of a model or of meshes -> one image file."""
    vertices, faces, structure, findings = _matter(source, settings, meshes)
    geometry, pose = read_camera(camera)
    if settings.picture not in ("paths", "xray"):
        raise ValueError(f"unknown picture {settings.picture!r}; expected 'paths' or 'xray'")
    if settings.view:
        centre = (vertices.amin(0) + vertices.amax(0)) / 2
        pose = world_from_view(settings.view, centre, settings.depth * float(geometry.sdd))
    elif pose is None:
        pose = torch.eye(4, dtype=torch.float64)
    if settings.picture == "xray":
        beam = spectrum(settings.kv, copper=settings.copper)
        materials = [Bone(settings.shell) if name == "bone" else name for name in settings.materials]
        if len(materials) == 1:
            materials *= int(structure.max()) + 1
        exposure = Exposure(spectrum=beam, photons=settings.photons)
        image = simulate_view(
            vertices, faces, structure, pose, geometry, settings.seed, exposure, materials
        ).image
    else:
        image = render_mesh(vertices[None], faces, se3.inverse(pose)[None], geometry, structure)[0].sum(0)
    grey = write_image(output, image, (float(geometry.dely), float(geometry.delx)))
    low, high = float(image.min()), float(image.max())
    told = {name: found.warnings() for name, found in findings.items()}
    return {"path": str(output), "lowest": low, "highest": high, "per_grey_level": grey, "findings": told}


def _matter(
    source: str | Path, settings: RenderSettings, meshes: MeshSettings | None
) -> tuple[Float64[Tensor, "V 3"], Int[Tensor, "F 3"], Int[Tensor, "F"], dict[str, RepairFindings]]:
    path = Path(source)
    if path.is_dir() or path.suffix.lower() in MESH_SUFFIXES:
        if settings.coefficients:
            raise ValueError(f"coefficients need a shape model, and {source} is meshes")
        if path.is_dir():
            surfaces, findings = read_closed_surfaces(path, settings=meshes)
        else:
            surface, found = read_closed(path, meshes)
            surfaces, findings = {path.stem: surface}, {path.stem: found} if found else {}
        vertices, faces, structure = mesh_arrays(surfaces)
        return vertices[0], faces, structure, findings
    model = read_model(source)
    coefficients = torch.tensor(settings.coefficients, dtype=torch.float64)
    return model.instance(coefficients), model.faces, model.structure, {}
