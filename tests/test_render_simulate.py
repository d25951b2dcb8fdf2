import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from shapefit.camera import Camera, world_from_view
from shapefit.materials import attenuation_coefficient
from shapefit.render.simulate import Exposure, simulate_view
from shapefit.spectra import spectrum

CAMERA = Camera(1020.0, 3.0, 3.0, 0.0, 0.0, 96, 96)
POSE = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0)
BALL = trimesh.creation.icosphere(subdivisions=4, radius=50)
VERTICES, FACES = torch.tensor(np.array(BALL.vertices)), torch.tensor(np.array(BALL.faces))
ONE = torch.zeros(len(FACES), dtype=torch.int64)
CLEAN = Exposure(gas=0, photons=0.0, blur=0.0, gamma=(1.0, 1.0))


def picture(exposure: Exposure, seed: int = 0, **settings) -> torch.Tensor:
    return simulate_view(VERTICES, FACES, ONE, POSE, CAMERA, seed, exposure, **settings).image


def test_a_simulated_view_is_bone_dark_noisy_and_repeatable():
    one, same, other = (picture(Exposure(), seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert float(one.min()) >= 0 and float(one.max()) <= 1
    image = picture(Exposure(gas=0, photons=1e6, blur=0.0))
    assert float(image[44:52, 44:52].mean()) < float(image[44:52, :8].mean())


def test_noise_falls_with_the_number_of_photons():
    def spread(photons: float) -> float:
        image = picture(Exposure(gas=0, photons=photons), seed=3)
        return float((image[40:56, 40:56] / image[40:56, 40:56].mean()).std())

    assert spread(100.0) > 3 * spread(10_000.0)
    assert spread(10_000.0) > spread(0.0)


def test_one_energy_shows_the_line_integral_of_bone_in_tissue():
    image = picture(CLEAN)
    mu = {m: attenuation_coefficient(m, 60.0) for m in ("cortical bone", "trabecular bone", "soft tissue")}
    # in the middle the body is 1.45 times as thick as the bone; at the image's left edge it is in the air,
    # which the display saturates, so the bone's rim is what the middle is compared with
    column = -image.double().log()[47:49].mean(0)
    line = 3.2 * mu["cortical bone"] + 96.8 * mu["trabecular bone"] + 45 * mu["soft tissue"]
    beside = 24  # pixels from the middle: 50.4 mm from the axis in the isocentre's plane, past the bone
    x = (beside + 0.5) * 3.0 * 700 / 1020
    half = 72.5 * math.sqrt(1 - (x / 62.5) ** 2)
    assert float(column[47] - column[47 - beside]) == pytest.approx(
        line - 2 * half * mu["soft tissue"], abs=0.05 * line
    )


def test_every_structure_needs_a_material():
    with pytest.raises(ValueError, match="1 structures need as many materials, got 2"):
        picture(CLEAN, materials=["titanium", "muscle"])


def test_a_tube_and_other_materials_can_be_chosen():
    tube = replace(CLEAN, spectrum=spectrum(120.0))
    bone, metal = picture(tube), picture(tube, materials=["titanium"])
    assert float(metal[47, 47]) < 0.2 * float(bone[47, 47])
    soft = picture(replace(CLEAN, spectrum=spectrum(70.0)))
    assert float(soft[47, 24] / soft[47, 47]) > float(bone[47, 24] / bone[47, 47])
