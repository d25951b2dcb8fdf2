"""The located bone casts the shadow that is seen, as far as what was found before allows."""

import math
from dataclasses import replace

import pytest
import small
import torch
from looks import look_at, pose_near

from shapefit import se3
from shapefit.render import render_mesh
from shapefit.scene.locate import locate_looks, template_surface
from shapefit.scene.pnp import Votes
from shapefit.scene.shadow import Mask, match_shadows
from shapefit.scene.solve import Carried, Sight, Solution
from shapefit.settings import LocateSettings

SETTINGS = LocateSettings(shadow=0.5)
CAMERA = replace(small.CAMERA, height=96, width=108, delx=4 / 3, dely=4 / 3)
TRUTH = pose_near("ap", 720.0, torch.tensor([0.15, -0.1, 0.08, 3.0, -2.0, 4.0]))
OFF = torch.tensor([0.06, -0.05, 0.04, 3.0, -2.0, 4.0], dtype=torch.float64)  # rad, mm: 5 degrees


@pytest.fixture(scope="module")
def model():
    return small.small_model()


def sight(pose: int = 0) -> Sight:
    """A view of which nothing but its camera counts here."""
    none = torch.zeros(0, 3, dtype=torch.float64)
    votes = Votes(torch.zeros(0, 2, dtype=torch.float64), none, torch.zeros(0, dtype=torch.float64))
    basis = torch.zeros(0, 3, 0, dtype=torch.float64)
    return Sight(Carried(votes, none, basis), CAMERA, torch.eye(4, dtype=torch.float64), pose, 1.0)


def mask(model, coefficients, pose, names=None) -> Mask:
    paths = render_mesh(model.instance(coefficients)[None], model.faces, pose[None], CAMERA, model.structure)
    names = names or model.names
    shown = (paths[0] > 0).float()[[model.names.index(name) for name in names]]
    return Mask(shown, tuple(names), torch.ones(CAMERA.height, CAMERA.width, dtype=torch.bool))


def guess(model, poses, coefficients=None) -> Solution:
    """What was found before: off by some degrees and mm, and known to be."""
    modes = torch.zeros(model.modes, dtype=torch.float64) if coefficients is None else coefficients
    variance = torch.tensor([0.1, 0.1, 0.1, 8.0, 8.0, 8.0], dtype=torch.float64).square().repeat(len(poses))
    return Solution(
        poses, modes, torch.cat([variance, torch.ones(len(modes)).double()]).diag(), [1.0] * len(poses)
    )


def off(found, truth) -> tuple[float, float]:
    """Rotation (degrees), and place across the beam (mm)."""
    return (
        math.degrees(float(se3.rotation_angle(found[:3, :3].T @ truth[:3, :3]))),
        float((found[:2, 3] - truth[:2, 3]).norm()),
    )


def test_a_bone_is_turned_until_its_shadow_is_the_one_seen(model):
    none = torch.zeros(0, 0, dtype=torch.float64)
    rigid = replace(model, components=model.components[:0], std=model.std[:0], scores=none)
    start = guess(rigid, (TRUTH @ se3.exp(OFF))[None])
    found = match_shadows([sight()], [mask(model, torch.zeros(0), TRUTH)], start, rigid, SETTINGS)
    before, after = off(start.poses[0], TRUTH), off(found.poses[0], TRUTH)
    assert before[0] > 4.5 and after[0] < 1.0
    assert before[1] > 3 and after[1] < 0.5
    assert found.covariance.shape == (6, 6)


def test_shape_and_several_poses_are_found_together(model):
    shape = torch.randn(model.modes, generator=torch.Generator().manual_seed(0)).double()
    lateral = pose_near("lateral", 730.0, torch.zeros(6))
    poses = torch.stack([TRUTH, lateral])
    start = guess(model, poses @ se3.exp(torch.stack([OFF, -OFF])))
    masks = [mask(model, shape, pose) for pose in poses]
    found = match_shadows([sight(0), sight(1)], masks, start, model, SETTINGS)
    for pose, was, truth in zip(found.poses, start.poses, poses, strict=True):
        assert off(pose, truth)[0] < 0.5 * off(was, truth)[0]
    assert float((found.coefficients - shape).norm()) < 0.7 * float(shape.norm())


