"""Simulated X-rays in files: WebDataset shards with a manifest, read at random.

A folder holds shard-000000.tar, shard-000001.tar, ..., beside each a .json with its checksum, the shape
model (model.h5: its mean is the template) and manifest.json, which says what was simulated, and how. In a
shard, sample i is four files (WebDataset: Aizman et al. 2019, IEEE Big Data):

    <i>.png              the image as shown, 8 bit
    <i>.coordinates.npy  (6, N) float16: entry x y z and exit x y z (mm, template) of the N covered pixels
    <i>.structures.npy   (S, bytes) uint8: the pixels each structure covers, 8 in a byte (numpy.packbits)
    <i>.json             camera, camera_from_bone (4x4, mm), coefficients (std), what else was drawn

Pixels are in the order of reading, row by row.
The bytes follow from the samples alone. A shard appears whole or not at all, after its checksum.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from shapefit.camera import Camera
from shapefit.io.atomic import atomic_path, write_text
from shapefit.io.model import read_model
from shapefit.io.record import camera_entry
from shapefit.io.tar import BLOCK, npy_array, npy_bytes, png_bytes, png_levels, tar_members, write_tar
from shapefit.scene.sample import Sample
from shapefit.shape_model import ShapeModel

SCHEMA = 1
MANIFEST, MODEL = "manifest.json", "model.h5"
PARTS = ("coordinates.npy", "json", "png", "structures.npy")  # of a sample, in the order of the shard


class Shard(NamedTuple):
    """A finished shard."""

    number: int
    first: int  # index of its first sample
    samples: int
    size: int  # bytes
    sha256: str

    @property
    def file(self) -> str:
        """Its name."""
        return shard_file(self.number)


def shard_file(number: int) -> str:
    """The name of a shard."""
    return f"shard-{number:06d}.tar"


def write_shard(folder: str | Path, number: int, samples: Iterable[Sample], first: int = 0) -> Shard:
    """Write samples `first`, `first` + 1, ... as they come, all of them or none; returns what was written.

    Raises OSError for a full disk, after which nothing is left of this shard.
    """
    path = Path(folder) / shard_file(number)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            count = 0

            def members() -> Iterator[tuple[str, bytes]]:
                nonlocal count
                for index, sample in enumerate(samples, first):
                    for part, content in zip(PARTS, _contents(sample), strict=True):
                        yield f"{index:09d}.{part}", content
                    count += 1

            write_tar(file, members())
        shard = Shard(number, first, count, temporary.stat().st_size, _digest(temporary))
        # the checksum first: whoever finds a shard finds what it must be
        write_text(path.with_suffix(".json"), json.dumps(shard._asdict(), indent=2) + "\n")
    return shard


def find_shard(folder: str | Path, number: int) -> Shard | None:
    """The shard of this number if it is there and its checksum is right."""
    path = Path(folder) / shard_file(number)
    try:
        shard = Shard(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        right = path.stat().st_size == shard.size and _digest(path) == shard.sha256
    except (OSError, ValueError, TypeError):
        return None
    return shard if right else None


def read_manifest(folder: str | Path) -> dict:
    """What a folder of simulated X-rays says of itself.

    Raises ValueError, with the file's name, for a folder without a readable manifest.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no simulated X-rays: {path.name} is not readable ({error})"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA:
        raise ValueError(f"{path} is not a manifest of simulated X-rays of schema version {SCHEMA}")
    return manifest


