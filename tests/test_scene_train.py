"""A scene network learns, says how well, and goes on after an end as if there had been none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from shapefit.camera import Camera
from shapefit.scene.network import SceneNetwork
from shapefit.scene.sample import Sample
from shapefit.scene.train import train_scene
from shapefit.settings import TrainSceneSettings

SETTINGS = TrainSceneSettings(
    steps=60, batch=8, held_out=16, judge_every=30, save_every=20, warmup=5, precision="float32", threads=1
)
SIDE, RADIUS = 16, 50.0  # pixels; mm


class Spheres:
    """Spheres in parallel rays: where one lies is drawn from its number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        i, j = np.mgrid[:SIDE, :SIDE] - rng.uniform(5, 10, 2)[:, None, None]
        x, y = (part * RADIUS / rng.uniform(4, 5) for part in (j, i))
        hit = x**2 + y**2 < RADIUS**2
        z = np.sqrt(np.where(hit, RADIUS**2 - x**2 - y**2, 0))
        image = np.exp(-z / 50) + 0.02 * rng.normal(size=z.shape)
        entry, exit = (np.where(hit, np.stack([x, y, sign * z]), 0) for sign in (-1, 1))
        return Sample(
            torch.from_numpy(image.clip(0, 1)).float(),
            torch.from_numpy(entry).float(),
            torch.from_numpy(exit).float(),
            torch.from_numpy(hit)[None],
            Camera(1000.0, 10.0, 10.0, 0.0, 0.0, SIDE, SIDE),
            torch.eye(4),
            torch.zeros(0),
        )


def small_network(settings: TrainSceneSettings = SETTINGS) -> SceneNetwork:
    torch.manual_seed(settings.seed)
    return SceneNetwork(torch.eye(3), torch.tensor([[0, 1, 2]]), ("ball",), SIDE, (8, 16, 16))


def weights(network: SceneNetwork) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


class Ended(Exception):
    """As if the process had been killed."""


def end_at(step: int):
    def progress(what: str, fraction: float) -> None:
        if what.startswith(f"step {step},"):
            raise Ended

    return progress


def test_a_network_learns_where_the_rays_meet_the_bone(tmp_path):
    settings = replace(SETTINGS, steps=150, rate=5e-3)
    network = small_network()
    history = train_scene(network, Spheres(400), settings, tmp_path)
    best = min(history, key=lambda found: found["error"])
    assert best["error"] < 8  # mm, of a sphere with a radius of 50; 60 and more at first
    assert best["dice"] > 0.95
    assert best["error_sure"] < best["error"] < best["error_90"]
    assert 0.5 < best["std_ratio"] < 1.5
    assert len(history) == 150 / 30
    assert json.loads(network.about["held_out"])["error"] == round(best["error"], 4)


@pytest.mark.parametrize("last", [20, 31, 59])
def test_a_training_that_was_ended_goes_on_bit_for_bit(tmp_path, last):
    undisturbed = small_network()
    expected = train_scene(undisturbed, Spheres(100), SETTINGS, tmp_path / "undisturbed")
    with pytest.raises(Ended):
        train_scene(small_network(), Spheres(100), SETTINGS, tmp_path / "ended", progress=end_at(last))
    resumed = small_network(replace(SETTINGS, seed=5))  # its first weights do not matter
    history = train_scene(resumed, Spheres(100), SETTINGS, tmp_path / "ended")
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, weights(resumed)[name]), name
    for one, other in zip(expected, history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    best = [(tmp_path / folder / "best.safetensors").read_bytes() for folder in ("undisturbed", "ended")]
    assert best[0] == best[1]
