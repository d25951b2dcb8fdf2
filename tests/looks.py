"""What a network would see of a bone in an X-ray, if it erred as it is told to."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.render.coordinates import render_coordinates
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.locate import Look
from shapefit.shape_model import ShapeModel


def pose_near(view: str, depth: float, twist: Tensor, shift: Tensor | None = None) -> Tensor:
    """camera_from_model: a standard view, the bone moved in its own frame, then in the camera's."""
    origin = torch.zeros(3, dtype=torch.float64)
    moved = torch.eye(4, dtype=torch.float64)
    if shift is not None:
        moved[:3, 3] = shift
    return moved @ se3.inverse(world_from_view(view, origin, depth)) @ se3.exp(twist.double())


def smooth_noise(shape: tuple[int, ...], width: float, generator: torch.Generator) -> Tensor:
    """Standard normal noise whose neighbours are alike over `width` pixels (standard deviation of a blur)."""
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if width <= 0:
        return noise
    reach = int(4 * width)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2).double()
    kernel = kernel / kernel.square().sum().sqrt()
    images = noise.reshape(-1, 1, *shape[-2:])
    images = conv2d(images, kernel[None, None, :, None], padding="same")
    return conv2d(images, kernel[None, None, None], padding="same").reshape(shape)


def look_at(
    model: ShapeModel,
    coefficients: Tensor,
    camera_from_model: Tensor,
    camera: Camera,
    std: float = 0.0,  # mm, of each axis of the coordinates
    width: float = 0.0,  # pixels over which errors are alike
    outliers: float = 0.0,  # share of pixels that say anything within 100 mm
    seed: int = 0,
    world_from_camera: Tensor | None = None,
    name: str = "view",
    template: Tensor | None = None,
) -> Look:
    """A shape of the model in an X-ray, by places of a template (else the model's mean).

    `std` is known to the network, the outliers are not.
    """
    generator = torch.Generator().manual_seed(seed)
    vertices = model.instance(coefficients.double())
    values = render_coordinates(
        vertices[None],
        model.faces,
        camera_from_model[None],
        camera,
        model.mean if template is None else template,
        model.structure,
    )
    size = (1, 3, camera.height, camera.width)
    bad = torch.rand(1, 1, camera.height, camera.width, generator=generator) < outliers
    maps = []
    for image in (values.entry, values.exit):
        image = image + std * smooth_noise(size, width, generator)
        anything = 200 * (torch.rand(size, generator=generator, dtype=torch.float64) - 0.5)
        maps.append(torch.where(bad, anything, image).float())
    stds = torch.full((1, camera.height, camera.width), max(std, 0.3))
    valid = torch.ones(camera.height, camera.width, dtype=torch.bool)
    seen = Coordinates(maps[0], maps[1], stds, stds, values.hit.float())
    return Look(seen, camera, valid, world_from_camera, name)
