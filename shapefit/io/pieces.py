"""Finished pieces of a long job, kept in a folder so that an interrupted job goes on where it stopped.

A piece is one .npz file, called by the fingerprint of everything that it was made from: the function,
its arguments (arrays by their content, other pieces by their fingerprints) and the code. What has
changed therefore has another name, and exactly what depends on it is made again. Files appear whole or
not at all; one that was damaged since is made again too. Only this process writes: workers read pieces
and send their results back, so a cluster must see the folder at the same path, and need not write in it.
"""

import hashlib
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shapefit.io.atomic import atomic_path
from shapefit.workers import Workers

# what computes pieces: a change here makes them anew, one in a report does not
_LIBRARIES = ("numpy", "scipy", "numba", "scikit-image", "trimesh", "fast-simplification")
_UNRELATED = ("cli", "report", "render", "fit", "jobs")


class Piece(NamedTuple):
    """A finished result: named arrays in a file."""

    path: Path

    def arrays(self, *names: str) -> dict[str, np.ndarray]:
        """The arrays of these names, or all."""
        with np.load(self.path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}


class Pieces:
    """The pieces of one job; `taken` and `made` count those found from an earlier run and the new ones."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.taken, self.made = folder, 0, 0

    def find(self, key: str) -> Piece | None:
        """The piece of this fingerprint, if it is there and its checksums are right."""
        path = self.folder / f"{key}.npz"
        try:
            with zipfile.ZipFile(path) as file:
                sound = file.testzip() is None
        except (OSError, zipfile.BadZipFile, EOFError):
            return None
        self.taken += sound
        return Piece(path) if sound else None

    def keep(self, key: str, arrays: Mapping[str, np.ndarray]) -> Piece:
        """A new piece, written whole or not at all."""
        path = self.folder / f"{key}.npz"
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)
        self.made += 1
        return Piece(path)

    def one(self, key: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Piece:
        """The piece of this fingerprint, made here if it is not there."""
        return self.find(key) or self.keep(key, make())

    def complete(
        self, workers: Workers, function: Callable, jobs: Iterable[tuple]
    ) -> Iterator[Piece | Exception]:
        """Pieces of `function(*job)`, in the order of the jobs; a failed job's exception in its place.

        `function` gives named arrays. What is there already is not computed again.
        """
        waiting: deque[tuple[str, Piece | None]] = deque()

        def missing() -> Iterator[tuple]:
            for job in jobs:
                key = fingerprint(function.__qualname__, *job)
                waiting.append((key, self.find(key)))
                if waiting[-1][1] is None:
                    yield job

        for outcome in workers.outcomes(function, missing()):
            while (piece := waiting[0][1]) is not None:
                waiting.popleft()
                yield piece
            key, _ = waiting.popleft()
            yield outcome if isinstance(outcome, Exception) else self.keep(key, outcome)
        yield from (piece for _, piece in waiting if piece is not None)


def fingerprint(*parts: object) -> str:
    """A name for all that these are: numbers, text, arrays, paths, pieces, settings, and tuples of them.

    Raises TypeError for anything else.
    """
    digest = hashlib.sha256(_code())
    _feed(digest, parts)
    return digest.hexdigest()[:40]


def _feed(digest, part: object) -> None:
    def tell(kind: str, content: bytes) -> None:
        digest.update(f"{kind} {len(content)} ".encode() + content)

    if isinstance(part, Piece):
        tell("piece", part.path.stem.encode())
    elif isinstance(part, np.ndarray):
        tell("array", f"{part.dtype.str} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)
    elif part is None or isinstance(part, bool | int | float | str | bytes | Path):
        tell(type(part).__name__ if not isinstance(part, Path) else "path", repr(part).encode())
    elif is_dataclass(part):
        tell("data", type(part).__name__.encode())
        _feed(digest, [(field.name, getattr(part, field.name)) for field in fields(part)])
    elif isinstance(part, Mapping):
        _feed(digest, list(part.items()))
    elif isinstance(part, tuple | list):
        tell("tuple", str(len(part)).encode())
        for entry in part:
            _feed(digest, entry)
    else:
        raise TypeError(f"no fingerprint is known for {type(part).__name__}")


@cache
def _code() -> bytes:
    root = Path(__file__).parents[1]
    digest = hashlib.sha256(" ".join(version(name) for name in _LIBRARIES).encode())
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in _UNRELATED:
            digest.update(path.read_bytes())
    return digest.digest()
