"""The scene network: what it sees, what it answers, and what its loss asks for."""

import math
from dataclasses import replace

import pytest
import torch

from shapefit.scene.network import SceneNetwork, decode, network_input, scene_loss
from shapefit.settings import TrainSceneSettings

SETTINGS = TrainSceneSettings()


def small_network(pixels: int = 32, structures: tuple[str, ...] = ("left", "right")) -> SceneNetwork:
    torch.manual_seed(0)
    template = torch.tensor([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return SceneNetwork(template, faces, structures, pixels, channels=(4, 8, 8), residual_units=1, fold=2)


def raw_of(entry, exit, std, logits) -> torch.Tensor:
    """The output that decodes to these (mm; std far above the least one)."""
    variance = (2 * (std / 100.0).log()).expand(entry.shape[0], 2, *entry.shape[2:])
    return torch.cat([entry / 100, exit / 100, variance, logits], 1)


def test_the_answer_has_a_place_for_every_pixel_and_structure():
    network = small_network()
    raw = network(network_input(torch.rand(2, 32, 24)))
    seen = decode(raw)
    assert raw.shape == (2, 8 + 2, 32, 24)
    assert seen.entry.shape == seen.exit.shape == (2, 3, 32, 24)
    assert seen.entry_std.shape == seen.exit_std.shape == (2, 32, 24)
    assert (seen.entry_std > 0).all() and (seen.exit_std > 0).all()
    assert ((seen.structures >= 0) & (seen.structures <= 1)).all()


def test_exposure_and_contrast_do_not_change_what_the_network_sees():
    density = 0.2 + torch.rand(1, 20, 20)
    seen = network_input((-density).exp())
    brighter = network_input((-(0.3 + 1.7 * density)).exp())
    torch.testing.assert_close(seen, brighter, atol=2e-4, rtol=0)
    assert abs(float(seen[0, 0].mean())) < 1e-5 and abs(float(seen[0, 0].std(correction=0)) - 1) < 1e-5


def test_pixels_that_are_not_valid_have_no_influence():
    image, valid = torch.rand(1, 16, 16), torch.rand(1, 16, 16) > 0.3
    other = torch.where(valid, image, torch.tensor(math.nan))
    torch.testing.assert_close(network_input(image, valid), network_input(other, valid), rtol=0, atol=0)
    assert (network_input(image, valid)[0, :, ~valid[0]] == 0).all()


def test_an_empty_image_is_seen_without_a_fault():
    assert torch.isfinite(network_input(torch.full((1, 16, 16), 0.5))).all()
    assert torch.isfinite(
        network_input(torch.zeros(1, 16, 16), torch.zeros(1, 16, 16, dtype=torch.bool))
    ).all()


def targets(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    entry, exit = (60 * torch.randn(2, 3, 16, 16, generator=generator) for _ in range(2))
    structures = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    structures[:, 0, 2:9, 3:9], structures[:, 1, 5:12, 6:14] = True, True
    return entry, exit, structures


def test_the_loss_is_least_at_the_truth():
    entry, exit, structures = targets()
    logits = 20.0 * (2.0 * structures - 1)
    std = torch.tensor(5.0)
    right = scene_loss(raw_of(entry, exit, std, logits), entry, exit, structures, SETTINGS)
    for wrong in (
        raw_of(entry + 3, exit, std, logits),
        raw_of(entry, exit - 3, std, logits),
        raw_of(entry, exit, std, -logits),
    ):
        assert scene_loss(wrong, entry, exit, structures, SETTINGS)["loss"] > right["loss"]
    torch.testing.assert_close(right["loss"], right["entry"] + right["exit"] + right["structures"])
    assert float(right["structures"]) < 1e-3


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_variance_that_the_loss_asks_for_is_that_of_the_errors(beta):
    entry, exit, structures = targets()
    error = 7.0 * torch.randn(entry.shape, generator=torch.Generator().manual_seed(1))
    actual = float(error.permute(0, 2, 3, 1)[structures.any(1)].square().mean().sqrt())
    settings = replace(SETTINGS, beta=beta)
    gradients = []
    for guess in (0.98 * actual, 1.02 * actual):
        std = torch.tensor(guess, requires_grad=True)
        raw = raw_of(entry + error, exit, std, torch.zeros(2, 2, 16, 16))
        scene_loss(raw, entry, exit, structures, settings)["entry"].backward()
        gradients.append(float(std.grad))
    assert gradients[0] < 0 < gradients[1]


def test_pixels_beside_the_bone_are_asked_for_no_coordinates():
    entry, exit, structures = targets()
    raw = torch.randn(2, 10, 16, 16, requires_grad=True)
    losses = scene_loss(raw, entry, exit, structures, SETTINGS)
    (losses["entry"] + losses["exit"]).backward()
    assert (raw.grad[:, :8].abs().sum(1)[structures.any(1)] > 0).all()
    assert (raw.grad[:, :8].abs().sum(1)[~structures.any(1)] == 0).all()


def test_a_batch_loses_the_mean_of_its_halves():
    entry, exit, structures = targets()
    structures[1] = False  # as unlike as can be: one half shows no bone
    raw = torch.randn(2, 10, 16, 16)
    whole = scene_loss(raw, entry, exit, structures, SETTINGS)
    halves = [
        scene_loss(raw[i : i + 1], entry[i : i + 1], exit[i : i + 1], structures[i : i + 1], SETTINGS)
        for i in (0, 1)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2)


def test_a_network_needs_levels_structures_and_a_whole_template():
    points, faces = torch.zeros(3, 3), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match="at least 2 levels"):
        SceneNetwork(points, faces, ("bone",), channels=(8,))
    with pytest.raises(ValueError, match="at least 1 structure"):
        SceneNetwork(points, faces, (), channels=(8, 8))
    with pytest.raises(ValueError, match="beyond its 3"):
        SceneNetwork(points, faces + 1, ("bone",), channels=(8, 8))
