import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import small
import torch
import trimesh

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.fit.belief import rigid_belief
from shapefit.fit.rigid import likeness, register_views
from shapefit.fit.rigid_descent import costs, drawn, losses, moved
from shapefit.fit.rigid_likeness import features, patches, random_patches, seen, tiles
from shapefit.fit.rigid_scene import posed_problem, scene_at, spread
from shapefit.registration_metrics import mtre, rotation_error
from shapefit.render.simulate import Exposure, simulate_view
from shapefit.render.volume import render_volume
from shapefit.settings import RegisterSettings
from shapefit.view import View
from shapefit.volume import Volume

CAMERA = Camera(sdd=1020.0, delx=3.0, dely=3.0, x0=0.0, y0=0.0, height=64, width=64)
QUICK = RegisterSettings(
    starts=12, finalists=(3, 1), pixels=(32, 48, 64), steps=(8, 5, 10), patch=16, rays=(0, 2048, 4096)
)
TRUTH = se3.exp(torch.tensor([0.05, -0.04, 0.06, 3.0, -2.0, 2.5], dtype=torch.float64))
START = se3.exp(torch.tensor([-0.05, 0.04, 0.0, -2.0, 3.0, -3.0], dtype=torch.float64)) @ TRUTH


def pose(angle: float) -> torch.Tensor:
    """An AP camera turned about the patient's long axis."""
    turn = torch.tensor([0.0, 0.0, math.radians(angle), 0.0, 0.0, 0.0], dtype=torch.float64)
    return se3.exp(turn) @ world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0)


def phantom() -> Volume:
    """The three bones of `small`, denser at their surface, on an oblique grid of 2.6 mm; 1/mm."""
    affine = se3.exp(torch.tensor([0.2, -0.1, 0.3, 0.0, 0.0, 0.0], dtype=torch.float64))
    affine[:3, :3] *= 2.6
    shape = torch.tensor([36.0, 26.0, 34.0], dtype=torch.float64)
    affine[:3, 3] = -affine[:3, :3] @ (shape - 1) / 2
    index = torch.cartesian_prod(*(torch.arange(int(n), dtype=torch.float64) for n in shape))
    world = se3.transform(affine, index).numpy()
    inside, core = small.case_labels(0, world) > 0, small.case_labels(0, world * 1.15) > 0
    data = 0.05 * inside - 0.02 * (inside & core)
    return Volume(torch.from_numpy(data.reshape(36, 26, 34)).float(), affine)


CT = phantom()
POINTS = se3.transform(CT.world_from_voxel, torch.nonzero(CT.data).double())


def xray(angle: float, truth: torch.Tensor = TRUTH, posed: bool = True) -> View:
    """Voxels of constant value, four rays a pixel, noise, unknown gain and exponent: not what is fitted."""
    camera_from_bone = se3.inverse(pose(angle)) @ truth
    line = render_volume(CT, camera_from_bone[None], CAMERA.resized(128, 128), "siddon")[0, 0]
    picture = torch.exp(-1.3 * line - 0.4).unflatten(0, (64, 2)).unflatten(2, (64, 2)).mean((1, 3))
    picture = torch.poisson(2000 * picture, torch.Generator().manual_seed(int(angle))) / 2000
    return View(picture.clamp(0, 1) ** 0.7, CAMERA, pose(angle) if posed else None, name=f"view {angle:g}")


VIEWS = [xray(0.0), xray(70.0)]


def error(found: torch.Tensor) -> float:
    return float(mtre(found, TRUTH, POINTS))


@pytest.fixture(scope="module")
def found():
    return register_views(CT, VIEWS, QUICK, init=START)


def test_a_ct_is_found_where_it_was(found):
    assert found.converged and error(START) > 4.0
    assert error(found.world_from_bone) < 0.3


