"""Simulated X-rays in the order in which a network sees them: a pure function of the seed and the step."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from shapefit.scene.mirror import mirrored_points
from shapefit.scene.sample import Sample
from shapefit.settings import TrainSceneSettings

TURN = 10.0  # degrees, the most that a crop is turned
LEAST_SIDE = 0.7  # of the largest crop that fits, the smallest one's sides


@runtime_checkable
class Samples(Protocol):
    """Simulated X-rays by number: shards on disk, or a stage that draws them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Batch(NamedTuple):
    """X-rays and what is to be learned of them, padded right and below to the network's multiple."""

    image: Float[Tensor, "B H W"]  # intensity in [0, 1]
    valid: Bool[Tensor, "B H W"]
    entry: Float[Tensor, "B 3 H W"]  # mm
    exit: Float[Tensor, "B 3 H W"]  # mm
    structures: Bool[Tensor, "B S H W"]

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(part.to(device, non_blocking=True) for part in self))


def sample_at(position: int, count: int, seed: int) -> int:
    """Which of `count` samples is seen at a position of the training: each epoch in an order of its own."""
    return int(_epoch_order(position // count, count, seed)[position % count])


@lru_cache(maxsize=2)
def _epoch_order(epoch: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def training_batches(
    samples: Samples,
    settings: TrainSceneSettings,
    multiple: int,
    first: int = 0,
    rank: int = 0,
    ranks: int = 1,
    partners: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """The batches of steps `first`... , or the share of process `rank` of `ranks` in them.

    Which samples make up a step, and what is hidden of them, depends on (settings.seed, step) alone: not on
    the number of processes, nor on where the training was resumed. The last `settings.held_out` are left out.
    `partners` are the structures' in a mirror (`counterparts`); without them no sample is mirrored.
    """
    share = settings.batch // ranks
    starts = (step * settings.batch + rank * share for step in range(first, settings.steps))
    positions = [range(start, start + share) for start in starts]
    return iter(_load(_Trained(samples, settings, partners), positions, settings.workers, multiple))


def held_out_batches(samples: Samples, settings: TrainSceneSettings, multiple: int) -> Iterator[Batch]:
    """The last `settings.held_out` samples as they are."""
    first = len(samples) - settings.held_out
    numbers = range(first, len(samples))
    batches = [numbers[start : start + settings.batch] for start in range(0, len(numbers), settings.batch)]
    return iter(_load(_HeldOut(samples), batches, 0, multiple))


def _load(items: Dataset, batches: Sequence[Sequence[int]], workers: int, multiple: int) -> DataLoader:
    return DataLoader(
        items,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_Collate(multiple),
        # a fork of a process that has threads may hang
        multiprocessing_context="spawn" if workers else None,
    )


class _Trained(Dataset):
    """Samples by their position in the training."""

    def __init__(
        self, samples: Samples, settings: TrainSceneSettings, partners: Sequence[int] | None
    ) -> None:
        self.samples, self.partners = samples, partners
        self.seed = settings.seed
        self.hidden, self.cropped, self.mirrored = settings.hidden, settings.cropped, settings.mirrored
        self.count = len(samples) - settings.held_out

    def __getitem__(self, position: int) -> Batch:
        sample = self.samples[sample_at(position, self.count, self.seed)]
        # 1: not the stream of the order
        rng = np.random.default_rng((self.seed, position, 1))
        batch = _one(sample, shown(rng, sample.image.shape, self.hidden))
        batch = crop(rng, batch) if rng.random() < self.cropped else batch
        if self.partners is not None and rng.random() < self.mirrored:
            batch = mirror(batch, self.partners)
        return batch


class _HeldOut(Dataset):
    """Samples by their number, nothing hidden."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Batch:
        sample = self.samples[number]
        return _one(sample, torch.ones(sample.image.shape, dtype=torch.bool))


def shown(rng: np.random.Generator, size: Sequence[int], share: float) -> Bool[Tensor, "H W"]:
    """Which pixels of a training image are valid: all of them, or in a `share` of the draws not all.

    Hidden are a rectangle within (an annotation), a margin (blades, padding) or what lies outside a disc (an
    image intensifier).
    """
    height, width = size
    valid = torch.ones(height, width, dtype=torch.bool)
    if rng.random() >= share:
        return valid
    kind = rng.integers(3)
    if kind == 0:
        rows, columns = (round(rng.uniform(0.05, 0.4) * side) for side in (height, width))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        valid[top : top + rows, left : left + columns] = False
    elif kind == 1:
        top, bottom, left, right = rng.uniform(0.0, 0.25, 4) * (rng.random(4) < 0.5)
        valid[: round(top * height)] = False
        valid[height - round(bottom * height) :] = False
        valid[:, : round(left * width)] = False
        valid[:, width - round(right * width) :] = False
    else:
        radius = rng.uniform(0.38, 0.55) * max(height, width)
        i = torch.arange(height)[:, None] - (height - 1) / 2
        j = torch.arange(width) - (width - 1) / 2
        valid = i**2 + j**2 <= radius**2
    return valid


def crop(rng: np.random.Generator, batch: Batch) -> Batch:
    """A part of one X-ray, turned by up to `TURN` degrees and enlarged to its size.

    Another camera's X-ray of the same bone in the same pose: scene coordinates stay with the rays.
    """
    height, width = batch.image.shape
    angle = math.radians(rng.uniform(-TURN, TURN))
    cos, sin = math.cos(angle), math.sin(angle)
    reach = np.array([cos * height + abs(sin) * width, abs(sin) * height + cos * width]) / 2
    room = np.array([height - 1, width - 1]) / 2
    scale = rng.uniform(LEAST_SIDE, 1.0) * float((room / reach).min())
    centre = room + rng.uniform(-1.0, 1.0, 2) * (room - scale * reach)
    i = scale * (torch.arange(height)[:, None] - (height - 1) / 2)
    j = scale * (torch.arange(width) - (width - 1) / 2)
    rows, columns = centre[0] + cos * i - sin * j, centre[1] + sin * i + cos * j
    nearest = (rows.round() * width + columns.round()).to(torch.int64)
    top, left = rows.to(torch.int64).clamp_max(height - 2), columns.to(torch.int64).clamp_max(width - 2)
    down, right = rows - top, columns - left
    corner, image = top * width + left, batch.image.flatten()
    above = torch.lerp(image[corner], image[corner + 1], right)
    below = torch.lerp(image[corner + width], image[corner + width + 1], right)
    rest = (part.flatten(-2)[..., nearest] for part in batch[1:])
    return Batch(torch.lerp(above, below, down), *rest)


def mirror(batch: Batch, partners: Sequence[int]) -> Batch:
    """One X-ray as in a mirror, with the numbers of its structures' counterparts."""
    entry, exit = mirrored_points(batch.entry), mirrored_points(batch.exit)
    image, valid, structures = (part.flip(-1) for part in (batch.image, batch.valid, batch.structures))
    return Batch(image, valid, entry, exit, structures[list(partners)])


def _one(sample: Sample, valid: Bool[Tensor, "H W"]) -> Batch:
    return Batch(
        sample.image.to(torch.float32),
        valid,
        sample.entry.to(torch.float32),
        sample.exit.to(torch.float32),
        sample.structures,
    )


class _Collate:
    """Samples -> a batch whose sides are multiples of `multiple`."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple

    def __call__(self, items: Sequence[Batch]) -> Batch:
        height, width = (
            -(-max(item.image.shape[axis] for item in items) // self.multiple) * self.multiple
            for axis in (0, 1)
        )
        return Batch(
            *(torch.stack([_padded(x, height, width) for x in parts]) for parts in zip(*items, strict=True))
        )


def _padded(array: Tensor, height: int, width: int) -> Tensor:
    return functional.pad(array, (0, width - array.shape[-1], 0, height - array.shape[-2]))
