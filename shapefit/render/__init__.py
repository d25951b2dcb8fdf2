"""Differentiable X-rays of meshes, and simulated X-ray pictures."""

from shapefit.render.mesh import render_depths, render_mesh
from shapefit.render.xray import Exposure, shell_and_interior, simulate_view

__all__ = ["Exposure", "render_depths", "render_mesh", "shell_and_interior", "simulate_view"]
