"""A scene network learns from simulated X-rays: on one processor, one GPU or several processes of `torchrun`.

Exactly repeatable: which samples a step sees follows from (seed, step), all that a step changes stands in the
checkpoint, and a training that was ended and resumed gives, on the same kind of machine, the same bits as an
undisturbed one. Processes share each batch; how many there are changes the sums' order alone.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from shapefit.io.atomic import prepare_output_dir
from shapefit.io.checkpoint import read_checkpoint, write_checkpoint
from shapefit.io.scene import write_scene
from shapefit.scene.mirror import check_symmetric, counterparts
from shapefit.scene.network import SceneNetwork, network_input, scene_loss
from shapefit.scene.train_batches import Batch, Samples, held_out_batches, training_batches
from shapefit.scene.train_judge import judge, picture
from shapefit.scene.train_team import Team, join_team
from shapefit.settings import TrainSceneSettings

CHECKPOINT, BEST, CURVES = "checkpoint.pt", "best.safetensors", "curves"
# settings that may change when a training is resumed: they do not change what is learned
FREE = ("save_every", "threads", "workers", "device")
_TOLD_EVERY = 20  # steps between points of the curves
_SHOWN = 6  # X-rays in the curves' pictures

Progress = Callable[[str, float], None]


def train_scene(
    network: SceneNetwork,
    samples: Samples,
    settings: TrainSceneSettings,
    folder: str | Path,
    about: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Train `network` on `samples`; returns what `judge` found, look by look, with "step" and "seconds".

    `folder` receives checkpoint.pt every `settings.save_every` steps, curves for TensorBoard and
    best.safetensors, the weights with the least median error on the held-out samples, which say `about` of
    themselves; the training goes on from a checkpoint that is there. The network ends with the best weights.
    AdamW (Loshchilov & Hutter 2019, ICLR), whose rate rises over a warm-up and falls as a cosine.
    Raises ValueError for settings that do not fit the samples, the network or an older checkpoint, and
    FloatingPointError when the loss is no longer a number.
    """
    _check(network, samples, settings)
    folder = prepare_output_dir(folder)
    told = about or {}
    with join_team(settings) as team:
        network.mirrored = settings.mirrored > 0
        if network.mirrored:
            check_symmetric(network.template.cpu())
        partners = counterparts(network.structures) if network.mirrored else None
        network.to(team.device).train()
        run = _Run(network, settings, team)
        first = run.resume(folder / CHECKPOINT)
        batches = training_batches(
            samples, settings, network.multiple, first, team.rank, team.count, partners
        )
        start = time.monotonic()
        with closing(_Curves(folder / CURVES if team.leads else None, first)) as curves:
            for step, batch in enumerate(batches, first + 1):
                terms = run.step(batch.to(team.device), step)
                if step % _TOLD_EVERY == 0 or step == settings.steps:
                    curves.tell("train", step, {**terms, "rate": rate_at(step, settings)})
                if step % settings.judge_every == 0 or step == settings.steps:
                    run.seconds += time.monotonic() - start
                    start = time.monotonic()
                    if team.leads:
                        curves.tell("held_out", step, run.look(samples, step, folder, told))
                        curves.show("held_out/seen", step, run.picture(samples))
                    team.wait()
                if team.leads and (step % settings.save_every == 0 or step == settings.steps):
                    write_checkpoint(folder / CHECKPOINT, run.state(step, time.monotonic() - start))
                if progress is not None and team.leads:
                    error = f", {run.history[-1]['error']:.1f} mm" if run.history else ""
                    progress(f"step {step}, loss {terms['loss']:.3f}{error}", step / settings.steps)
        team.wait()
        network.load_state_dict({name: value.to(team.device) for name, value in run.best.items()})
        network.cpu().eval()
        if run.history:
            network.about = _about(told, min(run.history, key=_error))
        return run.history


def rate_at(step: int, settings: TrainSceneSettings) -> float:
    """The learning rate of a step, counted from 1: a linear rise, then a half cosine that ends at 0."""
    if step <= settings.warmup:
        return settings.rate * step / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * done))


def _check(network: SceneNetwork, samples: Samples, settings: TrainSceneSettings) -> None:
    if settings.steps < 1 or settings.batch < 1 or settings.held_out < 1:
        raise ValueError(
            f"a training needs steps, a batch and held-out samples, got {settings.steps}, {settings.batch} "
            f"and {settings.held_out}"
        )
    if len(samples) <= settings.held_out:
        raise ValueError(
            f"{len(samples)} samples of which {settings.held_out} are held out leave none to learn from; "
            "simulate more or lower --held-out"
        )
    count = samples[0].structures.shape[0]
    if count != len(network.structures):
        raise ValueError(
            f"the samples have {count} structures, the network {len(network.structures)}: "
            f"{', '.join(network.structures)}"
        )


