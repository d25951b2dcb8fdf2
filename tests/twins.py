"""The renderer's backends for tests, each on a device where it runs; results come back to the CPU."""

import functools

import pytest
import torch

from shapefit import render
from shapefit.render._ops import TWINS

NO_TRITON = pytest.mark.skipif("triton" not in TWINS, reason="Triton is not installed (Linux only)")
# Triton's kernels run on the GPU where there is one, and else interpreted (see conftest.py)
BACKENDS = ["torch", "numba", pytest.param("triton", marks=NO_TRITON)]


def render_mesh(vertices, faces, camera_from_world, camera, structure=None, backend="numba", structures=None):
    device = _device(backend)
    given = _moved(device, vertices, faces, camera_from_world, structure)
    return render.render_mesh(*given[:3], camera, given[3], structures, backend).cpu()


def render_depths(vertices, faces, camera_from_world, camera, structure=None, backend="numba"):
    device = _device(backend)
    given = _moved(device, vertices, faces, camera_from_world, structure)
    first, last = render.render_depths(*given[:3], camera, given[3], backend=backend)
    return first.cpu(), last.cpu()


def render_volume(
    volume, camera_from_world, camera, method="trilinear", step=1.0, pixels=None, backend="numba"
):
    device = _device(backend)
    given = _moved(device, camera_from_world, pixels)
    moved = volume.to(device) if device != "cpu" else volume
    return render.render_volume(moved, given[0], camera, method, step, given[1], backend).cpu()


@functools.cache
def _device(backend):
    return "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"


def _moved(device, *tensors):
    return [tensor if tensor is None else tensor.to(device) for tensor in tensors]
