"""The volume kernels as torch operators, one contract for all twins; see `_volume_torch` for what they do.

A twin is a module with `line_integral` and its gradients, `line_integral_data_gradient` and
`line_integral_ray_gradient`. As operators of `torch.library` they have fake kernels (shapes without
work, for torch.compile) and derivatives in the volume, the rays and their lengths.
"""

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

FARTHEST = 1e9  # voxels from the volume's corner to the source: beyond it, float64 loses the voxel


def _twin(name: str) -> ModuleType:
    """The kernels' module, loaded when it is first asked for."""
    return import_module(f"shapefit.render._volume_{name}")


@torch.library.custom_op("shapefit::line_integral", mutates_args=())
def line_integral(
    data: Tensor,
    structure: Tensor | None,
    source: Tensor,
    direction: Tensor,
    pixels: Tensor | None,
    lengths: Tensor,
    width: int,
    count: int,
    method: str,
    step: float,
    twin: str,
) -> Tensor:
    """Integrals (B, C, N) along rays through a volume (I, J, K), in the dtype of the lengths (N,).

    For sources (B, 3) and directions (B, 3, 3) in voxel coordinates, the rays' pixels (N,) as flat indices
    into rows of `width`, or None for all in order, and mm along each ray for each mm of depth.
    """
    _require_rays(source, direction)
    scene = (data, structure, source, direction, pixels, lengths)
    return _twin(twin).line_integral(*_detached(scene), width, count, method, step)


@torch.library.custom_op("shapefit::line_integral_data_gradient", mutates_args=())
def line_integral_data_gradient(
    grad: Tensor,
    data: Tensor,
    structure: Tensor | None,
    source: Tensor,
    direction: Tensor,
    pixels: Tensor | None,
    lengths: Tensor,
    width: int,
    method: str,
    step: float,
    twin: str,
) -> Tensor:
    """Gradient (I, J, K) of sum(grad * line_integral) in the volume."""
    scene = (grad.contiguous(), data, structure, source, direction, pixels, lengths)
    return _twin(twin).line_integral_data_gradient(*_detached(scene), width, method, step)


@torch.library.custom_op("shapefit::line_integral_ray_gradient", mutates_args=())
def line_integral_ray_gradient(
    grad: Tensor,
    data: Tensor,
    structure: Tensor | None,
    source: Tensor,
    direction: Tensor,
    pixels: Tensor | None,
    lengths: Tensor,
    width: int,
    method: str,
    step: float,
    twin: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of sum(grad * line_integral) in the sources (B, 3) and the directions (B, 3, 3)."""
    scene = (grad.contiguous(), data, structure, source, direction, pixels, lengths)
    return _twin(twin).line_integral_ray_gradient(*_detached(scene), width, method, step)


def require_pixels(pixels: Tensor, count: int) -> None:
    """Raise ValueError for pixels that are not among the `count` of the image."""
    if len(pixels) and not (pixels.min() >= 0 and pixels.max() < count):
        named = f"{int(pixels.min())} to {int(pixels.max())}"
        raise ValueError(f"pixels name {named}, and the image has {count}, from 0")


def _require_rays(source: Tensor, direction: Tensor) -> None:
    for b in range(len(source)):
        largest = float(torch.cat([source[b], direction[b].flatten()]).abs().amax())
        if not largest < FARTHEST:
            raise ValueError(
                f"view {b}: the source or its rays lie {largest:g} voxels from the volume: "
                "see the pose, the camera and the volume's affine"
            )


def _detached(tensors: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    return [tensor if tensor is None else tensor.detach() for tensor in tensors]


@line_integral.register_fake
def _(data, structure, source, direction, pixels, lengths, width, count, method, step, twin):
    return lengths.new_empty((len(source), count, len(lengths)))


@line_integral_data_gradient.register_fake
def _(grad, data, structure, source, direction, pixels, lengths, width, method, step, twin):
    return torch.empty_like(data)


@line_integral_ray_gradient.register_fake
def _(grad, data, structure, source, direction, pixels, lengths, width, method, step, twin):
    return torch.empty_like(source), torch.empty_like(direction)


def _keep_input(ctx, inputs, output):
    *scene, ctx.width, _, ctx.method, ctx.step, ctx.twin = inputs
    ctx.save_for_backward(*scene, output if scene[-1].requires_grad else None)


def _backward(ctx, grad):
    *scene, image = ctx.saved_tensors
    how = ctx.width, ctx.method, ctx.step, ctx.twin
    in_data, in_source, in_direction, in_lengths = None, None, None, None
    if ctx.needs_input_grad[0]:
        in_data = line_integral_data_gradient(grad, *scene, *how)
    if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
        in_source, in_direction = line_integral_ray_gradient(grad, *scene, *how)
    if ctx.needs_input_grad[5]:
        in_lengths = (grad * image).sum((0, 1)) / scene[-1]  # the image is linear in them
    return in_data, None, in_source, in_direction, None, in_lengths, *[None] * 5


line_integral.register_autograd(_backward, setup_context=_keep_input)
