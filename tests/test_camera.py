import math

import pytest
import torch

from shapefit import se3
from shapefit.camera import VIEWS, Camera, homogeneous_pixels, ray_lengths, world_from_view

CAMERA = Camera(sdd=1000.0, delx=2.0, dely=4.0, x0=10.0, y0=-8.0, height=101, width=201)


def points(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_a_point_projects_where_similar_triangles_put_it():
    # at z = 500 mm the magnification is 2: 30 mm right and 12 mm down are 60 and 24 mm on the detector,
    # 30 and 6 px from the principal point (100 + 10 / 2, 50 - 8 / 4)
    pixel = CAMERA.project(torch.eye(4, dtype=torch.float64), points((30.0, 12.0, 500.0)))
    torch.testing.assert_close(pixel, points((105.0 + 30.0, 48.0 + 6.0)))


def test_the_principal_ray_hits_the_principal_point_at_any_depth():
    pixels = CAMERA.project(torch.eye(4, dtype=torch.float64), points((0, 0, 10.0), (0, 0, 999.0)))
    torch.testing.assert_close(pixels, points((105.0, 48.0), (105.0, 48.0)))


def test_homogeneous_pixels_carry_the_depth():
    p = homogeneous_pixels(CAMERA, torch.eye(4, dtype=torch.float64), points((30.0, 12.0, 500.0)))
    torch.testing.assert_close(p, points((135.0 * 500, 54.0 * 500, 500.0)))


def test_projection_moves_with_the_pose():
    pose = se3.exp(torch.tensor([0.2, -0.1, 0.3, 5.0, -7.0, 600.0], dtype=torch.float64))
    world = points((10.0, 20.0, -30.0), (0.0, 0.0, 0.0))
    moved = CAMERA.project(torch.eye(4, dtype=torch.float64), se3.transform(pose, world))
    torch.testing.assert_close(CAMERA.project(pose, world), moved)


def test_ray_lengths_turn_depth_into_distance_from_the_source():
    pixel = (7, 150)
    k = CAMERA.intrinsics()
    direction = torch.linalg.inv(k) @ torch.tensor([pixel[1], pixel[0], 1.0], dtype=torch.float64)
    assert float(ray_lengths(CAMERA)[pixel]) == pytest.approx(float(direction.norm()))
    assert float(ray_lengths(CAMERA).min()) >= 1.0


def test_a_resized_camera_sees_the_same_field():
    small = CAMERA.resized(50, 100)
    eye = torch.eye(4, dtype=torch.float64)
    world = points((0.0, 0.0, 700.0), (50.0, -30.0, 650.0))
    big, little = CAMERA.project(eye, world), small.project(eye, world)
    # pixel edges, half a pixel outside the first and last centre, stay where they are
    size = torch.tensor([CAMERA.width, CAMERA.height]), torch.tensor([small.width, small.height])
    torch.testing.assert_close((big + 0.5) / size[0], (little + 0.5) / size[1])


def test_intrinsics_are_differentiable():
    def u(sdd, delx, x0):
        camera = Camera(sdd, delx, 4.0, x0, 0.0, 101, 201)
        return camera.project(torch.eye(4, dtype=torch.float64), points((30.0, 12.0, 500.0)))

    inputs = tuple(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1000.0, 2.0, 10.0))
    assert torch.autograd.gradcheck(u, inputs)


@pytest.mark.parametrize("view", VIEWS)
def test_standard_views_aim_at_the_centre_with_the_feet_below(view):
    centre = torch.tensor([12.0, -40.0, 900.0], dtype=torch.float64)
    pose = world_from_view(view, centre, 640.0)
    assert se3.is_rigid(pose)
    camera_from_world = se3.inverse(pose)
    middle = se3.transform(camera_from_world, centre[None])
    torch.testing.assert_close(middle, points((0.0, 0.0, 640.0)), atol=1e-9, rtol=0)
    feet = CAMERA.project(camera_from_world, (centre + torch.tensor([0.0, 0.0, -50.0]))[None])
    torch.testing.assert_close(feet[0, 0], torch.tensor(105.0, dtype=torch.float64))
    assert feet[0, 1] > 48.0


@pytest.mark.parametrize(
    ("view", "axis", "on_the_left"),
    [
        ("ap", 0, True),  # +x, the patient's right, is on the image's left
        ("pa", 0, False),
        ("lateral", 1, True),  # seen from the patient's left, the front (+y) is on the left
        ("lateral-right", 1, False),
    ],
)
def test_which_side_is_where(view, axis, on_the_left):
    centre = torch.zeros(3, dtype=torch.float64)
    pose = se3.inverse(world_from_view(view, centre, 640.0))
    plus = torch.zeros(1, 3, dtype=torch.float64)
    plus[0, axis] = 50.0
    left = CAMERA.project(pose, plus)[0, 0] < CAMERA.project(pose, -plus)[0, 0]
    assert bool(left) == on_the_left


def test_the_ap_source_is_in_front_of_the_patient_and_the_right_side_on_the_left():
    """RAS+ names the directions in which the axes grow: x to the patient's right, y to the front."""
    pose = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 640.0)
    torch.testing.assert_close(pose[:3, 3], torch.tensor([0.0, 640.0, 0.0], dtype=torch.float64))
    right_hip = CAMERA.project(se3.inverse(pose), points((90.0, 0.0, 0.0)))
    assert right_hip[0, 0] < 105.0


@pytest.mark.parametrize("view", ["AP", "", "front"])
def test_an_unknown_view_is_refused_with_the_choices(view):
    with pytest.raises(ValueError, match="expected one of ap, pa, lateral"):
        world_from_view(view, torch.zeros(3), 640.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdd": 0.0}, "sdd must be a positive length in mm, got 0"),
        ({"sdd": -1020.0}, "sdd must be a positive length"),
        ({"delx": math.inf}, "delx must be a positive length"),
        ({"dely": math.nan}, "dely must be a positive length"),
        ({"x0": math.nan}, "x0 must be a finite length"),
        ({"height": 0}, "height must be a whole number of pixels"),
        ({"width": -3}, "width must be a whole number of pixels"),
    ],
)
def test_impossible_cameras_are_refused(change, message):
    fields = {"sdd": 1020.0, "delx": 1.5, "dely": 1.5, "x0": 0.0, "y0": 0.0, "height": 8, "width": 8}
    with pytest.raises(ValueError, match=message):
        Camera(**(fields | change))