class _Run:
    """What changes while a network learns."""

    def __init__(self, network: SceneNetwork, settings: TrainSceneSettings, team: Team) -> None:
        self.network, self.settings, self.team = network, settings, team
        self.shared = team.wrap(network)
        # scales and slopes are not drawn to 0
        decayed = [p for p in network.parameters() if p.ndim > 1]
        free = [p for p in network.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": free, "weight_decay": 0.0},
            ],
            lr=settings.rate,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=team.precision is torch.float16)
        self.history: list[dict[str, float]] = []
        self.best = _copy(network)
        self.seconds = 0.0

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """Learn from one batch; returns the loss and its terms, of all processes."""
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(number, settings)
        self.optimiser.zero_grad(set_to_none=True)
        with self.team.autocast():
            raw = self.shared(network_input(batch.image, batch.valid))
        terms = scene_loss(raw, batch.entry, batch.exit, batch.structures, settings)
        self.scaler.scale(terms["loss"]).backward()
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        values = self.team.mean(torch.stack([value.detach() for value in terms.values()]))
        found = dict(zip(terms, values.tolist(), strict=True))
        # the scaler skips steps whose gradients overflow float16, and lowers its scale
        if not math.isfinite(found["loss"]) or not (self.scaler.is_enabled() or bool(torch.isfinite(norm))):
            raise FloatingPointError(
                f"the loss of step {number} is {found['loss']:g}, its gradient's norm {float(norm):g}; "
                "the last checkpoint is kept: lower --rate, or train with --precision float32"
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return found

    def look(self, samples: Samples, step: int, folder: Path, about: Mapping[str, str]) -> dict[str, float]:
        """Judge the network; keep and write its weights if it was never better."""
        batches = held_out_batches(samples, self.settings, self.network.multiple)
        found = judge(self.network, batches, self.settings, self.team)
        self.history.append({"step": float(step), "seconds": self.seconds, **found})
        if min(self.history, key=_error) is self.history[-1]:
            self.best = _copy(self.network)
            self.network.about = _about(about, self.history[-1])
            write_scene(folder / BEST, self.network)
        return found

    def picture(self, samples: Samples) -> Tensor:
        """The first held-out X-rays and what the network sees in them."""
        first = next(held_out_batches(samples, self.settings, self.network.multiple))
        return picture(self.network, Batch(*(part[:_SHOWN] for part in first)), self.team)

    def state(self, step: int, seconds: float) -> dict:
        """All that the rest of the training depends on."""
        return {
            "step": step,
            "settings": _fixed(self.settings),
            "network": self.network.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "seconds": self.seconds + seconds,
        }

    def resume(self, path: Path) -> int:
        """The step after which a checkpoint was written, whose state this run takes on; 0 without one."""
        if not path.is_file():
            return 0
        state = read_checkpoint(path, str(self.team.device))
        fixed = _fixed(self.settings)
        # settings that are younger than the checkpoint were as they are by default; attention was not there
        before = _fixed(TrainSceneSettings(attention=0)) | state["settings"]
        if changed := [name for name, value in fixed.items() if before[name] != value]:
            was = ", ".join(f"{name} {before[name]} (now {fixed[name]})" for name in changed)
            raise ValueError(f"{path} was trained with {was}; train as before, or choose another output")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.best, self.seconds = state["history"], state["best"], state["seconds"]
        return int(state["step"])


def _fixed(settings: TrainSceneSettings) -> dict:
    values = {name: value for name, value in asdict(settings).items() if name not in FREE}
    return values | {"channels": list(settings.channels)}


def _error(found: Mapping[str, float]) -> float:
    return found["error"]


def _about(told: Mapping[str, str], found: Mapping[str, float]) -> dict[str, str]:
    """What a file says of its network: what is told of its making, and how good it was; not how fast."""
    kept = {name: round(value, 4) for name, value in found.items() if name != "seconds"}
    return {**told, "held_out": json.dumps(kept)}


def _copy(network: SceneNetwork) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


class _Curves:
    """Curves for TensorBoard; without a folder, none."""

    def __init__(self, folder: Path | None, first: int) -> None:
        # what was told after the checkpoint is told again
        self.writer = None if folder is None else SummaryWriter(str(folder), purge_step=first + 1)

    def tell(self, what: str, step: int, values: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{what}/{name}", value, step)
            self.writer.flush()

    def show(self, what: str, step: int, image: Tensor) -> None:
        if self.writer is not None:
            self.writer.add_image(what, image, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
