"""The state of a training in between: whole or not at all, and read without running anything."""

import pickle
from pathlib import Path

import torch

from shapefit.io.atomic import atomic_path


def write_checkpoint(path: str | Path, state: dict) -> None:
    """Write tensors, numbers and texts in dictionaries and lists (torch's format), whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def read_checkpoint(path: str | Path, device: str = "cpu") -> dict:
    """Read what `write_checkpoint` wrote. Raises ValueError for a damaged or foreign file."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is not a checkpoint, or damaged; remove it to start anew ({error})"
        ) from None
