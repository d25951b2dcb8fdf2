"""Simulated X-rays: what is known of them is what they show."""

import dataclasses

import numpy as np
import pytest
import torch
from small import small_model

from shapefit.mesh import boundary_edges, volume
from shapefit.scene.neighbours import femur, socket, surroundings, vertebra
from shapefit.scene.picture import draw_picture, tissue
from shapefit.scene.simulate import simulate_sample, stage_of_model, stage_of_shapes
from shapefit.scene.views import draw_camera, draw_pose, draw_visible_pose
from shapefit.settings import SimulateSettings

SETTINGS = SimulateSettings(pixels=32, detector=(110.0, 140.0), shift=(8.0, 8.0), faces=0, empty=0.0)


@pytest.fixture(scope="module")
def stage():
    return stage_of_model(small_model(), SETTINGS)


def same(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("image", "entry", "exit", "structures", "camera_from_bone", "coefficients")
    )


def test_a_sample_depends_on_the_seed_and_its_number_alone(stage):
    first = simulate_sample(stage, 3, SETTINGS)
    simulate_sample(stage, 1, SETTINGS)
    assert same(first, simulate_sample(stage, 3, SETTINGS))
    assert same(first, simulate_sample(stage_of_model(small_model(), SETTINGS), 3, SETTINGS))
    assert not same(first, simulate_sample(stage, 4, SETTINGS))
    assert not same(first, simulate_sample(stage, 3, dataclasses.replace(SETTINGS, seed=1)))


def test_coordinates_project_to_their_pixels_within_what_bends_the_bone(stage):
    stiff = dataclasses.replace(SETTINGS, deformation=0.0)
    for index in range(6):
        sample = simulate_sample(stage, index, stiff)
        covered = sample.covered
        # from the template to this bone: nearest vertex of the mean, moved as its coefficients say
        template, bone = stage.model.mean, stage.model.instance(sample.coefficients)
        points = sample.entry[:, covered].T.double()
        nearest = torch.cdist(points, template).argmin(1)
        moved = points + (bone - template)[nearest]
        places = sample.camera.project(sample.camera_from_bone, moved)
        misses = (places - covered.nonzero().flip(1)).norm(dim=1)
        assert misses.median() < 0.3  # pixels: the nearest vertex does not move quite as the point does


def test_images_are_pictures(stage):
    for index in range(8):
        sample = simulate_sample(stage, index, SETTINGS)
        assert sample.image.shape == (32, 32) and sample.image.isfinite().all()
        assert 0 <= sample.image.min() < sample.image.max() <= 1
        visible = sample.covered.float().mean()
        assert visible > 0.02


def test_bone_is_darker_than_the_same_body_without_it(stage):
    # nothing but one energy's attenuation between the two pictures
    plain = dataclasses.replace(
        SETTINGS, neighbours=0.0, collimation=0.0, text=0.0, bright=0.0, deformation=0.0
    )
    darker = []
    for index in range(6):
        sample = simulate_sample(stage, index, plain)
        edge = sample.covered
        around = ~edge
        if edge.any() and around.any():
            darker.append(float(sample.image[around].mean() - sample.image[edge].mean()))
    assert np.mean(darker) > 0


def test_an_empty_sample_says_so_and_covers_nothing(stage):
    sample = simulate_sample(stage, 0, dataclasses.replace(SETTINGS, empty=1.0))
    assert sample.drawn["empty"] and not sample.covered.any()
    assert not sample.entry.any() and not sample.exit.any()


def test_given_bones_are_shown_in_turn_as_they_are():
    model = small_model()
    shapes = model.sample(2, seed=5)
    stage = stage_of_shapes(model, shapes, SETTINGS)
    for index in range(4):
        sample = simulate_sample(stage, index, SETTINGS)
        torch.testing.assert_close(sample.coefficients, model.coefficients(shapes[index % 2]))
    torch.testing.assert_close(stage.shapes, shapes)


def test_a_model_without_modes_is_one_bone():
    one = small_model().truncate(0)
    stage = stage_of_model(one, SETTINGS)
    first, second = (simulate_sample(stage, index, SETTINGS) for index in (0, 1))
    assert len(first.coefficients) == 0
    for sample in (first, second):
        covered = sample.covered
        places = sample.camera.project(sample.camera_from_bone, sample.entry[:, covered].T.double())
        torch.testing.assert_close(places, covered.nonzero().flip(1).double(), atol=1e-2, rtol=0)


