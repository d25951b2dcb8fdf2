"""The mesh kernels as torch operators, one contract for all twins.

A twin is a module with four functions, `signed_depth`, `depth_range` and their gradients. As operators of
`torch.library` they have fake kernels (shapes without work, for torch.compile), derivatives in the
points, and float32 under autocast; their input is checked when they run, compiled or not.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from shapefit.render._checks import require_renderable

# Triton comes with PyTorch for CUDA on Linux, and not everywhere else
TWINS = ("torch", "numba", "triton") if find_spec("triton") else ("torch", "numba")


def chosen_twin(backend: str, device: torch.device) -> str:
    """The twin that a backend's name stands for on a device; ValueError for a name that is unknown."""
    if backend == "auto":
        return "numba" if device.type == "cpu" else "triton" if "triton" in TWINS else "torch"
    if backend not in TWINS:
        choices = ", ".join(f"'{name}'" for name in ("auto", *TWINS))
        raise ValueError(f"unknown backend {backend!r}; expected one of {choices}")
    return backend


def _twin(name: str) -> ModuleType:
    """The kernels' module, loaded when it is first asked for."""
    return import_module(f"shapefit.render._mesh_{name}")


@torch.library.custom_op("shapefit::signed_depth", mutates_args=())
def signed_depth(
    points: Tensor, faces: Tensor, structure: Tensor, lengths: Tensor, count: int, twin: str
) -> Tensor:
    """Depth inside each structure along every pixel's ray, times its length: paths (B, S, H, W) in mm.

    For homogeneous pixel points (B, V, 3), faces (F, 3), the structure of each (F,), and mm along the ray
    for each mm of depth (H, W), whose dtype the image has.
    """
    require_renderable(points, faces, structure, count)
    return _twin(twin).signed_depth(points, faces, structure, count, lengths)


@torch.library.custom_op("shapefit::signed_depth_gradient", mutates_args=())
def signed_depth_gradient(
    grad: Tensor, points: Tensor, faces: Tensor, structure: Tensor, lengths: Tensor, twin: str
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * signed_depth) in the points."""
    return _twin(twin).signed_depth_gradient(grad.contiguous(), points, faces, structure, lengths)


@torch.library.custom_op("shapefit::depth_range", mutates_args=())
def depth_range(
    points: Tensor,
    faces: Tensor,
    structure: Tensor,
    count: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    twin: str,
) -> tuple[Tensor, Tensor]:
    """First entry and last exit (2, B, S, H, W), 0 where a ray misses, and the face of each, else -1."""
    require_renderable(points, faces, structure, count)
    return _twin(twin).depth_range(points, faces, structure, count, height, width, dtype)


@torch.library.custom_op("shapefit::depth_range_gradient", mutates_args=())
def depth_range_gradient(
    grad: Tensor, hits: Tensor, points: Tensor, faces: Tensor, structure: Tensor, twin: str
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * depths) in the points, given the faces that were hit."""
    return _twin(twin).depth_range_gradient(grad.contiguous(), hits, points, faces, structure)


@signed_depth.register_fake
def _(points, faces, structure, lengths, count, twin):
    return lengths.new_empty((len(points), count, *lengths.shape))


@depth_range.register_fake
def _(points, faces, structure, count, height, width, dtype, twin):
    shape = (2, len(points), count, height, width)
    return points.new_empty(shape, dtype=dtype), points.new_empty(shape, dtype=torch.int32)


@signed_depth_gradient.register_fake
def _(grad, points, faces, structure, lengths, twin):
    return torch.empty_like(points)


@depth_range_gradient.register_fake
def _(grad, hits, points, faces, structure, twin):
    return torch.empty_like(points)


def _keep_input(ctx, inputs, output):
    points, faces, structure, lengths, _, ctx.twin = inputs
    ctx.save_for_backward(points, faces, structure, lengths, output if lengths.requires_grad else None)


def _signed_depth_backward(ctx, grad):
    *scene, lengths, image = ctx.saved_tensors
    in_points, in_lengths = None, None
    if ctx.needs_input_grad[0]:
        in_points = signed_depth_gradient(grad, *scene, lengths, ctx.twin)
    if ctx.needs_input_grad[3]:
        in_lengths = (grad * image).sum((0, 1)) / lengths  # the image is linear in them
    return in_points, None, None, in_lengths, None, None


def _keep_input_and_hits(ctx, inputs, output):
    points, faces, structure, *_, ctx.twin = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], points, faces, structure)


def _depth_range_backward(ctx, grad, _):
    return depth_range_gradient(grad, *ctx.saved_tensors, ctx.twin), *[None] * 7


signed_depth.register_autograd(_signed_depth_backward, setup_context=_keep_input)
depth_range.register_autograd(_depth_range_backward, setup_context=_keep_input_and_hits)
