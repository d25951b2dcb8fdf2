"""A scene network learns, says how well, and goes on after an end as if there had been none."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from shapefit.camera import Camera
from shapefit.io.checkpoint import read_checkpoint
from shapefit.scene.mirror import counterparts
from shapefit.scene.network import SceneNetwork, decode, network_input
from shapefit.scene.sample import Sample
from shapefit.scene.train import rate_at, train_scene
from shapefit.scene.train_batches import (
    LEAST_SIDE,
    TURN,
    Batch,
    crop,
    held_out_batches,
    mirror,
    sample_at,
    shown,
    training_batches,
)
from shapefit.scene.train_judge import judge, picture
from shapefit.scene.train_team import join_team
from shapefit.settings import TrainSceneSettings

SETTINGS = TrainSceneSettings(
    steps=60, batch=8, held_out=16, judge_every=30, save_every=20, warmup=5, precision="float32", threads=1,
    cropped=0.0,  # a sphere does not show how far it is turned
)  # fmt: skip
SHORT = replace(SETTINGS, steps=20, judge_every=10, save_every=4)
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


def small_network(seed: int = 0) -> SceneNetwork:
    torch.manual_seed(seed)
    return SceneNetwork(torch.eye(3), torch.tensor([[0, 1, 2]]), ("ball",), SIDE, (8, 16, 16), fold=1)


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
    settings = replace(SETTINGS, steps=120, rate=5e-3)
    network = small_network()
    history = train_scene(network, Spheres(400), settings, tmp_path)
    best = min(history, key=lambda found: found["error"])
    assert best["error"] < 8  # mm, of a sphere with a radius of 50; 60 and more at first
    assert best["dice"] > 0.95
    assert best["error_sure"] < best["error"] < best["error_90"]
    assert 0.5 < best["std_ratio"] < 1.5
    assert len(history) == 120 / 30
    assert json.loads(network.about["held_out"])["error"] == round(best["error"], 4)


@pytest.mark.parametrize(("last", "precision"), [(9, "float32"), (13, "bfloat16"), (19, "float32")])
def test_a_training_that_was_ended_goes_on_bit_for_bit(tmp_path, last, precision):
    settings = replace(SHORT, precision=precision)
    undisturbed = small_network()
    expected = train_scene(undisturbed, Spheres(50), settings, tmp_path / "undisturbed")
    with pytest.raises(Ended):
        train_scene(small_network(), Spheres(50), settings, tmp_path / "ended", progress=end_at(last))
    resumed = small_network(seed=5)  # its first weights do not matter
    history = train_scene(resumed, Spheres(50), settings, tmp_path / "ended")
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, weights(resumed)[name]), name
    for one, other in zip(expected, history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    best = [(tmp_path / folder / "best.safetensors").read_bytes() for folder in ("undisturbed", "ended")]
    assert best[0] == best[1]


def test_a_finished_training_is_not_begun_again(tmp_path):
    expected = small_network()
    train_scene(expected, Spheres(50), SHORT, tmp_path)
    again = small_network(seed=5)
    told = []
    train_scene(again, Spheres(50), SHORT, tmp_path, progress=lambda what, fraction: told.append(what))
    assert not told
    for name, value in weights(expected).items():
        assert torch.equal(value, weights(again)[name]), name
    assert again.about == expected.about


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    train_scene(small_network(), Spheres(50), SHORT, tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint.pt was trained with rate 0.002 \(now 0.01\)"):
        train_scene(small_network(), Spheres(50), replace(SHORT, rate=0.01), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint, or damaged"):
        train_scene(small_network(), Spheres(50), SHORT, tmp_path)


class Blind(Spheres):
    """From one sample on, pictures of NaN."""

    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), entry=torch.full((3, SIDE, SIDE), torch.nan))


def test_a_loss_that_is_not_a_number_ends_the_training(tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss of step 1 is nan.*lower --rate"):
        train_scene(small_network(), Blind(50), SHORT, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_training_without_enough_samples_is_refused(tmp_path):
    with pytest.raises(ValueError, match="16 samples of which 16 are held out leave none"):
        train_scene(small_network(), Spheres(16), SHORT, tmp_path)
    torch.manual_seed(0)
    other = SceneNetwork(torch.eye(3), torch.tensor([[0, 1, 2]]), ("a", "b"), SIDE, (8, 16))
    with pytest.raises(ValueError, match="samples have 1 structures, the network 2: a, b"):
        train_scene(other, Spheres(50), SHORT, tmp_path)
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        train_scene(small_network(), Spheres(50), replace(SHORT, precision="half"), tmp_path)
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        train_scene(small_network(), Spheres(50), replace(SHORT, device="tpu"), tmp_path)


def test_every_epoch_shows_every_sample_once_in_an_order_of_its_own():
    epochs = [[sample_at(position, 10, seed=3) for position in range(10 * e, 10 * e + 10)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [sample_at(position, 10, seed=4) for position in range(10)]


def test_what_a_step_sees_depends_on_neither_processes_nor_where_it_began():
    settings = replace(SHORT, hidden=0.8, cropped=0.5)
    samples = Spheres(50)
    alone = list(training_batches(samples, settings, 4))
    later = list(training_batches(samples, settings, 4, first=13))
    halves = [list(training_batches(samples, settings, 4, rank=rank, ranks=2)) for rank in (0, 1)]
    assert len(alone) == settings.steps and len(later) == settings.steps - 13
    for whole, *parts in zip(alone, *halves, strict=True):
        for name in whole._fields:
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(getattr(whole, name), joined)
    for one, other in zip(alone[13:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_held_out_samples_are_never_learned_from():
    class Counted(Spheres):
        seen: ClassVar[set[int]] = set()

        def __getitem__(self, index: int) -> Sample:
            self.seen.add(index)
            return super().__getitem__(index)

    settings = replace(SHORT, held_out=10)
    for _ in training_batches(Counted(40), settings, 4):
        pass
    assert Counted.seen == set(range(30))
    Counted.seen.clear()
    for _ in held_out_batches(Counted(40), settings, 4):
        pass
    assert Counted.seen == set(range(30, 40))


def test_parts_of_some_samples_are_hidden():
    rng = np.random.default_rng(0)
    shares = [float(shown(rng, (40, 30), share=0.5).float().mean()) for _ in range(400)]
    whole = sum(share == 1 for share in shares) / len(shares)
    assert 0.4 < whole < 0.65  # a margin may be empty
    assert min(shares) > 0.1
    assert all(shown(rng, (40, 30), share=0.0).all() for _ in range(20))


def _placed(height: int, width: int) -> Batch:
    """An image whose pixels know their places: columns and rows in the coordinates, columns as brightness."""
    i, j = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    place = torch.stack([j, i, torch.zeros_like(i)])
    return Batch(j / width, (i + j) % 3 > 0, place, place + 100, ((i + j) % 3 > 0)[None])


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (40, 40)])
def test_a_crop_is_another_cameras_view_of_the_same_rays(size: tuple[int, int]):
    rng = np.random.default_rng(0)
    whole = _placed(*size)
    i, j = np.mgrid[: size[0], : size[1]]
    out = np.stack([np.ones(i.size), j.ravel(), i.ravel()], 1)
    turns, scales = [], []
    for _ in range(50):
        part = crop(rng, whole)
        x, y = part.entry[0].double().numpy(), part.entry[1].double().numpy()
        (_, a, b), *_ = np.linalg.lstsq(out, x.ravel(), rcond=None)
        found = np.linalg.lstsq(out, np.stack([x.ravel(), y.ravel()], 1), rcond=None)[0]
        assert np.abs(out @ found - np.stack([x.ravel(), y.ravel()], 1)).max() < 1.0  # to the nearest pixel
        assert np.allclose(found[2], [-found[1, 1], found[1, 0]], atol=0.02)  # turned and scaled alone
        turns.append(np.degrees(np.arctan2(-b, a)))
        scales.append(np.hypot(a, b))
        # all of a ray goes together, and brightness is read between pixels
        assert torch.equal(part.exit, part.entry + 100)
        assert torch.equal(part.structures[0], part.valid)
        assert torch.equal(part.valid, (part.entry[0] + part.entry[1]) % 3 > 0)
        assert np.allclose(size[1] * part.image.numpy().ravel(), out @ found[:, 0], atol=0.3)
    assert np.abs(turns).max() < TURN + 0.5 and np.std(turns) > TURN / 4
    assert max(scales) <= 1.01 and min(scales) > 0.6 * LEAST_SIDE


def test_no_sample_is_cropped_unless_asked_for():
    samples = Spheres(50)
    alone, cropped = (
        next(training_batches(samples, replace(SHORT, hidden=0.0, cropped=share), 4)) for share in (0.0, 1.0)
    )
    whole = {samples[i].image.numpy().tobytes() for i in range(50)}
    assert all(image.numpy().tobytes() in whole for image in alone.image)
    assert not any(image.numpy().tobytes() in whole for image in cropped.image)


def test_a_mirrored_xray_is_one_of_the_mirrored_bones():
    """A sphere left of the middle, whose rays run along z: mirrored, it is the sphere right of it."""
    names = ["hip_left", "sacrum", "hip_right"]
    x, y = torch.meshgrid(torch.arange(-8.0, 9.0), torch.arange(-8.0, 9.0), indexing="xy")

    def xray(centre: float, structure: int) -> Batch:
        rest = 16 - (x - centre) ** 2 - y**2
        hit = rest > 0
        depth = rest.clamp_min(0).sqrt()
        points = [torch.where(hit, torch.stack([x, y, sign * depth]), 0.0) for sign in (-1, 1)]
        structures = torch.stack([hit & (k == structure) for k in range(len(names))])
        return Batch((-depth / 5 + x / 100).exp(), x > centre - 5, *points, structures)

    left, right = xray(-3.0, 0), xray(3.0, 2)
    partners = counterparts(names)
    assert partners == [2, 1, 0]
    found = mirror(left, partners)
    for name in ("entry", "exit", "structures"):
        assert torch.equal(getattr(found, name), getattr(right, name)), name
    assert torch.equal(found.valid, (-x > -8.0))
    assert torch.equal(found.image, left.image.flip(1))
    for one, other in zip(mirror(found, partners), left, strict=True):
        assert torch.equal(one, other)


def test_samples_are_mirrored_where_the_template_is_symmetric(tmp_path: Path):
    samples, settings = Spheres(50), replace(SHORT, hidden=0.0, mirrored=0.5)
    batches = [
        next(training_batches(samples, settings, 4, partners=partners)) for partners in (None, [0], [0])
    ]
    plain, one, again = (batch.image for batch in batches)
    assert torch.equal(one, again)
    flipped = [torch.equal(a, b.flip(1)) for a, b in zip(one, plain, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(one, plain, strict=True)]
    assert any(flipped) and any(kept) and all(a != b for a, b in zip(flipped, kept, strict=True))
    lopsided = small_network()
    lopsided.template[:, 0] += 5.0
    with pytest.raises(ValueError, match=r"10.3 mm from its mirror image .* --mirrored 0"):
        train_scene(lopsided, samples, settings, tmp_path)
    assert counterparts(["hip_left"]) == [0]  # alone


def test_batches_are_padded_to_what_the_network_takes():
    batch = next(training_batches(Spheres(50), replace(SHORT, hidden=0.0), 12))
    assert batch.image.shape == (8, 24, 24)
    assert batch.valid[:, :SIDE, :SIDE].all()
    assert not batch.valid[:, SIDE:].any() and not batch.valid[:, :, SIDE:].any()
    assert not batch.structures[:, :, SIDE:].any()


def test_the_rate_rises_and_falls_to_nothing():
    settings = replace(SETTINGS, steps=100, warmup=10, rate=1.0)
    rates = [rate_at(step, settings) for step in range(1, 101)]
    assert rates[9] == max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 1e-9


def test_the_judge_knows_what_is_right():
    class Oracle(SceneNetwork):
        """Answers with the truth, off by 50 mm along one axis, and says so."""

        def forward(self, image):
            batch = self.batches.pop(0)
            variance = torch.full((len(image), 2, SIDE, SIDE), 2 * math.log(0.5 / 3**0.5))
            off = torch.tensor([50.0, 0.0, 0.0])[:, None, None]
            logits = 20.0 * (2.0 * batch.structures - 1)
            return torch.cat([(batch.entry + off) / 100, (batch.exit - off) / 100, variance, logits], 1)

    oracle = Oracle(torch.eye(3), torch.tensor([[0, 1, 2]]), ("ball",), SIDE, (8, 16))
    oracle.batches = list(held_out_batches(Spheres(50), SHORT, 4))
    oracle.batches += [(first := oracle.batches[0])]
    with join_team(SHORT) as team:
        found = judge(oracle, held_out_batches(Spheres(50), SHORT, 4), SHORT, team)
        seen = picture(oracle, first, team)
    assert found["error"] == pytest.approx(50, abs=1e-2) and found["error_90"] == pytest.approx(50, abs=1e-2)
    assert found["dice"] == found["dice_ball"] == 1
    assert found["std_ratio"] == pytest.approx(1, abs=0.01)  # of the three axes' root mean square
    assert found["within_std"] == pytest.approx(2 / 3)
    # seven panels beside each other: the X-ray, entry, exit and structures, true and seen
    assert seen.shape == (3, 8 * SIDE, 7 * SIDE)
    panels = seen.unfold(2, SIDE, SIDE).permute(2, 0, 1, 3)
    off = torch.where(first.structures[:, 0].reshape(-1, SIDE), 50 / 300, 0.0)
    torch.testing.assert_close(panels[2][0] - panels[1][0], off, atol=1e-5, rtol=0)
    torch.testing.assert_close(panels[3][0] - panels[4][0], off, atol=1e-5, rtol=0)
    torch.testing.assert_close(panels[6], panels[5])


def test_processes_together_learn_what_one_does(tmp_path):
    script = (
        "import sys; from pathlib import Path; import torch; import test_scene_train as t;"
        "from shapefit.scene.train import train_scene; network = t.small_network();"
        "train_scene(network, t.Spheres(50), t.SHORT, Path(sys.argv[1]))"
    )
    file = tmp_path / "together.py"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(file), str(tmp_path / "two")], env=environment, check=True, timeout=300)
    alone = small_network()
    train_scene(alone, Spheres(50), SHORT, tmp_path / "one")
    one, two = (read_checkpoint(tmp_path / folder / "checkpoint.pt") for folder in ("one", "two"))
    assert one["step"] == two["step"] == SHORT.steps
    batch = next(held_out_batches(Spheres(50), SHORT, 4))
    seen = []
    for state in (one, two):
        alone.load_state_dict(state["network"])
        seen.append(decode(alone(network_input(batch.image, batch.valid))).entry.detach())
    # sums in another order, which AdamW amplifies where a gradient is near 0
    assert float((seen[0] - seen[1]).abs().median()) < 0.02 * float(seen[0].abs().median())
    assert two["history"][-1]["error"] == pytest.approx(one["history"][-1]["error"], rel=0.01)
