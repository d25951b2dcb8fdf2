"""A bone in X-rays, from what is seen in them: right where it can be, and no answer where it cannot."""

import math
from dataclasses import replace

import pytest
import small
import torch
from looks import look_at, pose_near
from torch.nn.functional import pad

from shapefit import read_model, se3
from shapefit.camera import Camera
from shapefit.scene import pnp
from shapefit.scene.locate import Look, _sight, locate_looks, locate_views, template_surface
from shapefit.scene.located import LOST, bone_in_words
from shapefit.scene.network import UNIT, SceneNetwork
from shapefit.scene.solve import _Posterior, _State, carry
from shapefit.settings import LocateSettings
from shapefit.shape_model import ShapeModel
from shapefit.view import View

SETTINGS = LocateSettings()
# what is perfect may be taken at its word
EXACT = LocateSettings(independent=1e9, pixel=0.05, beyond=0.02, depth_std=10.0)
CAMERA = replace(small.CAMERA, height=96, width=108, delx=4 / 3, dely=4 / 3)
TWIST = torch.tensor([0.15, -0.1, 0.08, 3.0, -2.0, 4.0], dtype=torch.float64)
LATERAL = pose_near("lateral", 730.0, TWIST)
AP = pose_near("ap", 720.0, TWIST)


@pytest.fixture(scope="module")
def model():
    return small.small_model()


@pytest.fixture(scope="module")
def template(model):
    return template_surface(model.mean, model.faces, model.names)


def some_shape(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.modes, generator=generator, dtype=torch.float64)


def off(located, camera_from_model, view=0):
    """Rotation (rad) and the bone's place across and along the beam (mm) that a located pose is off by."""
    found = se3.inverse(located.world_from_camera[view]) @ located.world_from_model
    place = found[:3, 3] - camera_from_model[:3, 3]
    turn = se3.rotation_angle(found[:3, :3].T @ camera_from_model[:3, :3])
    return float(turn), float(place[:2].norm()), abs(float(place[2]))


def errors(located, poses, coefficients):
    """The twists to the true poses and the coefficients' errors: what the covariance is of."""
    twists = []
    for view, pose in enumerate(poses):
        found = se3.inverse(located.world_from_camera[view]) @ located.world_from_model
        twists.append(se3.log(se3.inverse(found) @ pose))
    return torch.cat([*twists, coefficients - located.coefficients])


def test_perfect_coordinates_give_the_bone_up_to_its_size(model, template):
    # twice the size at twice the distance gives the same image: only what is expected tells them apart
    shape = some_shape(model)
    located = locate_looks(template, model, [look_at(model, shape, AP, CAMERA)], EXACT)
    assert located.found, located.reason
    assert located.inlier_share == [1.0]
    assert not located.posed
    assert torch.equal(located.world_from_model, torch.eye(4, dtype=torch.float64))
    turn, _, along = off(located, AP)
    assert turn < math.radians(0.01)
    assert along < 3 * located.spread()[2]
    seen = CAMERA.project(se3.inverse(located.world_from_camera[0]), located.vertices)
    truth = CAMERA.project(AP, model.instance(shape))
    assert float((seen - truth).norm(dim=1).max()) < 0.02  # pixels


def test_perfect_coordinates_of_two_posed_views_give_pose_and_shape(model, template):
    motion = se3.exp(torch.tensor([0.3, -0.2, 0.1, 120.0, -60.0, 40.0], dtype=torch.float64))
    shape = some_shape(model)
    looks = [
        look_at(model, shape, pose, CAMERA, world_from_camera=motion @ se3.inverse(pose))
        for pose in (AP, LATERAL)
    ]
    located = locate_looks(template, model, looks, EXACT)
    assert located.inlier_share == [1.0, 1.0]
    truth = se3.transform(motion, model.instance(shape))
    assert float((located.vertices - truth).norm(dim=1).max()) < 0.05
    assert torch.allclose(located.world_from_model, motion, rtol=0, atol=0.05)


def test_the_pose_of_a_bone_without_modes_is_found(model, template):
    rigid = replace(
        model, components=model.components[:0], std=model.std[:0], scores=torch.zeros(0, 0).double()
    )
    located = locate_looks(template, rigid, [look_at(rigid, torch.zeros(0), AP, CAMERA)], EXACT)
    assert located.found
    assert located.covariance.shape == (6, 6)
    turn, across, along = off(located, AP)
    assert turn < math.radians(0.05)
    assert across < 0.02
    assert along < 0.3


