"""One shard of simulated X-rays: what a worker does, and all that it needs to import."""

from pathlib import Path

from shapefit.scene.shards import Shard, find_shard, write_shard
from shapefit.scene.simulate import Stage, simulate_sample
from shapefit.settings import SimulateSettings


def simulate_shard(
    stage: Stage, settings: SimulateSettings, folder: Path, number: int, first: int, count: int
) -> tuple[Shard, bool]:
    """The shard of samples `first` to `first` + `count` - 1, and whether it is new.

    One that is there and whose checksum is right stays.
    """
    found = find_shard(folder, number)
    if found is not None and (found.first, found.samples) == (first, count):
        return found, False
    samples = (simulate_sample(stage, index, settings) for index in range(first, first + count))
    return write_shard(folder, number, samples, first), True