def test_a_registration_reports_what_it_did(found):
    assert len(found.losses) == len(found.terms) == 2
    assert list(dict.fromkeys(h["stage"] for h in found.history)) == ["coarse", "middle", "fine"]
    assert all(np.isfinite(h["loss"]) and np.shape(h["world_from_bone"]) == (4, 4) for h in found.history)
    assert found.history[-1]["world_from_bone"] == found.world_from_bone.tolist()
    ranked = [c["loss"] for c in found.candidates]
    assert ranked == sorted(ranked) and len(ranked) == QUICK.finalists[0]
    assert found.candidates[0]["world_from_bone"] == found.world_from_bone.tolist()
    assert torch.allclose(found.world_from_camera, torch.stack([pose(0.0), pose(70.0)]))


def test_the_fine_images_lower_their_own_loss_step_by_step(found):
    fine = [h["loss"] for h in found.history if h["stage"] == "fine"]
    assert all(b <= a for a, b in pairwise(fine))


def test_the_same_seed_gives_the_same_pose(found):
    again = register_views(CT, VIEWS, QUICK, init=START)
    assert torch.equal(again.world_from_bone, found.world_from_bone) and again.losses == found.losses


def test_a_few_rays_say_what_all_rays_say(found):
    every = register_views(CT, VIEWS, replace(QUICK, rays=(0, 0, 0)), init=START)
    assert float(mtre(every.world_from_bone, found.world_from_bone, POINTS)) < 0.25


def test_a_start_at_the_answer_stays_there():
    fit = register_views(CT, VIEWS, replace(QUICK, starts=1), init=TRUTH)
    assert error(fit.world_from_bone) < 0.3


