"""A shape model from segmentations, through the Python API: what `shapefit build` does, step by step.

    python scripts/train_shape_model.py z001 z004 z009 --labels sacrum=1 hip_left=2 hip_right=3 -o my_model.h5

`shapefit build` also carries landmarks over, measures the model and writes its card and report.
"""

import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro

import shapefit as sf


def main(
    cases: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    labels: tuple[str, ...],
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    settings: Annotated[sf.BuildSettings, tyro.conf.arg(name="")] = sf.BuildSettings(),
) -> None:
    """Train a shape model.

    Args:
        cases: label maps, or folders of closed meshes
        labels: which label is which structure, as in sacrum=1
        output: the model file, .h5
    """
    numbers = {name: int(label) for name, label in (entry.split("=") for entry in labels)}

    # Closed meshes of every case, in world mm: from label maps, or as they are.
    read = [sf.read_case(case, numbers) for case in cases]
    surfaces = [{name: case.surfaces[name] for name in numbers} for case in read]

    # One template in all of them: row n of `shapes` holds the same anatomical points for every n.
    found = sf.correspond(
        surfaces, settings, lambda what, share: print(f"{share:4.0%} {what}", file=sys.stderr)
    )
    names = [read[row].name + "~" * flipped for row, flipped in zip(found.rows, found.mirrored, strict=True)]

    # Procrustes and PCA.
    model = sf.train(
        torch.from_numpy(found.shapes),
        torch.from_numpy(found.faces),
        torch.from_numpy(found.structure),
        list(numbers),
        list(numbers.values()),
        cases=names,
        metadata={"id": settings.name, "license": settings.license, "source": settings.source},
    )
    sf.write_model(output, model)

    share = (model.std**2).cumsum(0) / (model.std**2).sum()
    print(f"{len(model.mean)} vertices, {len(model.std)} modes from {len(names)} shapes")
    print(f"share of the variance in the first mode {share[0]:.0%}, in 5 modes {share[:5][-1]:.0%}")
    print(output)


if __name__ == "__main__":
    tyro.cli(main)
