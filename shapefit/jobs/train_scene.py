"""Simulated X-rays -> a scene network."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from shapefit.io.atomic import prepare_output_dir, write_text
from shapefit.io.scene import SUFFIX, read_scene, write_scene
from shapefit.jobs.simulate_source import read_source
from shapefit.scene.network import SceneNetwork
from shapefit.scene.sample import Sample
from shapefit.scene.shards import ShardSet
from shapefit.scene.simulate import Stage, simulate_sample
from shapefit.scene.train import train_scene
from shapefit.scene.train_batches import Samples
from shapefit.settings import SimulateSettings, TrainSceneSettings
from shapefit.shape_model import ShapeModel

Progress = Callable[[str, float], None]


def train_scene_job(
    source: str | Path,
    output: Path,
    settings: TrainSceneSettings,
    simulate: SimulateSettings | None = None,
    init: str | Path | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> dict:
    """Train a scene network on a folder of simulated X-rays -> `output` (.safetensors) and its record.

    With `simulate` the source is one for `read_source`, and the X-rays are simulated while the network
    learns, on its device; each is seen once. `init` is a network to begin from, of the same layout; its
    template is not taken over. The folder <output without suffix>.training keeps checkpoint, curves and
    training.json, the record that is returned.
    Under `torchrun` all processes call this; the first one judges, writes, and has a history.
    """
    if output.suffix != SUFFIX:
        raise ValueError(f"a scene network is written as {SUFFIX}, not {output.suffix!r}: {output}")
    folder = prepare_output_dir(output.with_suffix(".training"))
    samples, model, told = _samples(source, settings, simulate)
    network = first_network(model, max(samples[0].image.shape), settings, init)
    about = {
        **told,
        "training": json.dumps(asdict(settings)),
        "init": str(init or ""),
        "versions": json.dumps({name: version(name) for name in ("shapefit", "torch", "monai")}),
        "command": command,
    }
    history = train_scene(network, samples, settings, folder, about, progress)
    record = {
        "output": str(output),
        "structures": list(network.structures),
        "pixels": network.pixels,
        "parameters": sum(p.numel() for p in network.parameters()),
        "samples": len(samples),
        "about": network.about,
        "history": history,
    }
    if os.environ.get("RANK", "0") == "0":
        write_scene(output, network)
        write_text(folder / "training.json", json.dumps(record, indent=1) + "\n")
    return record


def first_network(
    model: ShapeModel, pixels: int, settings: TrainSceneSettings, init: str | Path | None = None
) -> SceneNetwork:
    """A network for the mean of a model, with random weights of `settings.seed`, or those of another one.

    Raises ValueError if the other one has another layout or another number of structures.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = SceneNetwork(
            model.mean, model.faces, model.names, pixels,
            settings.channels, settings.residual_units, settings.fold, settings.attention,
        )  # fmt: skip
    if init is not None:
        other = read_scene(init)
        for what in ("channels", "residual_units", "fold"):
            if (theirs := getattr(other, what)) != (ours := getattr(network, what)):
                option = f"--{what.replace('_', '-')}"
                raise ValueError(f"{init} has {what} {theirs}, not {ours}; pass its own with {option}")
        if len(other.structures) != len(network.structures):
            raise ValueError(
                f"{init} knows {len(other.structures)} structures ({', '.join(other.structures)}), "
                f"the samples show {len(network.structures)} ({', '.join(network.structures)})"
            )
        if other.attention not in (0, network.attention):
            raise ValueError(
                f"{init} has {other.attention} blocks of attention, not {network.attention}; "
                "pass its own with --attention"
            )
        known = other.layers.state_dict()
        if other.attention < network.attention:  # the new blocks begin without effect
            own = network.layers.state_dict()
            known = {name: known.get(name.replace(".bottom.", "."), value) for name, value in own.items()}
        network.layers.load_state_dict(known)
        network.answer.load_state_dict(other.answer.state_dict())
    return network


@dataclass(frozen=True)
class _Simulated:
    """X-rays that are simulated when they are asked for."""

    stage: Stage
    settings: SimulateSettings
    count: int
    device: str

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return simulate_sample(self.stage, index, self.settings, self.device)


def _samples(
    source: str | Path, settings: TrainSceneSettings, simulate: SimulateSettings | None
) -> tuple[Samples, ShapeModel, dict[str, str]]:
    """The X-rays, the model whose mean is their template, and what is to be told of them."""
    if simulate is None:
        shards = ShardSet(source)
        model = shards.model()
        return shards, model, _told(model, len(shards), json.dumps(shards.manifest["settings"]))
    given = read_source(source, simulate)
    count = settings.held_out + settings.steps * settings.batch
    samples = _Simulated(given.stage, simulate, count, settings.device)
    return samples, given.model, _told(given.model, count, json.dumps(asdict(simulate)))


def _told(model: ShapeModel, count: int, simulated: str) -> dict[str, str]:
    known = {"model": "id", "licence": "license", "source": "source"}
    told = {name: model.metadata[key] for name, key in known.items() if key in model.metadata}
    return {**told, "samples": str(count), "simulation": simulated}
