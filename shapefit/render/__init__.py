"""Differentiable X-rays of meshes and volumes, and simulated X-ray pictures."""

from shapefit.render.mesh import render_depths, render_mesh
from shapefit.render.radiograph import ct_paths, render_radiograph, simulate_radiograph
from shapefit.render.signal import Detector, attenuation, detector_blur, detector_signal, poisson_noise
from shapefit.render.simulate import Exposure, simulate_view
from shapefit.render.volume import render_volume
from shapefit.render.xray import Bone, material_paths, render_xray, shell_and_interior

__all__ = [
    "Bone",
    "Detector",
    "Exposure",
    "attenuation",
    "ct_paths",
    "detector_blur",
    "detector_signal",
    "material_paths",
    "poisson_noise",
    "render_depths",
    "render_mesh",
    "render_radiograph",
    "render_volume",
    "render_xray",
    "shell_and_interior",
    "simulate_radiograph",
    "simulate_view",
]
