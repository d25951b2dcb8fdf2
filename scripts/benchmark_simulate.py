"""How many X-rays a second are simulated, on one worker and on several.

python scripts/benchmark_simulate.py                     # the pelvis on 1 and 2 workers; two minutes
python scripts/benchmark_simulate.py --workers 1 2 4 8   # on a larger machine

Workers are there, and have drawn their first picture, before the clock starts: a long run is meant. Runs
of the different numbers of workers take turns, so that they share the machine's moods, and the median of
`--rounds` counts. The shards of the last runs are compared: they must be the same, byte for byte.
"""

import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from platform import machine, processor
from typing import Annotated

import tyro

import shapefit as sf
from shapefit.io.atomic import write_text
from shapefit.workers import Workers


def main(
    model: Annotated[str, tyro.conf.arg(metavar="MODEL_OR_CT")] = "pelvis",
    count: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 400,
    workers: tuple[int, ...] = (1, 2),
    rounds: int = 3,
    shard_size: int = 25,
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out/benchmark_simulate"),
    settings: Annotated[sf.SimulateSettings, tyro.conf.arg(name="")] = sf.SimulateSettings(),
) -> None:
    """Simulate on each number of workers -> throughput.json and throughput.md.

    Args:
        model: what is simulated
        count: X-rays in each run
        workers: numbers of processes
        rounds: runs on each
        shard_size: X-rays in each file, of which a worker makes one at a time
        output: for throughput.json and throughput.md
    """
    speeds: dict[int, list[float]] = {number: [] for number in workers}
    made: dict[int, list[dict]] = {}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(rounds):
            for number in workers:
                shards = sf.ShardSettings(shard_size=shard_size, workers=number)
                folder = Path(place) / str(number)
                with Workers(number):
                    if turn == 0 or number > 1:  # new processes
                        warm = replace(shards, shard_size=1)
                        sf.simulate_job(model, folder, number, settings, warm, fresh=True)
                    manifest = sf.simulate_job(model, folder, count, settings, shards, fresh=True)
                made[number] = manifest["shards"]
                speeds[number].append(manifest["throughput"]["samples_per_second"])
                print(f"{number} workers: {speeds[number][-1]:.1f} a second", flush=True)
    if any(found != made[workers[0]] for found in made.values()):
        raise SystemExit("the shards differ with the number of workers")
    size = sum(shard["size"] for shard in made[workers[0]]) / count
    median = {number: statistics.median(values) for number, values in speeds.items()}
    ratio = {number: speed / median[workers[0]] for number, speed in median.items()}
    table = "| workers | samples/s | ratio | MB/s |\n|---|---|---|---|\n" + "".join(
        f"| {number} | {speed:.1f} | {ratio[number]:.2f} | {speed * size / 1e6:.1f} |\n"
        for number, speed in median.items()
    )
    record = {
        "source": model,
        "samples": count,
        "pixels": settings.pixels,
        "faces": settings.faces,
        "bytes_per_sample": size,
        "cores": os.cpu_count(),
        "processor": processor() or machine(),
        "samples_per_second": speeds,
        "median": median,
        "ratio": ratio,
    }
    write_text(output / "throughput.json", json.dumps(record, indent=2) + "\n")
    write_text(output / "throughput.md", table)
    print(f"{table}\n{output / 'throughput.md'}")


if __name__ == "__main__":
    tyro.cli(main)