class ShardSet:
    """The samples of a folder, by number: `len(shards)`, `shards[i]`.

    Keeps no file open: copies of it may be used in several processes at once. Raises ValueError for
    a folder without a manifest, one whose simulation is not finished (unless `unfinished`: then it is of
    the shards that the manifest names so far), and for a shard that is absent.
    """

    def __init__(self, folder: str | Path, unfinished: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.shards = [Shard(**entry) for entry in self.manifest["shards"]]
        if not (unfinished or self.manifest["complete"]):
            raise ValueError(
                f"{folder} holds {sum(shard.samples for shard in self.shards)} of {self.manifest['samples']} "
                "simulated X-rays; the same `shapefit simulate` again goes on with them"
            )
        for shard in self.shards:
            if not (self.folder / shard.file).is_file():
                raise ValueError(
                    f"{self.folder / shard.file} is absent; the same `shapefit simulate` makes it anew"
                )
        self.names = tuple(self.manifest["structures"])
        self._ends = np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)
        self._places: dict[int, list[tuple[int, int]]] = {}  # shard -> first and last byte of each sample

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, no sample {index}")
        index %= len(self)
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        start, end = self._samples_of(shard)[index - (int(self._ends[number]) - shard.samples)]
        with (self.folder / shard.file).open("rb") as file:
            file.seek(start)
            return _sample(file.read(end - start))

    def model(self) -> ShapeModel:
        """The shape model; its mean is the template (mm) that the coordinates are of."""
        return read_model(self.folder / MODEL)

    def _samples_of(self, shard: Shard) -> list[tuple[int, int]]:
        places = self._places.get(shard.number)
        if places is None:
            members = list(tar_members(self.folder / shard.file))
            step = len(PARTS)
            if len(members) != step * shard.samples:
                raise ValueError(
                    f"{self.folder / shard.file} holds {len(members)} files; expected {step} for each of "
                    f"{shard.samples} samples; the same `shapefit simulate` makes it anew"
                )
            places = [(members[n].start, members[n + step - 1].end) for n in range(0, len(members), step)]
            self._places[shard.number] = places
        return places


def _contents(sample: Sample) -> Iterator[bytes]:
    """The files of a sample, as named by PARTS."""
    # numpy throughout: on pictures this small torch's threads cost more than they do
    structures = sample.structures.numpy()
    covered = structures.any(0)
    points = np.concatenate([part.numpy()[:, covered] for part in (sample.entry, sample.exit)])
    yield npy_bytes(points.astype(np.float16))
    yield json.dumps(
        {
            "camera": camera_entry(sample.camera),
            "camera_from_bone": sample.camera_from_bone.tolist(),
            "coefficients": sample.coefficients.tolist(),
            "drawn": dict(sample.drawn),
        },
        allow_nan=False,
    ).encode()
    yield png_bytes(np.rint(sample.image.numpy().clip(0, 1) * 255).astype(np.uint8))
    yield npy_bytes(np.packbits(structures.reshape(len(structures), -1), axis=1))


def _sample(content: bytes) -> Sample:
    """A sample from the bytes of its members."""
    parts = []
    start = 0
    for _ in PARTS:
        size = int(content[start + 124 : start + 136].rstrip(b"\0 "), 8)  # octal, in the header
        parts.append(content[start + BLOCK : start + BLOCK + size])
        start += BLOCK + -(-size // BLOCK) * BLOCK
    points, told, levels, bits = (
        npy_array(parts[0]),
        json.loads(parts[1]),
        png_levels(parts[2]),
        npy_array(parts[3]),
    )
    camera = Camera(**told["camera"])
    height, width = camera.height, camera.width
    structures = np.unpackbits(bits, axis=1, count=height * width).astype(bool)
    coordinates = np.zeros((6, height * width), np.float32)
    coordinates[:, structures.any(0)] = points
    coordinates = coordinates.reshape(6, height, width)
    return Sample(
        image=torch.from_numpy(levels.astype(np.float32) / 255),
        entry=torch.from_numpy(coordinates[:3]),
        exit=torch.from_numpy(coordinates[3:]),
        structures=torch.from_numpy(structures.reshape(-1, height, width)),
        camera=camera,
        camera_from_bone=torch.tensor(told["camera_from_bone"], dtype=torch.float64),
        coefficients=torch.tensor(told["coefficients"], dtype=torch.float64),
        drawn=told["drawn"],
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
