"""PCA scores as a table (CSV): a row per shape, a column per mode, in standard deviations.

The header gives each mode's standard deviation in mm: `mode_1 (std 41.25 mm)`. Numbers are written so that
they are read back bit for bit.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit.io.atomic import write_text

_MODE = re.compile(r"mode_(\d+) \(std (\S+) mm\)")


class Scores(NamedTuple):
    """Shapes as a model sees them."""

    cases: tuple[str, ...]
    scores: Float[Tensor, "N K"]  # standard deviations
    std: Float[Tensor, " K"]  # mm


def write_scores(
    path: str | Path, cases: Sequence[str], scores: Float[Tensor, "N K"], std: Float[Tensor, " K"]
) -> None:
    """Write scores as CSV, whole or not at all. Raises ValueError for counts that disagree."""
    if scores.shape != (len(cases), len(std)):
        raise ValueError(f"scores are {tuple(scores.shape)} for {len(cases)} cases and {len(std)} modes")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["case", *(f"mode_{k + 1} (std {value!r} mm)" for k, value in enumerate(std.tolist()))])
    for case, row in zip(cases, scores.tolist(), strict=True):
        rows.writerow([case, *map(repr, row)])
    write_text(path, text.getvalue())


def read_scores(path: str | Path) -> Scores:
    """Read a table that `write_scores` wrote.

    Raises ValueError, with the file's name, for another header and rows that are not numbers.
    """
    path = Path(path)
    try:
        head, *rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable table of scores: {error}") from error
    modes = [_MODE.fullmatch(column) for column in head[1:]]
    if head[:1] != ["case"] or not all(m and int(m[1]) == k + 1 for k, m in enumerate(modes)):
        raise ValueError(f"{path} is not a table of scores: expected case, mode_1 (std ... mm), ...")
    try:
        std = torch.tensor([float(m[2]) for m in modes if m], dtype=torch.float64)
        numbers = [[float(value) for value in row[1:]] for row in rows]
        scores = torch.tensor(numbers, dtype=torch.float64).reshape(len(rows), len(modes))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds rows that are not {len(modes)} numbers: {error}") from error
    return Scores(tuple(row[0] for row in rows), scores, std)
