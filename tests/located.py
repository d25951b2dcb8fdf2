"""A small location for tests: a network that knows the answer, two X-rays, and the pose behind them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import small
import torch
from torch.nn.functional import pad

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.io.xray import write_camera, write_image
from shapefit.render import render_mesh
from shapefit.render.coordinates import render_coordinates
from shapefit.scene.network import UNIT, SceneNetwork
from shapefit.settings import LocateSettings
from shapefit.shape_model import ShapeModel

CAMERA = Camera(sdd=1020.0, delx=2.0, dely=2.0, x0=0.0, y0=0.0, height=64, width=72)
VIEWS = ("ap", "lateral")
TRUTH = se3.exp(torch.tensor([0.05, -0.04, 0.06, 3.0, -2.0, 2.5], dtype=torch.float64))
LOOKS = LocateSettings().looks
COEFFICIENTS = (0.8, -0.6, 0.4)


class World(NamedTuple):
    """A model, the shape that was seen, and the files of its X-rays."""

    model: ShapeModel
    coefficients: torch.Tensor
    vertices: torch.Tensor  # world mm
    images: list[Path]
    cameras: list[Path]


class Knowing:
    """Says what it was told, image by image, whatever it is shown, and at each look where the image is."""

    def __init__(self, answers: Sequence[torch.Tensor]):
        self.answers, self.asked = list(answers), 0

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        answer = self.answers[self.asked // LOOKS % len(self.answers)]
        self.asked += 1
        valid = image[0, 1] > 0
        down, right = int(valid.any(1).int().argmax()), int(valid.any(0).int().argmax())
        below, beside = (a - b for a, b in zip(image.shape[-2:], answer.shape[-2:], strict=True))
        return pad(answer, (right, beside - right, down, below - down))


def pose(name: str) -> torch.Tensor:
    return world_from_view(name, torch.zeros(3, dtype=torch.float64), 734.0)


def write_world(folder: Path) -> World:
    """X-rays of a shape of the small model at `TRUTH`, and their cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    model = small.small_model()
    coefficients = torch.zeros(model.modes, dtype=torch.float64)
    coefficients[: len(COEFFICIENTS)] = torch.tensor(COEFFICIENTS)
    vertices = se3.transform(TRUTH, model.instance(coefficients))
    images, cameras = ([folder / f"{name}{suffix}" for name in VIEWS] for suffix in (".png", ".json"))
    for name, image, camera in zip(VIEWS, images, cameras, strict=True):
        camera_from_world = se3.inverse(pose(name))[None]
        paths = render_mesh(vertices[None], model.faces, camera_from_world, CAMERA, model.structure)[0]
        rows = torch.linspace(0, 1, CAMERA.height, dtype=torch.float64)[:, None]
        write_image(image, 0.9 * torch.exp(-0.02 * paths.sum(0) - 0.3 * rows))
        write_camera(camera, CAMERA, pose(name))
    return World(model, coefficients, vertices, images, cameras)


def knowing_network(world: World, views: Sequence[str] = VIEWS, std: float = 2.0) -> SceneNetwork:
    """A network that sees exactly what is there in these views, and says that it may err by `std` mm."""
    model = world.model
    network = SceneNetwork(model.mean, model.faces, model.names, 72, (2, 2), 0)
    answers = []
    for name in views:
        seen = render_coordinates(
            world.vertices[None], model.faces, se3.inverse(pose(name))[None], CAMERA, model.mean,
            model.structure, len(model.names),
        )  # fmt: skip
        spread = torch.full_like(seen.entry[:, :2], 2 * math.log(std / UNIT))
        logits = 24.0 * seen.hit.to(seen.entry) - 12.0
        answers.append(torch.cat([seen.entry / UNIT, seen.exit / UNIT, spread, logits], 1).float())
    network.forward = Knowing(answers)
    return network


def blind_network(world: World) -> SceneNetwork:
    """A network that never sees a bone."""
    network = knowing_network(world)
    for answer in network.forward.answers:
        answer[:, 8:] = -12.0
    return network