def test_another_model_of_the_same_mesh_is_located_by_the_template_s_coordinates(model, template):
    # a network knows places on the template: another mean and other modes hang on them
    turned = model.mean[:, [2, 0, 1]] * torch.tensor([1.0, 1.0, -1.0])
    other = replace(model, mean=model.mean + 0.15 * turned, std=0.5 * model.std)
    shape = some_shape(model, 1)
    look = look_at(other, shape, AP, CAMERA, template=model.mean)
    located = locate_looks(template, other, [look], EXACT)
    assert located.found
    found = se3.transform(se3.inverse(located.world_from_camera[0]), located.vertices)
    truth = se3.transform(AP, other.instance(shape))
    pixels = CAMERA.project(torch.eye(4, dtype=torch.float64), torch.stack([found, truth]))
    assert float((pixels[0] - pixels[1]).norm(dim=1).max()) < 0.1


def test_two_fifths_of_wrong_pixels_cost_little(model, template):
    for seed in range(4):
        shape = some_shape(model, seed)
        look = look_at(model, shape, AP, CAMERA, std=1.0, outliers=0.4, seed=seed)
        located = locate_looks(template, model, [look], SETTINGS)
        assert located.found, located.reason
        assert 0.5 < located.inlier_share[0] < 0.7
        turn, across, along = off(located, AP)
        assert turn < math.radians(3)
        assert across < 1.5
        assert along < 2.5 * located.spread()[2]


def test_given_poses_locate_the_bone_in_depth(model, template):
    motion = se3.exp(torch.tensor([0.3, -0.2, 0.1, 120.0, -60.0, 40.0], dtype=torch.float64))
    poses, shape = [AP, LATERAL], some_shape(model, 2)
    looks = [
        look_at(model, shape, pose, CAMERA, std=1.0, seed=n, world_from_camera=motion @ se3.inverse(pose))
        for n, pose in enumerate(poses)
    ]
    located = locate_looks(template, model, looks, SETTINGS)
    assert located.found
    assert located.posed
    assert located.covariance.shape == (6 + model.modes, 6 + model.modes)
    assert torch.equal(located.world_from_camera, torch.stack([one.world_from_camera for one in looks]))
    assert float((located.vertices - se3.transform(motion, model.instance(shape))).norm(dim=1).mean()) < 1.5
    single = locate_looks(template, model, looks[:1], SETTINGS)
    assert located.spread()[2] < 0.2 * single.spread()[2]  # across one beam is along the other
    for view, pose in enumerate(poses):
        assert off(located, pose, view)[2] < 3 * located.spread(view)[2] < 5.0


def test_free_views_have_their_own_poses_and_share_the_shape(model, template):
    poses, shape = [AP, LATERAL], some_shape(model, 3)
    looks = [look_at(model, shape, pose, CAMERA, std=0.5, seed=n) for n, pose in enumerate(poses)]
    located = locate_looks(template, model, looks, SETTINGS)
    alone = [locate_looks(template, model, [look], SETTINGS) for look in looks]
    assert located.found
    assert located.covariance.shape == (12 + model.modes, 12 + model.modes)
    for view, pose in enumerate(poses):
        turn, across, _ = off(located, pose, view)
        assert turn < 3 * located.spread(view)[0]
        assert across < 3 * located.spread(view)[1]
    sure = [float(one.covariance.diagonal()[-model.modes :].sum()) for one in (located, *alone)]
    assert sure[0] < min(sure[1:])  # two views know more of the shape than each of them


def test_a_posed_view_without_the_bone_is_left_out(model, template):
    looks = [
        look_at(model, some_shape(model), pose, CAMERA, std=0.5, world_from_camera=se3.inverse(pose))
        for pose in (AP, LATERAL)
    ]
    empty = looks[1]._replace(seen=looks[1].seen._replace(structures=torch.zeros(1, 3, 96, 108)))
    located = locate_looks(template, model, [looks[0], empty], SETTINGS)
    assert located.found
    assert located.inlier_share[0] > 0.9
    assert located.inlier_share[1] == 0
    alone = locate_looks(template, model, looks[:1], SETTINGS)
    assert torch.equal(located.vertices, alone.vertices)


