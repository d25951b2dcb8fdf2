import math

import pytest
import torch

from shapefit.camera import Camera
from shapefit.view import View

CAMERA = Camera(sdd=1020.0, delx=1.5, dely=1.5, x0=0.0, y0=0.0, height=6, width=8)
IMAGE = torch.linspace(0, 1, 48).reshape(6, 8)


def test_pixels_are_valid_unless_told_otherwise():
    assert View(IMAGE, CAMERA).valid.all()
    valid = torch.ones(6, 8, dtype=torch.bool)
    valid[0] = False
    assert int(View(IMAGE, CAMERA, valid=valid).valid.sum()) == 40


def test_an_image_must_have_its_camera_s_size():
    # a mask of another size is met by the annotations first here, and by the reader at the command line
    with pytest.raises(ValueError, match=r"the image has \(8, 6\) rows and columns, its camera \(6, 8\)"):
        View(IMAGE.T.contiguous(), CAMERA)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_are_not_finite_are_refused_where_they_count(value):
    image = IMAGE.clone()
    image[2, 3] = value
    with pytest.raises(ValueError, match="knee: 1 valid pixels are NaN or infinite"):
        View(image, CAMERA, name="knee")
    View(image, CAMERA, valid=torch.isfinite(image))


def test_a_view_without_a_valid_pixel_is_refused():
    with pytest.raises(ValueError, match="no pixel is valid"):
        View(IMAGE, CAMERA, valid=torch.zeros(6, 8, dtype=torch.bool))


def test_a_pose_must_be_rigid():
    with pytest.raises(ValueError, match="not a rigid motion"):
        View(IMAGE, CAMERA, world_from_camera=1.1 * torch.eye(4))


def test_a_posed_view_is_the_same_image_elsewhere():
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = -640.0
    view = View(IMAGE, CAMERA, name="knee")
    posed = view.posed(pose)
    assert torch.equal(posed.world_from_camera, pose)
    assert posed.image is view.image
    assert posed.name == "knee"
    assert view.world_from_camera is None
    assert posed.posed(None).world_from_camera is None
