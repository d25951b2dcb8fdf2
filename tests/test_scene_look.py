"""How a scene network looks at a view: at its own pixels, several times, and what comes of it on average."""

import math

import pytest
import torch

from shapefit.camera import Camera
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.look import look, mean_look
from shapefit.scene.network import SceneNetwork, decode, network_input
from shapefit.view import View


def small_network(mirrored: bool = False) -> SceneNetwork:
    torch.manual_seed(0)
    template = torch.tensor([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    names = ("hip_left", "hip_right", "sacrum")
    return SceneNetwork(template, faces, names, 32, (4, 8, 8), 1, fold=2, mirrored=mirrored)


def view(height: int, width: int, image: torch.Tensor | None = None, **known) -> View:
    camera = Camera(1000.0, 0.5, 0.5, 7.0, -3.0, height, width)
    return View(torch.rand(height, width) if image is None else image, camera, **known)


@pytest.mark.parametrize("size", [(32, 32), (100, 64), (50, 131), (16, 20)])
def test_a_look_has_the_pixels_of_its_camera(size):
    network = small_network()
    given = view(*size)
    seen, camera = look(network, given)
    assert seen.entry.shape == (1, 3, camera.height, camera.width)
    assert max(camera.height, camera.width) == network.pixels
    # the same detector: its corners have not moved
    assert math.isclose(camera.delx * camera.width, given.camera.delx * size[1])
    assert math.isclose(camera.dely * camera.height, given.camera.dely * size[0])
    assert (camera.x0, camera.y0) == (given.camera.x0, given.camera.y0)


def test_a_look_at_a_finer_picture_is_a_look_at_its_means():
    network = small_network()
    coarse = 0.1 + 0.8 * torch.rand(32, 24)
    fine = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)
    fine = fine + 0.05 * torch.tensor([1.0, -1.0]).repeat(48)  # its means vanish
    seen, _ = look(network, view(128, 96, fine), looks=1)
    expected = decode(network(network_input(coarse[None])))
    torch.testing.assert_close(seen.entry, expected.entry[:, :, :32, :24].detach(), atol=1e-3, rtol=1e-3)


def test_hidden_pixels_do_not_leak_into_a_look():
    network = small_network()
    image, valid = torch.rand(70, 90), torch.ones(70, 90, dtype=torch.bool)
    valid[:23, 40:] = False
    other = torch.where(valid, image, torch.rand(70, 90))
    first, _ = look(network, view(70, 90, image, valid=valid))
    second, _ = look(network, view(70, 90, other, valid=valid))
    torch.testing.assert_close(first.entry, second.entry, rtol=0, atol=0)


class Pointwise(SceneNetwork):
    """Answers each pixel by that pixel alone, with a known spread: it sees the same wherever that stands."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        darkness, valid = image[:, :1], image[:, 1:]
        points = torch.cat([darkness, 2 * darkness, valid, -darkness, darkness, 3 * valid], 1)
        spread = torch.full_like(darkness, -2.0).expand(-1, 2, -1, -1)
        logits = torch.cat([darkness, -darkness, valid], 1)
        return torch.cat([points, spread, logits], 1)


def pointwise(mirrored: bool) -> SceneNetwork:
    network = small_network(mirrored)
    network.__class__ = Pointwise
    return network


@pytest.mark.parametrize("looks", [2, 3, 7])
def test_what_does_not_change_from_look_to_look_is_the_answer(looks):
    given = view(50, 64)
    once, camera = look(pointwise(False), given, 1)
    often, same = look(pointwise(False), given, looks)
    assert camera == same
    for name in Coordinates._fields:
        torch.testing.assert_close(getattr(often, name), getattr(once, name), rtol=1e-4, atol=1e-3)


def test_one_who_cannot_tell_left_from_right_is_unsure_of_the_side_alone():
    given = view(50, 64)
    once, _ = look(pointwise(True), given, 1)
    twice, _ = look(pointwise(True), given, 2)
    torch.testing.assert_close(twice.entry[:, 0], torch.zeros_like(once.entry[:, 0]), rtol=0, atol=1e-3)
    torch.testing.assert_close(twice.entry[:, 1:], once.entry[:, 1:], rtol=1e-4, atol=1e-3)
    # x is +-x with equal chances: its square is the variance, shared by the three axes
    expected = (once.entry_std.square() + once.entry[:, 0].square() / 3).sqrt()
    torch.testing.assert_close(twice.entry_std, expected, rtol=1e-4, atol=1e-3)
    hips = once.structures[:, :2].mean(1)
    for hip in (0, 1):
        torch.testing.assert_close(twice.structures[:, hip], hips, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(twice.structures[:, 2], once.structures[:, 2], rtol=1e-4, atol=1e-4)


def test_the_first_look_is_at_the_image_as_it_is():
    network = small_network(mirrored=True)
    image = torch.rand(32, 24)
    seen, _ = look(network, view(32, 24, image), 1)
    with torch.no_grad():
        expected = decode(network(network_input(image[None])))
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_looks_at_a_mirrored_image_are_those_at_the_image_in_a_mirror():
    network, image = small_network(mirrored=True), torch.rand(30, 32)
    network.template[1, 0] = -10.0
    seen, _ = look(network, view(30, 32, image), 4)
    other, _ = look(network, view(30, 32, image.flip(1)), 4)
    across = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    torch.testing.assert_close(other.entry.flip(-1) * across, seen.entry, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(other.exit_std.flip(-1), seen.exit_std, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(other.structures.flip(-1)[:, [1, 0, 2]], seen.structures)


def test_mean_looks_have_the_moments_of_their_mixture():
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(1, 1, 1)
    means = torch.randn(3, 1, 3, 1, 1, generator=generator)
    stds = torch.tensor([1.0, 2.0, 0.5])
    seen = [Coordinates(m, -m, s * ones, 2 * s * ones, ones[None]) for m, s in zip(means, stds, strict=True)]
    found = mean_look(seen)
    drawn = means + stds[:, None, None, None, None] * torch.randn(3, 200_000, 3, 1, 1, generator=generator)
    torch.testing.assert_close(found.entry[0, :, 0, 0], drawn.mean((0, 1))[:, 0, 0], rtol=0, atol=0.02)
    variance = drawn.flatten(0, 1).var(0).mean()
    torch.testing.assert_close(found.entry_std.square()[0, 0, 0], variance, rtol=0.02, atol=0)
    assert torch.equal(found.exit, -found.entry)


def test_a_network_looks_at_least_once():
    with pytest.raises(ValueError, match="at least once, got 0"):
        look(small_network(), view(32, 32), 0)
