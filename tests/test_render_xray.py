import numpy as np
import pytest
import torch
import trimesh

from shapefit.camera import Camera, world_from_view
from shapefit.render.xray import Exposure, shell_and_interior, simulate_view
from shapefit.se3 import inverse

CAMERA = Camera(1020.0, 3.0, 3.0, 0.0, 0.0, 96, 96)
POSE = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0)
BALL = trimesh.creation.icosphere(subdivisions=4, radius=50)
VERTICES, FACES = torch.tensor(np.array(BALL.vertices)), torch.tensor(np.array(BALL.faces))
ONE = torch.zeros(len(FACES), dtype=torch.int64)


def test_the_shell_of_a_ball_has_the_path_of_two_concentric_balls():
    outer, inner = shell_and_interior(VERTICES[None], FACES, inverse(POSE)[None], CAMERA, 5.0)
    middle = outer[0, 0, 47:49, 47:49], inner[0, 0, 47:49, 47:49]
    assert torch.allclose(middle[0], torch.tensor(100.0).double(), atol=0.5)
    assert torch.allclose(middle[0] - middle[1], torch.tensor(10.0).double(), atol=0.2)


def test_a_simulated_view_is_bone_dark_noisy_and_repeatable():
    one, same, other = (simulate_view(VERTICES, FACES, ONE, POSE, CAMERA, seed) for seed in (1, 1, 2))
    assert torch.equal(one.image, same.image) and not torch.equal(one.image, other.image)
    assert float(one.image.min()) >= 0 and float(one.image.max()) <= 1
    clean = Exposure(gas=0, photons=1e6, blur=0.0)
    image = simulate_view(VERTICES, FACES, ONE, POSE, CAMERA, 0, clean).image
    assert float(image[44:52, 44:52].mean()) < float(image[44:52, :8].mean())


def test_noise_falls_with_the_number_of_photons():
    def spread(photons: float) -> float:
        image = simulate_view(VERTICES, FACES, ONE, POSE, CAMERA, 3, Exposure(gas=0, photons=photons)).image
        return float((image[40:56, 40:56] / image[40:56, 40:56].mean()).std())

    assert spread(100.0) > 3 * spread(10_000.0)
