"""Differentiable X-rays of meshes."""

from shapefit.render.mesh import render_depths, render_mesh

__all__ = ["render_depths", "render_mesh"]