def test_poses_follow_the_stated_prior():
    settings = dataclasses.replace(SETTINGS, shift=(30.0, 10.0), depth=0.7, depth_std=0.02)
    rng = np.random.default_rng(0)
    cameras = [draw_camera(settings, rng) for _ in range(400)]
    poses = torch.stack([draw_pose(camera, settings, rng) for camera in cameras])
    sdd = torch.tensor([float(camera.sdd) for camera in cameras])
    assert (sdd >= settings.sdd[0]).all() and (sdd <= settings.sdd[1]).all()
    share = poses[:, 2, 3] / sdd
    assert abs(float(share.mean()) - 0.7) < 0.005 and abs(float(share.std()) - 0.02) < 0.003
    assert abs(float(poses[:, 0, 3].std()) - 30) < 4 and abs(float(poses[:, 1, 3].std()) - 10) < 1.5
    # an AP view: the beam runs from the patient's front to the back, within turn and tilt
    towards = poses[:, 2, :3]  # the camera's z in the patient's axes
    turn = torch.rad2deg(torch.atan2(towards[:, 0], -towards[:, 1]))
    assert 40 < turn.abs().max() <= 45.01
    tilt = torch.rad2deg(torch.asin(towards[:, 2]))
    assert 25 < tilt.abs().max() <= 30.01


def test_a_prior_that_never_shows_the_bone_is_refused():
    hidden = dataclasses.replace(SETTINGS, shift=(5000.0, 5000.0))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="none of 50 poses of the prior shows 35%"):
        draw_visible_pose(small_model().mean, draw_camera(hidden, rng), hidden, rng)


@pytest.mark.parametrize("part", [femur(), vertebra()], ids=["femur", "vertebra"])
def test_neighbours_are_closed_and_wound_outwards(part):
    assert boundary_edges(part.faces) == 0
    assert float(volume(*part)) > 20_000  # mm^3


def test_a_femurs_head_is_a_sphere_about_its_origin():
    vertices, _ = femur()
    head = vertices[(vertices[:, 0] < -5) & (vertices[:, 2] > -5)]
    assert abs(float(head.norm(dim=1).median()) - 23) < 1


def test_the_socket_of_a_hollow_is_found():
    # a plate with a hollow of radius 26 mm around (0, 30, 0): normals of the hollow point to its centre
    from skimage.measure import marching_cubes

    axes = [np.arange(-60, 61, 3.0)] * 3
    x, y, z = np.meshgrid(*axes, indexing="ij")
    block = np.maximum(np.maximum(abs(x) - 50, abs(z) - 50), abs(y) - 30)
    field = np.maximum(block, 26 - np.sqrt(x**2 + (y - 30) ** 2 + z**2))
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=(3.0, 3.0, 3.0))
    points = torch.from_numpy(vertices.astype(np.float64) - 60)
    faces = torch.from_numpy(faces.astype(np.int64))
    if float(volume(points, faces)) < 0:
        faces = faces.flip(1)
    found = socket(points, faces)
    torch.testing.assert_close(found, torch.tensor([0.0, 30.0, 0.0, 26.0]).double(), atol=4.0, rtol=0)


def test_a_pelvis_has_two_sockets_and_an_end_plate():
    around = surroundings(small_model())
    assert around.sides == ("left", "right") and around.plate is not None


def test_pictures_differ_in_window_and_marks_but_not_in_what_they_show():
    rng = np.random.default_rng(1)
    rows, columns = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48), indexing="ij")
    line = 2.0 + 1.5 * (rows**2 + columns**2 < 0.25)
    settings = SimulateSettings(collimation=0.0, text=0.0, bright=0.0)
    inside, outside = line > 3, line < 3
    for _ in range(10):
        shown, drawn = draw_picture(line, settings, rng)
        assert shown[inside].mean() < shown[outside].mean() and not drawn["bright"]
    bright, drawn = draw_picture(line, dataclasses.replace(settings, bright=1.0), rng)
    assert drawn["bright"] and bright[inside].mean() > bright[outside].mean()


def test_tissue_is_a_weak_field_about_zero():
    fields = np.stack([tissue((40, 40), np.random.default_rng(seed)) for seed in range(40)])
    assert abs(fields.mean()) < 0.01 and 0.005 < fields.std() < 0.1