def test_masks_add_to_what_is_known_and_take_nothing_from_it(model):
    start = guess(model, TRUTH[None])
    masks = [mask(model, start.coefficients, TRUTH)]
    found = match_shadows([sight()], masks, start, model, SETTINGS)
    less = start.covariance - found.covariance
    assert float(torch.linalg.eigvalsh(less).min()) > -1e-9
    turns = [one.covariance.diagonal()[:3].sum() for one in (found, start)]
    assert turns[0] < 0.5 * turns[1]  # of neighbours, which err alike, few count
    # a shadow that fits already says to stay
    assert off(found.poses[0], TRUTH)[0] < 0.5
    vague = match_shadows([sight()], masks, start, model, replace(SETTINGS, shadow=1e6))
    torch.testing.assert_close(vague.covariance, start.covariance)
    torch.testing.assert_close(vague.poses, start.poses)


def test_masks_that_no_shadow_is_like_tell_less(model):
    start = guess(model, TRUTH[None])
    given = mask(model, start.coefficients, TRUTH)
    noise = torch.rand(given.probability.shape, generator=torch.Generator().manual_seed(0))
    blocks = torch.nn.functional.avg_pool2d(noise, 12).repeat_interleave(12, -1).repeat_interleave(12, -2)
    stds = []
    for share in (0.0, 0.4, 0.8):  # of the masks that is something else
        other = torch.lerp(given.probability, (blocks > 0.5).float(), share)
        found = match_shadows([sight()], [given._replace(probability=other)], start, model, SETTINGS)
        stds.append(float(found.covariance.diagonal()[:3].sum().sqrt()))
    assert stds[0] < stds[1] < 0.9 * stds[2]
    assert stds[2] < float(start.covariance.diagonal()[:3].sum().sqrt())


def test_pixels_that_are_not_valid_say_nothing(model):
    start = guess(model, (TRUTH @ se3.exp(OFF))[None])
    given = mask(model, start.coefficients, TRUTH)
    valid = given.valid.clone()
    valid[:, :40] = False
    other = torch.where(valid, given.probability, 1 - given.probability)
    found, same = (
        match_shadows([sight()], [given._replace(probability=p, valid=valid)], start, model, SETTINGS)
        for p in (given.probability, other)
    )
    assert torch.equal(found.poses, same.poses)
    assert not torch.equal(found.poses, start.poses)


def test_structures_are_told_apart_by_their_names(model):
    start = guess(model, (TRUTH @ se3.exp(OFF))[None])
    names = tuple(reversed(model.names))
    here, there = (
        match_shadows([sight()], [mask(model, start.coefficients, TRUTH, order)], start, model, SETTINGS)
        for order in (model.names, names)
    )
    torch.testing.assert_close(here.poses, there.poses)
    unknown = mask(model, start.coefficients, TRUTH)._replace(structures=("a", "b", "c"))
    alone = match_shadows([sight()], [unknown], start, model, SETTINGS)
    torch.testing.assert_close(alone.poses, start.poses)


def test_what_tells_nothing_or_lies_at_the_source_stays_as_it_is(model):
    start = guess(model, (TRUTH @ se3.exp(OFF))[None])
    masks = [mask(model, start.coefficients, TRUTH)]
    endless = start.covariance.clone()
    endless.diagonal()[:6] = torch.inf
    near = start.poses.clone()
    near[0, 2, 3] = 30.0  # mm from the source
    for solution in (start._replace(covariance=endless), start._replace(poses=near)):
        assert match_shadows([sight()], masks, solution, model, SETTINGS) is solution


def test_locating_uses_the_masks_unless_told_not_to(model):
    template = template_surface(model.mean, model.faces, model.names)
    shape = torch.zeros(model.modes, dtype=torch.float64)
    with_masks, without = [], []
    for seed in range(4):
        look = look_at(model, shape, TRUTH, CAMERA, std=12.0, width=12.0, seed=seed)
        for settings, turns in ((SETTINGS, with_masks), (replace(SETTINGS, shadow=0.0), without)):
            located = locate_looks(template, model, [look], settings)
            camera_from_model = se3.inverse(located.world_from_camera[0]) @ located.world_from_model
            turns.append(off(camera_from_model, TRUTH)[0])
    assert sum(with_masks) < 0.7 * sum(without)
