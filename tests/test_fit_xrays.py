from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.fit import start
from shapefit.fit.coarse import coarsened
from shapefit.fit.objective import evidence
from shapefit.fit.scene_start import SceneStart, apart, belief, candidates_around, doubt
from shapefit.fit.solve import fit_xrays
from shapefit.mesh import boundary_edges
from shapefit.render import render_mesh
from shapefit.render.simulate import Exposure, simulate_view
from shapefit.settings import FitSettings
from shapefit.shape_model import ShapeModel
from shapefit.view import View

CAMERA = Camera(1000.0, 4.0, 4.0, 0.0, 0.0, 72, 72)
QUICK = FitSettings(rotation_range=10.0, starts=6, finalists=2, steps=(9, 8, 30), prior_weight=0.002)
CENTER = torch.tensor([8.0, -5.0, 6.0], dtype=torch.float64)


def lopsided_model() -> ShapeModel:
    """Two bumpy balls without any symmetry, with one mode of size and one of bending."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    unit, faces = torch.tensor(np.array(ball.vertices)), torch.tensor(np.array(ball.faces))
    bumps = (
        1 + 0.25 * torch.sin(3 * unit[:, 0] + 1) * torch.cos(2 * unit[:, 2]) + 0.15 * unit[:, 1] * unit[:, 2]
    )
    large = unit * bumps[:, None] * torch.tensor([45.0, 30.0, 55.0])
    small = unit * (2 - bumps)[:, None] * torch.tensor([22.0, 25.0, 18.0]) + torch.tensor([55.0, 15.0, 40.0])
    mean = torch.cat([large, small])
    mean = mean - mean.mean(0)
    bend = torch.zeros_like(mean)
    bend[:, 0] = (mean[:, 2] / 40) ** 2 * 8
    modes = torch.stack([mean, bend - bend.mean(0)])
    q = torch.linalg.qr(modes.flatten(1).T).Q.T
    q = q * torch.sign((q * modes.flatten(1)).sum(1, keepdim=True))
    norm = modes.flatten(1).norm(dim=1)
    return ShapeModel(
        mean, q.view(2, -1, 3), norm * torch.tensor([0.06, 0.8]).double(), 0.0,
        torch.cat([faces, faces + len(unit)]), torch.arange(2).repeat_interleave(len(faces)),
        ("large", "small"), (1, 2), scores=torch.zeros(0, 2, dtype=torch.float64),
    )  # fmt: skip


MODEL = lopsided_model()
TRUTH = MODEL.instance(torch.tensor([1.0, -1.2], dtype=torch.float64)) + CENTER


def true_pose(view: str) -> torch.Tensor:
    turn = torch.tensor([0.05, -0.08, 0.06, 4.0, -3.0, 10.0], dtype=torch.float64)
    return se3.exp(turn) @ world_from_view(view, torch.zeros(3, dtype=torch.float64), 720.0)


POSES = {"ap0": true_pose("ap"), "lateral1": true_pose("lateral")}


def seen(view: str, seed: int, mask: bool = False, posed: bool = True) -> View:
    pose = true_pose(view)
    picture = simulate_view(TRUTH, MODEL.faces, MODEL.structure, pose, CAMERA, seed, Exposure(gas=2))
    labels = None
    if mask:
        camera_from_world = se3.inverse(pose)[None]
        paths = render_mesh(TRUTH[None], MODEL.faces, camera_from_world, CAMERA, MODEL.structure)[0]
        labels = torch.where(paths.amax(0) > 0.5, paths.argmax(0) + 1, 0).to(torch.uint8)
    return View(picture.image, CAMERA, pose if posed else None, mask=labels, name=f"{view}{seed}")


def error(vertices: torch.Tensor) -> float:
    return float((vertices - TRUTH).norm(dim=-1).mean())


@pytest.fixture(scope="module")
def two_posed_views():
    return fit_xrays(MODEL, [seen("ap", 0), seen("lateral", 1)], QUICK)


def test_a_fit_recovers_the_bone_it_was_shown(two_posed_views):
    assert two_posed_views.converged
    assert error(two_posed_views.vertices) < 2.0
    assert error(MODEL.mean + CENTER) > 3.5  # the baseline: the mean shape in the true place


def test_a_fit_reports_what_it_did(two_posed_views):
    fit = two_posed_views
    assert len(fit.losses) == len(fit.terms) == len(fit.dice) == 2
    assert {h["stage"] for h in fit.history} == {"starts", "finalists", "shape"}
    assert all(np.isfinite(h["loss"]) for h in fit.history)
    assert se3.is_rigid(fit.world_from_model) and se3.is_rigid(fit.world_from_camera)
    moved = se3.transform(fit.world_from_model, MODEL.instance(fit.coefficients))
    assert torch.allclose(moved, fit.vertices)


def test_a_fit_is_repeatable():
    views = [seen("ap", 0), seen("lateral", 1)]
    short = FitSettings(rotation_range=0.0, starts=2, finalists=1, steps=(3, 3, 3))
    first, second = fit_xrays(MODEL, views, short), fit_xrays(MODEL, views, short)
    assert torch.equal(first.vertices, second.vertices)


def test_masks_are_met_in_free_views():
    views = [seen("ap", 0, mask=True, posed=False), seen("ap", 3, mask=True, posed=False)]
    fit = fit_xrays(MODEL, views, QUICK)
    assert fit.converged and all(d > 0.95 for dice in fit.dice for d in dice.values())


def test_a_fit_goes_on_from_an_earlier_one(two_posed_views):
    fit = two_posed_views
    record = {
        "coefficients": fit.coefficients.tolist(),
        "world_from_model": fit.world_from_model.tolist(),
        "views": [{"world_from_camera": pose.tolist()} for pose in fit.world_from_camera],
    }
    again = fit_xrays(MODEL, [seen("ap", 0), seen("lateral", 1)], QUICK, init=record)
    assert sum(again.losses) < sum(fit.losses) + 0.005 and error(again.vertices) < 3.0
    assert "starts" not in {h["stage"] for h in again.history}
    with pytest.raises(ValueError, match="the start has 2 views, this fit 1"):
        fit_xrays(MODEL, [seen("ap", 0)], QUICK, init=record)


def located(off: torch.Tensor, views: list[View], shares: float = 0.9, alone: bool = False) -> SceneStart:
    """What a network saw that puts the bone `off` (a twist about the world's origin) from its true place."""
    world_from_model = torch.eye(4, dtype=torch.float64)
    world_from_model[:3, 3] = CENTER
    cameras = torch.stack([POSES[view.name] for view in views])
    shape = torch.tensor([0.8, -1.0], dtype=torch.float64)
    return SceneStart(shape, se3.exp(off) @ world_from_model, cameras, (shares,) * len(views), alone)


NEAR = torch.tensor([0.04, -0.05, 0.03, 5.0, 4.0, -6.0], dtype=torch.float64)
FAR = torch.tensor([0.0, 0.0, 1.3, 25.0, 0.0, 30.0], dtype=torch.float64)
SHORT = replace(QUICK, starts=3, steps=(6, 6, 12), trust=0.1)


def test_a_fit_goes_on_from_what_a_network_saw():
    views = [seen("ap", 0), seen("lateral", 1)]
    fit = fit_xrays(MODEL, views, SHORT, init=located(NEAR, views))
    assert fit.converged and fit.start == {"kind": "scene", "inlier_share": [0.9, 0.9], "doubt": ""}
    assert "starts" not in {h["stage"] for h in fit.history}
    assert error(fit.vertices) < 3.0 < error(se3.transform(se3.exp(NEAR), TRUTH))


def test_a_view_without_a_pose_goes_on_from_the_camera_that_a_network_saw():
    bare = [seen("ap", 0, posed=False)]
    fit = fit_xrays(MODEL, bare, SHORT, init=located(NEAR, bare))
    assert fit.converged and "starts" not in {h["stage"] for h in fit.history}
    assert torch.equal(fit.world_from_model, torch.eye(4, dtype=torch.float64))
    found = CAMERA.project(se3.inverse(fit.world_from_camera[0]), fit.vertices)
    true = CAMERA.project(se3.inverse(POSES["ap0"]), TRUTH)
    assert (found - true).norm(dim=-1).mean() < 1.5  # pixels


def test_a_doubtful_start_of_a_network_competes_with_a_search():
    views = [seen("ap", 0), seen("lateral", 1)]
    doubting = replace(SHORT, trust=0.2)
    wrong = fit_xrays(MODEL, views, doubting, init=located(FAR, views))
    assert wrong.start["kind"] == "prior" and "local correlation" in wrong.start["doubt"]
    assert "starts" in {h["stage"] for h in wrong.history} and error(wrong.vertices) < 8.0
    right = fit_xrays(MODEL, views, replace(doubting, steps=(3, 3, 3)), init=located(NEAR, views, shares=0.3))
    assert "30 % of the pixels agree" in right.start["doubt"]
    assert "starts" in {h["stage"] for h in right.history}


def test_a_search_does_not_lead_away_from_where_a_network_is_sure_of_the_bone():
    views = [seen("ap", 0), seen("lateral", 1)]
    unsure = replace(SHORT, trust=1.0)
    std = torch.tensor([0.02, 0.02, 0.02, 1.0, 1.0, 1.0], dtype=torch.float64)
    covariance = torch.block_diag((std**2).diag(), torch.eye(2, dtype=torch.float64))
    sure = located(FAR, views)._replace(covariance=covariance)
    kept = fit_xrays(MODEL, views, unsure, init=sure)
    assert kept.start["kind"] == "scene" and kept.start["apart"] > unsure.stray
    assert kept.start["doubt"] and "starts" in {h["stage"] for h in kept.history}
    wide = sure._replace(covariance=1e4 * sure.covariance)
    found = fit_xrays(MODEL, views, unsure, init=wide)
    assert found.start["kind"] == "prior" and found.start["apart"] <= unsure.stray


BELIEVING = FitSettings(belief=0.1)


def test_a_fit_keeps_to_what_a_network_saw_as_surely_as_it_saw_it():
    views = [seen("ap", 0), seen("lateral", 1)]
    std = torch.tensor([0.05, 0.05, 0.05, 5.0, 5.0, 5.0, 1.0, 1.0], dtype=torch.float64)
    scene = located(NEAR, views)._replace(covariance=std.square().diag())
    trusting = replace(SHORT, belief=1.0, prior_weight=1.0)
    ends = {}
    for sureness in (0.1, 100.0):
        sure = scene._replace(covariance=(sureness * std).square().diag())
        fit = fit_xrays(MODEL, views, trusting, init=sure)
        ends[sureness] = apart(scene, fit.world_from_model[None], False)
        assert fit.start["kind"] == "scene"
    assert ends[0.1] < 0.3 < 0.5 < ends[100.0]
    plain = fit_xrays(MODEL, views, SHORT, init=scene._replace(covariance=None))
    deaf = fit_xrays(MODEL, views, replace(SHORT, belief=0.0), init=scene)
    assert torch.equal(deaf.vertices, plain.vertices)


def test_what_a_network_saw_is_a_gaussian_with_heavier_tails():
    views = [seen("ap", 0), seen("lateral", 1)]
    root = torch.randn(14, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scene = located(NEAR, views)._replace(covariance=root @ root.T / 100)
    here = se3.inverse(scene.world_from_camera) @ scene.world_from_model
    steps = 0.1 * torch.randn(5, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    poses = here @ se3.exp(steps[:, :12].unflatten(1, (2, 6)))
    shapes = torch.tensor([0.8, -1.0, 0.0]) + steps[:, 12:]
    density = torch.distributions.MultivariateNormal(torch.zeros(14, dtype=torch.float64), scene.covariance)
    most = density.log_prob(torch.zeros(14, dtype=torch.float64))
    expected = most - density.log_prob(steps[:, :14]) + 0.5 * steps[:, 14] ** 2
    known = belief(scene, 3, True, BELIEVING)
    torch.testing.assert_close(known.surprise(poses, shapes), 7.5 * torch.log1p(expected / 7.5))
    # of fewer modes it is the marginal
    part = torch.distributions.MultivariateNormal(
        torch.zeros(13, dtype=torch.float64), scene.covariance[:13, :13]
    )
    fewer = part.log_prob(torch.zeros(13, dtype=torch.float64)) - part.log_prob(steps[:, :13])
    torch.testing.assert_close(
        belief(scene, 1, True, BELIEVING).surprise(poses, shapes[:, :1]), 6.5 * torch.log1p(fewer / 6.5)
    )
    assert known.surprise(here[None], shapes[:1] * 0 + known.coefficients).item() == pytest.approx(
        0.0, abs=1e-12
    )


def test_a_belief_draws_towards_what_was_seen_from_there_too():
    views = [seen("ap", 0), seen("lateral", 1)]
    covariance = torch.tensor([0.1, 0.2, 0.1, 3.0, 5.0, 4.0, 1.0, 0.5], dtype=torch.float64).square().diag()
    known = belief(located(NEAR, views)._replace(covariance=covariance), 2, False, BELIEVING)

    def surprise(step: torch.Tensor) -> torch.Tensor:
        pose = known.poses @ se3.exp(step[:6])
        return known.surprise(pose[None], known.coefficients[None] + step[6:])[0]

    for size in (0.0, 0.3):
        step = size * torch.ones(8, dtype=torch.float64)
        assert torch.autograd.gradcheck(surprise, step.requires_grad_())


def test_a_network_s_doubts_that_are_none_leave_the_fit_to_itself():
    views = [seen("ap", 0), seen("lateral", 1)]
    scene, eye = located(NEAR, views), torch.eye(8, dtype=torch.float64)
    for unknown in (None, torch.inf * torch.ones(8, 8, dtype=torch.float64)):
        assert belief(scene._replace(covariance=unknown), 2, False, BELIEVING) is None
    assert belief(scene._replace(covariance=eye), 2, False, FitSettings(belief=0.0)) is None
    with pytest.raises(ValueError, match="of 8 numbers, not of 6 for each of 2 poses and 2 coefficients"):
        belief(scene._replace(covariance=eye), 2, True, BELIEVING)


def test_poses_lie_apart_by_the_deviations_of_their_twists():
    views = [seen("ap", 0), seen("lateral", 1)]
    std = torch.tensor([0.1, 0.2, 0.05, 3.0, 10.0, 4.0], dtype=torch.float64)
    scene = located(NEAR, views)
    for free, count in ((False, 1), (True, 2)):
        block = torch.block_diag(*[(std**2).diag()] * count)
        sure = scene._replace(covariance=block)
        here = se3.inverse(scene.world_from_camera) @ scene.world_from_model if free else scene[1][None]
        assert apart(sure, here, free) == pytest.approx(0.0, abs=1e-9)
        for axis in range(6):
            step = torch.zeros(6, dtype=torch.float64)
            step[axis] = 2.5 * std[axis]
            assert apart(sure, here @ se3.exp(step), free) == pytest.approx(2.5)
        assert apart(scene, here @ se3.exp(NEAR), free) == 0.0  # no covariance is known
        assert apart(scene._replace(covariance=block / 0), here @ se3.exp(NEAR), free) == 0.0


def test_a_start_that_stands_alone_is_all_there_is():
    views = [seen("ap", 0), seen("lateral", 1)]
    fit = fit_xrays(MODEL, views, SHORT, init=located(FAR, views, shares=0.1, alone=True))
    assert fit.start["kind"] == "scene" and "starts" not in {h["stage"] for h in fit.history}
    assert error(fit.vertices) > 16.0
    with pytest.raises(ValueError, match="the network saw 2 views, this fit has 1"):
        fit_xrays(MODEL, views[:1], SHORT, init=located(NEAR, views))


def test_copies_of_a_network_s_start_surround_it():
    views = [seen("ap", 0), seen("lateral", 1)]
    scene = located(NEAR, views)
    for free, count in ((False, 1), (True, 2)):
        settings = FitSettings(finalists=5, seed=3)
        around = candidates_around(scene, 4, 2, free, settings)
        assert around.poses.shape == (5, count, 4, 4) and se3.is_rigid(around.poses.flatten(0, 1))
        first = se3.inverse(scene.world_from_camera) @ scene.world_from_model if free else scene[1][None]
        torch.testing.assert_close(around.poses[0], first)
        assert around.coefficients.tolist() == [pytest.approx([0.8, -1.0, 0.0, 0.0])] * 5
        shift = (around.poses[1:, :, :3, 3] - first[:, :3, 3]).abs()
        assert (shift[..., :2] <= 10).all() and (shift[..., 2] <= (30 if free else 10)).all()
        assert (shift.amax((1, 2)) > 1).all()
        again = candidates_around(scene, 4, 2, free, settings)
        assert torch.equal(again.poses, around.poses)


def test_a_start_is_doubted_by_its_pixels_its_likeness_and_its_masks():
    settings = FitSettings(trust=0.25, trust_inliers=0.6, accept_dice=0.8)
    assert doubt([0.9, 0.7], [{"agreement": 0.2}, {"agreement": 0.4}], settings) == ""
    assert "50 % of the pixels" in doubt([0.9, 0.5], [{"agreement": 0.9}] * 2, settings)
    assert "nan" in doubt([float("nan")], [{"agreement": 0.9}], settings)
    assert "0.200, below 0.25" in doubt([0.9], [{"agreement": 0.2}], settings)
    assert doubt([0.9], [{"agreement": 0.1, "overlap": 0.9}], settings) == ""
    assert "masks 0.700" in doubt([0.9], [{"agreement": 0.9, "overlap": 0.7}], settings)


def test_an_image_without_the_bone_is_a_failure_with_a_reason():
    noise = torch.rand(72, 72, generator=torch.Generator().manual_seed(0))
    fit = fit_xrays(MODEL, [View(noise, CAMERA, name="noise")], QUICK)
    assert not fit.converged and "below" in fit.reason


def test_masks_elsewhere_than_the_bone_can_be_are_a_failure():
    labels = torch.zeros(72, 72, dtype=torch.uint8)
    labels[30:33] = 1  # a stripe
    fit = fit_xrays(MODEL, [View(torch.rand(72, 72), CAMERA, mask=labels)], QUICK)
    assert not fit.converged and "Dice" in fit.reason


@pytest.mark.parametrize("mask", [False, True])
def test_the_search_finds_the_place_in_the_image(mask):
    pose = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 740.0)
    pose[:3, 3] += torch.tensor([25.0, 0.0, -18.0])
    paths = render_mesh(MODEL.mean[None], MODEL.faces, se3.inverse(pose)[None], CAMERA, MODEL.structure)[0]
    labels = torch.where(paths.amax(0) > 0.5, paths.argmax(0) + 1, 0).to(torch.uint8)
    image = simulate_view(MODEL.mean, MODEL.faces, MODEL.structure, pose, CAMERA, 0).image
    view = View(image, CAMERA, mask=labels if mask else None)
    settings = FitSettings(rotation_range=0.0)
    both = torch.tensor([True, True])
    found = start.search(
        start.Bone(MODEL.mean, MODEL.faces, MODEL.structure),
        evidence(view, settings, 72, 2, both),
        start.unposed(settings, 1000.0),
        settings,
        1,
    )[0].camera_from_bone
    center = torch.zeros(1, 3, dtype=torch.float64)
    off = CAMERA.project(found, center) - CAMERA.project(se3.inverse(pose), center)
    assert off.norm() < 3.0  # pixels


def test_a_coarse_model_is_closed_and_says_the_same():
    coarse = coarsened(MODEL, 300)
    assert len(coarse.faces) <= 620 and boundary_edges(coarse.faces) == 0
    c = torch.tensor([1.0, -1.0], dtype=torch.float64)
    fine, rough = (trimesh.Trimesh(m.instance(c).numpy(), m.faces.numpy()) for m in (MODEL, coarse))
    assert rough.volume == pytest.approx(fine.volume, rel=0.03)


def test_views_and_masks_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="at least one view"):
        fit_xrays(MODEL, [], QUICK)
    with pytest.raises(ValueError, match="1 of 2 views have no pose"):
        fit_xrays(MODEL, [seen("ap", 0), seen("ap", 1, posed=False)], QUICK)
    wrong = seen("ap", 0, mask=True)
    wrong.mask[0, 0] = 7
    with pytest.raises(ValueError, match=r"labels \[7\], the model structures 1..2"):
        fit_xrays(MODEL, [wrong], QUICK)
    wrong.mask.zero_()
    with pytest.raises(ValueError, match="none of the model's structures"):
        fit_xrays(MODEL, [wrong], QUICK)
