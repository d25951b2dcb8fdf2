"""Pixels that vote, and the pose that most of them agree on."""

from dataclasses import replace

import pytest
import small
import torch
from looks import look_at, pose_near

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.scene import pnp
from shapefit.scene.coordinates import Coordinates
from shapefit.settings import LocateSettings

SETTINGS = LocateSettings()
# pixels that are not square, and a principal ray far from the image's centre
SKEWED = Camera(sdd=1000.0, delx=1.6, dely=2.2, x0=30.0, y0=-22.0, height=64, width=88)
TWIST = torch.tensor([0.2, -0.15, 0.1, 4.0, -3.0, 5.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    return small.small_model()


def votes_of(look, most=400):
    return pnp.votes(look.seen, pnp.covered_pixels(look.seen, 0.5, look.valid), most)


def mean_look(model, camera=small.CAMERA, twist=TWIST, shift=None, **errors):
    pose = pose_near("ap", 700.0, twist, shift)
    return pose, look_at(model, torch.zeros(model.modes), pose, camera, **errors)


def angle_and_shift(found, pose):
    between = se3.inverse(found) @ pose
    return float(se3.rotation_angle(between[:3, :3])), float(between[:3, 3].norm())


def noisy_std(rows, columns, seed=0):
    return 1 + torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(seed))


def test_the_surest_pixel_of_every_cell_votes():
    rows, columns = 12, 20
    coordinates = torch.arange(3.0 * rows * columns).reshape(1, 3, rows, columns)
    entry_std, exit_std = noisy_std(rows, columns, 1), noisy_std(rows, columns, 2)
    seen = Coordinates(coordinates, -coordinates, entry_std, exit_std, torch.ones(1, 2, rows, columns))
    found = pnp.votes(seen, torch.ones(rows, columns, dtype=torch.bool), 15)
    assert found.pairs == 15  # cells of 4 x 4
    assert torch.equal(found.pixel[:15], found.pixel[15:])
    variance = entry_std[0] ** 2 + exit_std[0] ** 2
    for column, row in found.pixel[:15].long():
        corner = variance[row // 4 * 4 :, column // 4 * 4 :][:4, :4]
        assert variance[row, column] == corner.min()
    column, row = found.pixel[:15].long().T
    assert torch.equal(found.point[:15], coordinates[0, :, row, column].T.double())
    assert torch.equal(found.point[15:], -found.point[:15])
    assert torch.equal(found.std, torch.cat([entry_std[0, row, column], exit_std[0, row, column]]).double())


@pytest.mark.parametrize("most", [1, 7, 100, 10_000])
def test_no_more_pixels_vote_than_are_asked_and_only_where_the_bone_is(model, most):
    _, look = mean_look(model)
    covered = pnp.covered_pixels(look.seen, 0.5)
    found = pnp.votes(look.seen, covered, most)
    assert 0 < found.pairs <= min(most, int(covered.sum()))
    assert covered[found.pixel[:, 1].long(), found.pixel[:, 0].long()].all()


def test_pixels_without_an_answer_do_not_vote(model):
    _, look = mean_look(model)
    entry, exit_std = look.seen.entry.clone(), look.seen.exit_std.clone()
    entry[0, 1, :, :36] = torch.nan
    exit_std[0, :30] = torch.inf
    found = pnp.votes(
        look.seen._replace(entry=entry, exit_std=exit_std), pnp.covered_pixels(look.seen, 0.5), 400
    )
    assert found.pairs > 0
    assert (found.pixel[:, 0] >= 36).all()
    assert (found.pixel[:, 1] >= 30).all()


def test_pixels_that_are_not_valid_do_not_vote(model):
    _, look = mean_look(model)
    valid = look.valid.clone()
    valid[:, 30:] = False
    covered = pnp.covered_pixels(look.seen, 0.5, valid)
    assert covered.any()
    assert not covered[:, 30:].any()


@pytest.mark.parametrize("camera", [small.CAMERA, SKEWED], ids=["plain", "skewed"])
def test_perfect_coordinates_give_the_pose(model, camera):
    pose, look = mean_look(model, camera)
    angle, shift = angle_and_shift(pnp.consensus_pose(votes_of(look), camera, SETTINGS), pose)
    assert angle < 1e-4
    assert shift < 0.02


def test_two_fifths_of_wrong_pixels_do_not_lead_astray(model):
    pose, look = mean_look(model, outliers=0.4)
    found = votes_of(look)
    located = pnp.consensus_pose(found, look.camera, SETTINGS)
    angle, shift = angle_and_shift(located, pose)
    assert angle < 0.01
    assert shift < 4.0  # mm, nearly all of it along the beam
    agree = pnp.inliers(found, found.point, located, look.camera, SETTINGS)
    assert 0.55 < agree.double().mean() < 0.68


def test_the_consensus_depends_on_the_seed_alone(model):
    _, look = mean_look(model, std=2.0, outliers=0.4)
    poses = [pnp.consensus_pose(votes_of(look), look.camera, SETTINGS) for _ in range(2)]
    assert torch.equal(*poses)


def test_posed_views_agree_on_one_motion_of_the_bone(model):
    motion = se3.exp(torch.tensor([0.1, 0.2, -0.1, 40.0, -30.0, 25.0], dtype=torch.float64))
    known = [
        se3.inverse(world_from_view(view, motion[:3, 3] + torch.tensor([5.0, 0.0, -4.0]), 720.0))
        for view in ("ap", "lateral")
    ]
    looks = [
        look_at(model, torch.zeros(model.modes), camera_from_world @ motion, camera, outliers=0.3)
        for camera_from_world, camera in zip(known, (small.CAMERA, SKEWED), strict=True)
    ]
    found = pnp.consensus_motion([votes_of(look) for look in looks], [small.CAMERA, SKEWED], known, SETTINGS)
    angle, shift = angle_and_shift(found, motion)
    assert angle < 0.01
    assert shift < 0.5  # mm in all directions: the views see each other's depth


def test_what_lies_behind_the_source_agrees_with_nothing(model):
    pose, look = mean_look(model, twist=torch.zeros(6))
    found = votes_of(look)
    assert pnp.inliers(found, found.point, pose, look.camera, SETTINGS).all()
    through = torch.diag(torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64)) @ pose  # the same pixels
    assert not pnp.inliers(found, found.point, through, look.camera, SETTINGS).any()


def test_the_unsure_may_miss_by_more_up_to_a_limit():
    few = pnp.Votes(
        torch.zeros(4, 2).double(), torch.zeros(4, 3).double(), torch.tensor([0.0, 2.0, 5.0, 500.0]).double()
    )
    allowed = pnp.allowance(few, small.CAMERA, SETTINGS)
    assert allowed[0] == SETTINGS.reprojection
    assert (allowed.diff() > 0).all()
    assert allowed[3] == pnp.LOOSEST * SETTINGS.reprojection
    finer = small.CAMERA.resized(128, 144)  # twice the pixels for the same mm
    spread = (pnp.allowance(few, finer, SETTINGS)[1] ** 2 - SETTINGS.reprojection**2).sqrt()
    assert spread == pytest.approx(2 * float((allowed[1] ** 2 - SETTINGS.reprojection**2).sqrt()))


def test_a_handful_of_votes_is_no_consensus(model):
    _, look = mean_look(model)
    found = votes_of(look, most=2)
    assert found.pairs == 2
    assert pnp.consensus_pose(found, look.camera, SETTINGS) is None
    eye = torch.eye(4, dtype=torch.float64)
    assert pnp.consensus_motion([found], [look.camera], [eye], SETTINGS) is None


def test_wrong_points_are_never_a_pose_that_is_not_rigid():
    generator = torch.Generator().manual_seed(3)
    camera = replace(small.CAMERA, sdd=900.0)
    for kind in ("same", "line", "anything"):
        pixel = 60 * torch.rand(50, 2, generator=generator, dtype=torch.float64)
        point = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 40
        if kind == "same":
            point = point[:1].expand(50, 3).contiguous()
        elif kind == "line":
            point = torch.outer(point[:, 0], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        pose = pnp.consensus_pose(
            pnp.Votes(pixel, point, torch.ones(50, dtype=torch.float64)), camera, SETTINGS
        )
        assert pose is None or se3.is_rigid(pose)