def test_no_bone_is_an_answer(model, template):
    look = look_at(model, some_shape(model), AP, CAMERA, name="b.png")
    empty = look._replace(seen=look.seen._replace(structures=0.4 * look.seen.structures), name="a.png")
    located = locate_looks(template, model, [empty], SETTINGS)
    assert not located.found
    assert located.reason == "no pelvis in this image"
    assert torch.isinf(located.covariance.diagonal()[:6]).all()
    assert located.spread() == (math.inf, math.inf, math.inf)
    both = locate_looks(template, model, [empty, look], SETTINGS)
    assert not both.found
    assert both.reason == "no pelvis in a.png, whose pose is to be estimated"
    neither = locate_looks(template, model, [empty, empty], SETTINGS)
    assert neither.reason == "no pelvis in these images"


def test_a_speck_is_no_bone(model, template):
    look = look_at(model, some_shape(model), AP, CAMERA)
    structures = look.seen.structures.clone()
    structures[..., 10:, :] = 0
    structures[..., 12:20, 50:60] = 1  # under a hundredth of the image
    located = locate_looks(
        template, model, [look._replace(seen=look.seen._replace(structures=structures))], SETTINGS
    )
    assert located.reason == "no pelvis in this image"
    # of an image of which little is valid it is much
    valid = torch.zeros_like(look.valid)
    valid[10:22, 45:65] = True
    small_field = look._replace(seen=look.seen._replace(structures=structures), valid=valid)
    assert "no pelvis" not in locate_looks(template, model, [small_field], SETTINGS).reason


@pytest.mark.parametrize("seed", range(3))
def test_coordinates_that_contradict_each_other_are_no_answer(model, template, seed):
    look = look_at(model, some_shape(model), AP, CAMERA, outliers=1.0, seed=seed)
    located = locate_looks(template, model, [look], SETTINGS)
    assert not located.found
    assert located.reason.startswith("too few inliers")
    assert located.inlier_share[0] < SETTINGS.least_inliers


@pytest.mark.parametrize("kind", ["point", "line"])
def test_coordinates_that_do_not_tell_a_pose_are_no_answer(model, template, kind):
    look = look_at(model, some_shape(model), AP, CAMERA)
    keep = torch.zeros(3, 3) if kind == "point" else torch.diag(torch.tensor([0.0, 0.0, 1.0]))
    entry, leave = (torch.einsum("ij,bjhw->bihw", keep, image) for image in (look.seen.entry, look.seen.exit))
    structures = look.seen.structures.clone()
    structures[..., :50] = structures[..., 58:] = 0  # a line is seen as one
    seen = look.seen._replace(entry=entry, exit=leave, structures=structures)
    located = locate_looks(template, model, [look._replace(seen=seen)], SETTINGS)
    assert not located.found
    assert torch.isfinite(located.vertices).all()
    if located.reason.startswith("what is seen"):
        assert located.spread()[0] > LOST


def test_a_bone_is_not_seen_back_to_front(model, template):
    # entries and exits that changed places look like the mirrored bone, through which no ray can go
    look = look_at(model, torch.zeros(model.modes), pose_near("ap", 720.0, torch.zeros(6)), CAMERA)
    mirror = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    seen = look.seen._replace(entry=mirror * look.seen.entry, exit=mirror * look.seen.exit)
    located = locate_looks(template, model, [look._replace(seen=seen)], replace(SETTINGS, reprojection=20.0))
    assert not located.found
    assert "back to front" in located.reason


def test_an_unknown_depth_is_as_uncertain_as_what_is_expected_of_it(model, template):
    look = look_at(model, some_shape(model), AP, CAMERA, std=1.0)
    spread = {
        std: locate_looks(template, model, [look], replace(SETTINGS, depth_std=std)).spread()
        for std in (0.005, 0.03, 0.0)
    }
    assert spread[0.005][2] < 0.006 * CAMERA.sdd
    assert spread[0.005][2] < 0.5 * spread[0.03][2]
    assert spread[0.03][2] < spread[0.0][2]


