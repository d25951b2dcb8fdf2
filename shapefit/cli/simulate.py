"""X-rays with known answers, as many as a network needs to learn from."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from shapefit.cli.options import (
    INTERRUPTED,
    Folder,
    Labels,
    Meshes,
    command_line,
    label_numbers,
    progress_bar,
    tell,
)
from shapefit.settings import CTSettings, MeshSettings, ShardSettings, SimulateSettings, SurfaceSettings


def simulate(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_CT")],
    /,
    *,
    count: Annotated[int, tyro.conf.arg(aliases=("-n",), metavar="N")],
    output: Folder,
    labels: Labels = (),
    segmentation: Path | None = None,
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    settings: Annotated[SimulateSettings, tyro.conf.arg(name="")] = SimulateSettings(),
    shards: Annotated[ShardSettings, tyro.conf.arg(name="")] = ShardSettings(),
    ct: Annotated[CTSettings, tyro.conf.arg(name="")] = CTSettings(),
    surface: SurfaceSettings = SurfaceSettings(),
    meshes: Meshes = MeshSettings(),
) -> int:
    """Simulate X-rays to train a scene-coordinate network on, in WebDataset shards.

    The same command goes on where it was stopped, and adds to what is there if N is larger.

    Args:
        source: a shape model by file or name, or one bone: a closed mesh, a folder of meshes, with --labels a
            label map, or a CT in HU with --threshold or --segmentation
        count: how many X-rays
        output: for shard-*.tar, each with its checksum, model.h5 (its mean is the template), manifest.json
        labels: the bone's structures: sacrum=1, or a name alone where the file or TotalSegmentator knows it
        segmentation: a label map of the CT: its structures are the bone; else the largest piece of what is as
            dense as --threshold (in HU) is
        fresh: begin anew, whatever is in the folder
    """
    from shapefit.jobs import simulate_job

    with progress_bar("simulate") as progress:
        try:
            manifest = simulate_job(
                source, output, count, settings, shards, label_numbers(labels) or None, segmentation,
                ct, surface, meshes, command_line(), progress, fresh,
            )  # fmt: skip
        except KeyboardInterrupt:
            print("\nshapefit: interrupted; the same command goes on with the rest", file=sys.stderr)
            return INTERRUPTED
    tell(manifest["findings"])
    made = manifest["throughput"]
    taken = manifest["samples"] - made["samples"]
    print(f"{manifest['samples']} X-rays in {len(manifest['shards'])} shards", end="")
    print(f", {taken} of them from before" if taken else "")
    if made["samples"]:
        print(f"{made['samples_per_second']:.1f} a second")
    print(output / "manifest.json")
    return 0
