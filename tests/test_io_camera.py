import json
import math

import pytest
import torch

from shapefit.camera import Camera
from shapefit.io.camera import REQUIRED, read_camera, write_camera
from shapefit.se3 import exp

CAMERA = Camera(sdd=1020.0, delx=1.552, dely=0.194, x0=3.5, y0=-7.25, height=192, width=256)
POSE = exp(torch.tensor([0.3, -0.2, 0.9, 12.0, -340.0, 71.5], dtype=torch.float64))


def content(**changes) -> dict:
    base = {
        "sdd": 1020, "delx": 1.5, "dely": 1.5, "x0": 0, "y0": 0.0, "height": 192, "width": 192,
        "frame": "RAS", "units": "mm",
    }  # fmt: skip
    return base | changes


def write(path, data) -> str:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_camera_comes_back_as_it_was_written(tmp_path):
    write_camera(tmp_path / "c.json", CAMERA, POSE)
    camera, pose = read_camera(tmp_path / "c.json")
    assert camera == CAMERA and torch.equal(pose, POSE)


def test_a_camera_without_a_pose_has_none(tmp_path):
    write_camera(tmp_path / "c.json", CAMERA)
    assert read_camera(tmp_path / "c.json") == (CAMERA, None)
    assert (
        read_camera(write(tmp_path / "d.json", content(world_from_camera=None, comment="C-arm 2")))[1] is None
    )


def test_a_pose_in_lps_sees_the_same_points(tmp_path):
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    _, pose = read_camera(
        write(tmp_path / "c.json", content(frame="LPS", world_from_camera=(flip @ POSE).tolist()))
    )
    point = torch.tensor([[5.0, -330.0, 700.0]], dtype=torch.float64)
    seen = [CAMERA.project(torch.linalg.inv(p)[None], point[None]) for p in (pose, POSE)]
    assert torch.allclose(*seen)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_an_error_that_names_it(tmp_path, key):
    data = content()
    del data[key]
    with pytest.raises(ValueError, match=rf"c.json: the camera file has no {key}$"):
        read_camera(write(tmp_path / "c.json", data))


@pytest.mark.parametrize("key", ["sdd", "delx", "dely", "height", "width"])
@pytest.mark.parametrize("value", [0, -1020])
def test_a_length_that_is_not_positive_is_an_error_that_names_it(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"c.json: camera {key} must be a .*got {value}"):
        read_camera(write(tmp_path / "c.json", content(**{key: value})))


@pytest.mark.parametrize("key", ["sdd", "x0", "height"])
@pytest.mark.parametrize("value", ["1020", None, True, [1], math.nan, math.inf])
def test_what_is_not_a_number_is_an_error_that_names_the_key(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"c.json: {key} must be a finite number, got"):
        read_camera(write(tmp_path / "c.json", content(**{key: value})))


def test_half_a_pixel_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"whole pixels, got 191.5 and 192"):
        read_camera(write(tmp_path / "c.json", content(height=191.5)))


SCALED, MIRRORED, LAST_ROW = POSE.clone(), POSE.clone(), POSE.clone()
SCALED[:3, :3] *= 1.01
MIRRORED[:3, 0] *= -1
LAST_ROW[3, 0] = 0.1


@pytest.mark.parametrize("pose", [SCALED, MIRRORED, LAST_ROW, math.nan * POSE])
def test_a_pose_that_is_not_rigid_is_an_error(tmp_path, pose):
    with pytest.raises(ValueError, match=r"c.json: world_from_camera is not a rigid motion"):
        read_camera(write(tmp_path / "c.json", content(world_from_camera=pose.tolist())))


@pytest.mark.parametrize("pose", [POSE[:3].tolist(), [1, 2, 3], "identity", [[1, 0], [0]]])
def test_a_pose_of_another_shape_is_an_error(tmp_path, pose):
    with pytest.raises(ValueError, match=r"c.json: world_from_camera must be 4"):
        read_camera(write(tmp_path / "c.json", content(world_from_camera=pose)))


@pytest.mark.parametrize(("key", "value"), [("frame", "scanner"), ("units", "cm"), ("units", "m")])
def test_another_frame_or_unit_is_an_error(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"c.json: {key}.*'{value}'; expected"):
        read_camera(write(tmp_path / "c.json", content(**{key: value})))


def test_a_key_that_nobody_reads_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="unknown key 'world_from_cam'"):
        read_camera(write(tmp_path / "c.json", content(world_from_cam=POSE.tolist())))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00\xff"])
def test_what_is_not_a_camera_file_is_an_error_that_names_it(tmp_path, text):
    with pytest.raises(ValueError, match=r"c.json is not a"):
        read_camera(write(tmp_path / "c.json", text))
    with pytest.raises(ValueError, match=r"absent.json is not a readable"):
        read_camera(tmp_path / "absent.json")