def test_half_a_bone_says_less(model, template):
    shape = some_shape(model)
    whole = locate_looks(template, model, [look_at(model, shape, AP, CAMERA, std=1.0)], SETTINGS)
    aside = pose_near("ap", 720.0, TWIST, torch.tensor([52.0, 0.0, 0.0]))
    half = locate_looks(template, model, [look_at(model, shape, aside, CAMERA, std=1.0)], SETTINGS)
    assert half.found
    assert off(half, aside)[0] < 3 * half.spread()[0]
    assert half.spread()[0] > 1.2 * whole.spread()[0]


def test_errors_larger_than_predicted_are_noticed(model, template):
    look = look_at(model, some_shape(model), AP, CAMERA, std=3.0)
    modest = look._replace(
        seen=look.seen._replace(entry_std=look.seen.entry_std / 3, exit_std=look.seen.exit_std / 3)
    )
    settings = replace(SETTINGS, beyond=0.1, pixel=0.1)
    right, wrong = (locate_looks(template, model, [one], settings) for one in (look, modest))
    assert right.excess[0] < 1.2
    assert 2.4 < wrong.excess[0] < 3.3
    assert wrong.spread()[0] == pytest.approx(right.spread()[0], rel=0.2)


def test_the_normal_equations_hold_the_gradient_of_the_posterior(model, template):
    # where a miss's covariance does not depend on the pose, the right side is minus half the gradient
    settings = replace(SETTINGS, pixel=1.0, beyond=0.0)
    shape, generator = some_shape(model), torch.Generator().manual_seed(1)
    looks = [
        look_at(model, shape, pose, CAMERA, std=2.0, outliers=0.1, seed=n)
        for n, pose in enumerate((AP, LATERAL))
    ]
    sure = [
        look._replace(
            seen=look.seen._replace(
                entry_std=0 * look.seen.entry_std + 1e-9, exit_std=0 * look.seen.exit_std + 1e-9
            )
        )
        for look in looks
    ]
    poses = torch.stack([AP, LATERAL])
    sights = sights_of(sure, model, template, poses, settings)
    center = torch.tensor([3.0, -5.0, 2.0], dtype=torch.float64)
    scales = [1.3, 1.0]

    posterior, at = _Posterior(sights, center, settings), _State(poses, shape)

    def cost(step):
        moved = at.moved(step)
        return posterior.cost(moved, posterior.misses(moved), scales)

    _, right = posterior.normal(at, posterior.misses(at), scales)
    for _ in range(5):
        direction = torch.randn(12 + model.modes, generator=generator, dtype=torch.float64)
        direction[[0, 1, 2, 6, 7, 8]] *= 0.02
        slope = (cost(1e-4 * direction) - cost(-1e-4 * direction)) / 2e-4
        assert slope == pytest.approx(-2 * float(right @ direction), rel=1e-5)


def sights_of(looks, model, template, poses, settings):
    sights = []
    for number, look in enumerate(looks):
        found = pnp.votes(look.seen, pnp.covered_pixels(look.seen, 0.5), 300)
        carried = carry(found, model, template.tree, template.vertices, model.modes)
        sights.append(_sight(look, carried, poses, number, template.vertices, settings))
    return sights


@pytest.fixture(scope="module")
def pelvis():
    return read_model("pelvis")