def bumpy_ball() -> trimesh.Trimesh:
    """A closed mesh without any symmetry, some 13 cm wide."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    x, y, z = ball.vertices.T
    bumps = 1 + 0.3 * np.sin(3 * x + 1) * np.cos(2 * z) + 0.25 * y * z
    return trimesh.Trimesh(ball.vertices * bumps[:, None] * [64.0, 45.0, 56.0], ball.faces, process=False)


def test_a_closed_mesh_is_found_where_it_was():
    mesh = bumpy_ball()
    vertices, faces = torch.tensor(np.array(mesh.vertices)), torch.tensor(np.array(mesh.faces))
    there, structure = se3.transform(TRUTH, vertices), torch.zeros(len(faces), dtype=torch.int64)
    exposure = Exposure(photons=2000.0, gas=1)
    views = [
        simulate_view(there, faces, structure, pose(angle), CAMERA, seed, exposure)
        for seed, angle in enumerate((0.0, 70.0))
    ]
    fit = register_views({"bone": mesh}, views, replace(QUICK, starts=4, shell=1.6, interior=0.3), init=START)
    assert fit.converged and float(mtre(START, TRUTH, vertices)) > 4.0
    assert float(mtre(fit.world_from_bone, TRUTH, vertices)) < 1.0


def test_one_view_finds_all_but_depth():
    fit = register_views(CT, VIEWS[:1], QUICK, init=START)
    there, true = (se3.transform(se3.inverse(pose(0.0)) @ p, POINTS) for p in (fit.world_from_bone, TRUTH))
    assert fit.converged
    assert float((there[:, :2] - true[:, :2]).norm(dim=1).mean()) < 0.6
    assert float(rotation_error(fit.world_from_bone, TRUTH)) < 1.0


def test_a_view_without_a_pose_is_taken_as_the_settings_say():
    bare = xray(0.0, truth=torch.eye(4, dtype=torch.float64), posed=False)
    fit = register_views(CT, [bare], replace(QUICK, depth=700.0 / 1020.0))
    assert fit.converged and fit.world_from_camera[0, 1, 3] > 600  # in front of the patient
    assert float(rotation_error(fit.world_from_bone, torch.eye(4, dtype=torch.float64))) < 1.5


def test_an_image_without_the_bone_is_a_failure_with_a_reason():
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    fit = register_views(CT, [View(noise, CAMERA, pose(0.0))], QUICK, init=START)
    assert not fit.converged and "below 0.4" in fit.reason
    assert torch.isfinite(fit.world_from_bone).all() and np.isfinite(fit.losses).all()


def test_a_black_image_is_a_failure_and_not_a_nan():
    fit = register_views(CT, [View(torch.zeros(64, 64), CAMERA, pose(0.0))], QUICK, init=START)
    assert not fit.converged and se3.is_rigid(fit.world_from_bone) and np.isfinite(fit.losses).all()


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((400.0, 0.0, 0.0), r"view 0: the X-ray misses .* \d+ pixels \(\d+ mm on the detector\) left of"),
        ((-400.0, 0.0, 0.0), "right of the image"),
        ((0.0, 0.0, 400.0), "above the image"),
        ((0.0, 0.0, -400.0), "below the image"),
        ((0.0, 720.0, 0.0), "not in front of the X-ray source"),
    ],
)
def test_a_bone_that_the_xray_misses_is_an_error_that_says_by_how_much(shift, words):
    away = torch.eye(4, dtype=torch.float64)
    away[:3, 3] = torch.tensor(shift)
    with pytest.raises(ValueError, match=words):
        register_views(CT, VIEWS[:1], QUICK, init=away)


def test_of_several_starts_that_near_the_bone_wins_and_one_that_misses_it_is_left_out():
    away, wrong = torch.eye(4, dtype=torch.float64), START.clone()
    away[0, 3] = 400.0
    wrong[:3, 3] += 30.0
    quick = replace(QUICK, translation_range=8.0, rotation_range=8.0, steps=(6, 3, 3))
    fit = register_views(CT, VIEWS, quick, init=torch.stack([away, wrong, START]))
    assert torch.equal(fit.start, START) and error(fit.world_from_bone) < 0.6
    problem = posed_problem(CT, VIEWS, quick, torch.stack([away, wrong, START]))
    poses = spread(problem, scene_at(problem, 32))
    assert torch.equal(problem.starts, torch.stack([wrong, START])) and len(poses) == QUICK.starts
    assert torch.allclose(poses[[0, QUICK.starts // 2]], problem.starts)
    with pytest.raises(ValueError, match="misses"):
        register_views(CT, VIEWS, quick, init=torch.stack([away, away]))


def test_input_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least one view"):
        register_views(CT, [], QUICK)
    with pytest.raises(ValueError, match="1 of 2 views have no pose"):
        register_views(CT, [VIEWS[0], xray(70.0, posed=False)], QUICK)
    with pytest.raises(ValueError, match="Hounsfield units"):
        register_views(replace(CT, data=20000 * CT.data - 1000), VIEWS, QUICK)
    with pytest.raises(ValueError, match="every voxel is 0"):
        register_views(replace(CT, data=0 * CT.data), VIEWS, QUICK)
    with pytest.raises(ValueError, match="not a rigid motion"):
        register_views(CT, VIEWS, QUICK, init=2 * torch.eye(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="no mesh"):
        register_views({}, VIEWS, QUICK)


def test_the_likeness_of_a_pose_is_the_loss_that_is_descended(found):
    at = torch.stack([found.world_from_bone, START])
    values = likeness(CT, VIEWS, at, QUICK, 64)
    assert float(values[0]) == pytest.approx(sum(found.losses) / 2, abs=1e-5)
    assert values[0] < values[1]


def test_gain_and_offset_of_either_side_do_not_count():
    image = seen(VIEWS[0], 64)
    parts = patches(image, tiles(image, 16), 0.5)
    values = image.line.flatten()[parts.pixels][None]
    same = features(3.0 * values - 2.0, parts.valid, 0.5, floor=0.0) @ parts.features
    assert float(same[0]) == pytest.approx(float(parts.features.square().sum()) ** 0.5, abs=0.05)
    assert float(parts.features.square().sum()) <= 1 + 1e-5


def test_random_patches_are_squares_of_the_image():
    image = seen(VIEWS[0], 64)
    squares = random_patches(image, 16, 2048, torch.Generator().manual_seed(0))
    assert squares.shape == (8, 16, 16) and squares.min() >= 0 and squares.max() < 64 * 64
    rows, columns = squares // 64, squares % 64
    assert (rows.diff(dim=1) == 1).all() and (columns.diff(dim=2) == 1).all()
    assert tiles(image, 24).unique().numel() == 64 * 64  # those of a whole image leave nothing out


def test_a_turn_leaves_the_bones_centre_in_place():
    problem = posed_problem(CT, VIEWS, QUICK, START)
    scene = scene_at(problem, 64)
    twist = torch.tensor([[0.7, -0.4, 0.2, 0.0, 0.0, 0.0]], dtype=torch.float64)
    turned = moved(scene, START[None], twist)[0]
    before, after = (se3.transform(p, problem.centre[None]) for p in (START, turned))
    assert torch.allclose(before, after, atol=1e-9) and float(rotation_error(turned, START)) > 5


def test_starts_lie_within_the_stated_range_and_begin_with_the_given_one():
    settings = replace(QUICK, starts=40, translation_range=12.0, rotation_range=15.0)
    problem = posed_problem(CT, VIEWS, settings, START)
    poses = spread(problem, scene_at(problem, 32))
    assert poses.shape == (40, 4, 4) and torch.allclose(poses[0], START)
    assert 10.0 < float(rotation_error(poses, START.expand(40, 4, 4)).max()) <= 15.0
    shift = mtre(poses, START.expand(40, 4, 4), problem.centre[None])
    assert 8.0 < float(shift.max()) <= 12.0


def test_the_gradient_is_the_slope_of_the_loss():
    problem = posed_problem(CT, VIEWS, QUICK, START)
    scene = scene_at(problem, 48)
    compared = [patches(image, tiles(image, 16), 0.5) for image in scene.seen]

    def loss(twist: torch.Tensor) -> torch.Tensor:
        return losses(scene, moved(scene, START[None], twist), compared).double().mean()

    twist = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(twist), twist)
    step = 0.02 * torch.eye(6, dtype=torch.float64)[:, None]
    with torch.no_grad():
        slope = torch.stack([(loss(s) - loss(-s)) / 0.04 for s in step])
    assert torch.allclose(gradient[0], slope, atol=0.02 * float(slope.abs().max()))


STD = torch.tensor([0.03, 0.04, 0.05, 2.0, 3.0, 8.0], dtype=torch.float64)


def test_what_a_network_saw_of_a_bone_is_the_same_in_the_bone_s_own_frame():
    bone_from_model = se3.exp(torch.tensor([0.4, -0.3, 0.5, 30.0, -20.0, 45.0], dtype=torch.float64))
    known = rigid_belief(STD.square().diag(), TRUTH, bone_from_model)
    step = torch.tensor([0.02, -0.05, 0.03, 1.0, 4.0, -9.0], dtype=torch.float64)
    moved_model = (TRUTH @ bone_from_model) @ se3.exp(step)
    there = moved_model @ se3.inverse(bone_from_model)
    squared = (step / STD).square().sum()
    none = torch.zeros(1, 0, dtype=torch.float64)
    assert float(known.surprise(there[None, None], none)) == pytest.approx(
        float(3 * torch.log1p(squared / 6)), rel=1e-6
    )
    assert rigid_belief(torch.inf * torch.eye(6), TRUTH, bone_from_model) is None


def test_a_belief_s_curvature_is_that_of_its_surprise_where_it_expects_the_bone():
    root = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    known = rigid_belief(root @ root.T, TRUTH, torch.eye(4))
    none = torch.zeros(1, 0, dtype=torch.float64)

    def surprise(twist: torch.Tensor) -> torch.Tensor:
        return known.surprise((known.poses @ se3.exp(twist))[None], none)[0]

    at = torch.zeros(6, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(surprise, at)
    eye = torch.eye(6, dtype=torch.float64)[None]
    torch.testing.assert_close(known.curvature(at[None], eye)[0], hessian, rtol=1e-6, atol=1e-9)


def test_where_the_image_says_nothing_the_network_is_heard():
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(3)) * 0.2 + 0.4
    view = [View(noise, CAMERA, pose(0.0))]
    known = rigid_belief(STD.square().diag(), TRUTH, torch.eye(4))
    heard, alone = (register_views(CT, view, QUICK, init=TRUTH, belief=b) for b in (known, None))
    none = torch.zeros(1, 0, dtype=torch.float64)
    off = [known.away(fit.world_from_bone[None, None], none).div(STD).norm() for fit in (heard, alone)]
    assert off[0] < 4 and off[0] < 0.7 * off[1]


def test_where_the_image_speaks_it_wins():
    known = rigid_belief((0.3 * STD).square().diag(), START, torch.eye(4))  # wrong, and sure of it
    fit = register_views(CT, VIEWS, QUICK, init=START, belief=known)
    plain = register_views(CT, VIEWS, QUICK, init=START)
    assert error(START) > 4 and error(fit.world_from_bone) < error(plain.world_from_bone) + 0.5


def test_what_is_descended_is_the_losses_and_the_belief():
    problem = posed_problem(CT, VIEWS, QUICK, START)
    scene = scene_at(problem, 32)
    compared, poses = drawn(scene, 0), torch.stack([START, TRUTH])
    plain = losses(scene, poses, compared).double().mean(1)
    torch.testing.assert_close(costs(scene, poses, compared), plain)
    known = rigid_belief(STD.square().diag(), START, torch.eye(4))
    surprise = known.surprise(poses[:, None], torch.zeros(2, 0, dtype=torch.float64))
    torch.testing.assert_close(
        costs(scene._replace(belief=known), poses, compared), plain + QUICK.belief * surprise
    )
    assert surprise[0] < 1e-9 < 1 < surprise[1]


def test_near_where_a_network_saw_the_bone_less_likeness_is_enough():
    known = rigid_belief(STD.square().diag(), TRUTH, torch.eye(4))
    away = rigid_belief((0.05 * STD).square().diag(), START, torch.eye(4))
    strict = replace(QUICK, starts=1, accept=0.99, accept_near=0.3)
    near, far, alone = (register_views(CT, VIEWS, strict, init=TRUTH, belief=b) for b in (known, away, None))
    assert near.converged and near.apart < 1
    assert re.search(r"at least 0.3; 0\.\d standard deviations from where a network saw", near.reason)
    assert not far.converged and far.apart > strict.near and "below 0.99; " in far.reason
    assert not alone.converged and alone.apart is None and alone.reason.endswith("below 0.99")
    none = register_views(CT, VIEWS, replace(strict, accept_near=0.98), init=TRUTH, belief=known)
    assert not none.converged and "below 0.98" in none.reason


def test_what_another_start_leads_to_is_taken_only_if_it_explains_the_images(monkeypatch):
    known = rigid_belief(STD.square().diag(), TRUTH, torch.eye(4))
    wrong = torch.eye(4, dtype=torch.float64)
    wrong[:3, 3] = torch.tensor([20.0, 0.0, 20.0])
    seen = []

    def search(problem, belief, report, began):
        seen.append(len(problem.starts))
        last = problem.starts[-1]
        return replace(plain, start=last, world_from_bone=last, converged=bool(believed and len(seen) == 1))

    quick = replace(QUICK, starts=4, finalists=(1, 1), steps=(1, 1, 1))
    plain = register_views(CT, VIEWS, quick, init=TRUTH)
    monkeypatch.setattr("shapefit.fit.rigid._search", search)
    for believed, calls in ((True, [2]), (False, [2, 1])):
        seen.clear()
        fit = register_views(CT, VIEWS, quick, init=torch.stack([TRUTH, wrong]), belief=known)
        assert seen == calls and torch.equal(fit.start, wrong if believed else TRUTH)
    seen.clear()
    register_views(CT, VIEWS, quick, init=torch.stack([TRUTH, wrong]))
    assert seen == [2]  # no network saw anything: no start is before the others