def test_the_covariance_is_that_of_the_errors(pelvis):
    """Over bones, poses and smooth errors drawn from what is assumed, squared errors are as predicted."""
    camera = Camera(sdd=1100.0, delx=330 / 96, dely=330 / 96, x0=0.0, y0=0.0, height=96, width=96)
    template = template_surface(pelvis.mean, pelvis.faces, pelvis.names)
    # neighbours err alike over 4.5 pixels: this many patches of entries and exits are on the bone
    settings = LocateSettings(beyond=0.1, pixel=0.1, independent=60.0, shadow=0.0)  # masks do not err
    of_pose, of_shape, of_depth = [], [], []
    for draw in range(30):
        generator = torch.Generator().manual_seed(draw)
        twist = torch.cat([0.2 * torch.randn(3, generator=generator), torch.zeros(3)])
        depth = 1100 * (0.72 + 0.03 * float(torch.randn((), generator=generator)))
        pose = pose_near(
            "ap", depth, twist, 25 * torch.randn(3, generator=generator) * torch.tensor([1, 1, 0])
        )
        shape = some_shape(pelvis, draw + 1000)
        look = look_at(pelvis, shape, pose, camera, std=4.0, width=4.5, seed=draw)
        located = locate_looks(template, pelvis, [look], settings)
        assert located.found, located.reason
        error = errors(located, [pose], shape)
        of_pose.append(float(error[:6] @ torch.linalg.solve(located.covariance[:6, :6], error[:6])))
        of_shape.append(float(error[6:] @ torch.linalg.solve(located.covariance[6:, 6:], error[6:])))
        of_depth.append((off(located, pose)[2] / located.spread()[2]) ** 2)
    # means over 30 draws of chi squared: 6 +- 0.6 and 29 +- 1.4
    assert 4.0 < sum(of_pose) / 30 < 8.0
    assert 24 < sum(of_shape) / 30 < 35
    assert 0.4 < sum(of_depth) / 30 < 1.7


def knowing_network(model: ShapeModel, look: Look) -> SceneNetwork:
    """A network that says what it was told, whatever it is shown."""
    network = SceneNetwork(model.mean, model.faces, model.names, pixels=108, channels=(4, 4))
    seen = look.seen
    log_variance = 2 * (torch.stack([seen.entry_std, seen.exit_std], 1) / UNIT).log()
    logits = torch.where(seen.structures > 0.5, 8.0, -8.0)
    answer = torch.cat([seen.entry / UNIT, seen.exit / UNIT, log_variance, logits], 1)

    def forward(image):
        rows, columns = image.shape[-2:]
        return pad(answer, (0, columns - answer.shape[-1], 0, rows - answer.shape[-2]))

    network.forward = forward
    return network


def test_a_network_s_view_is_located_on_the_view_s_own_camera(model, template):
    look = look_at(model, some_shape(model), AP, CAMERA, std=2.0)
    network, once = knowing_network(model, look), replace(SETTINGS, looks=1)
    fine = CAMERA.resized(192, 216)
    located = locate_views(network, model, [View(torch.full((192, 216), 0.5), fine)], once)
    assert located.found
    assert located.cameras == [CAMERA]
    assert torch.allclose(located.seen[0].entry, look.seen.entry, atol=1e-3)
    expected = locate_looks(template, model, [look._replace(seen=located.seen[0])], SETTINGS)
    assert torch.allclose(located.world_from_camera, expected.world_from_camera, rtol=0, atol=1e-3)  # mm
    posed = View(torch.full((192, 216), 0.5), fine, se3.inverse(AP))
    assert locate_views(network, model, [posed], once).posed
    assert not locate_views(network, model, [posed], replace(once, free_views=True)).posed


def test_pixels_that_are_not_valid_have_no_vote_in_a_view(model):
    look = look_at(model, some_shape(model), AP, CAMERA, std=2.0)
    valid = torch.ones(192, 216, dtype=torch.bool)
    valid[:, :108] = False
    view = View(torch.full((192, 216), 0.5), CAMERA.resized(192, 216), valid=valid)
    located = locate_views(knowing_network(model, look), model, [view], SETTINGS)
    assert not located.covered[0][:, :54].any()
    assert located.covered[0][:, 54:].any()


def test_what_cannot_be_asked_is_refused(model, template):
    look = look_at(model, some_shape(model), AP, CAMERA)
    with pytest.raises(ValueError, match="at least one view"):
        locate_looks(template, model, [], SETTINGS)
    with pytest.raises(ValueError, match="1 of 2 views have no pose"):
        locate_looks(template, model, [look, look._replace(world_from_camera=se3.inverse(AP))], SETTINGS)
    with pytest.raises(ValueError, match="is not the network's"):
        locate_looks(template, model.marginal(["sacrum"]), [look], SETTINGS)


@pytest.mark.parametrize(
    ("structures", "words"),
    [
        (("sacrum", "hip_left", "hip_right", "coccyx"), "pelvis"),
        (("hip_left",), "hip left"),
        (("sphere", "box", "rod"), "sphere, box or rod"),
    ],
)
def test_bones_have_names(structures, words):
    assert bone_in_words(structures) == words
