"""Simulated X-rays go into shards and come back, in this process and in others, by us and by webdataset."""

import io
import json
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapefit.camera import Camera
from shapefit.io.model import write_model
from shapefit.scene.sample import Sample
from shapefit.scene.shards import MANIFEST, MODEL, SCHEMA, ShardSet, find_shard, shard_file, write_shard
from tests.small import small_model

HEIGHT, WIDTH, STRUCTURES = 13, 21, 3


def a_sample(index: int, covered: bool = True) -> Sample:
    draw = torch.Generator().manual_seed(index)
    structures = torch.rand(STRUCTURES, HEIGHT, WIDTH, generator=draw) < (0.2 if covered else -1.0)
    points = 150 * torch.randn(6, HEIGHT, WIDTH, generator=draw) * structures.any(0)
    return Sample(
        image=torch.rand(HEIGHT, WIDTH, generator=draw),
        entry=points[:3],
        exit=points[3:],
        structures=structures,
        camera=Camera(1000.0 + index, 1.25, 1.5, 3.0, -2.0, HEIGHT, WIDTH),
        camera_from_bone=torch.eye(4, dtype=torch.float64) + index / 7,
        coefficients=torch.randn(5, generator=draw, dtype=torch.float64),
        drawn={"gain": index / 3, "text": index % 2 == 0, "view": "ap"},
    )


def write_set(folder: Path, counts: tuple[int, ...] = (4, 3), complete: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shards, first = [], 0
    for number, count in enumerate(counts):
        samples = (a_sample(i, covered=i != 2) for i in range(first, first + count))
        shards.append(write_shard(folder, number, samples, first)._asdict())
        first += count
    write_model(folder / MODEL, small_model(3))
    manifest = {
        "schema_version": SCHEMA,
        "samples": first,
        "complete": complete,
        "structures": {"a": 1, "b": 2, "c": 3},
        "shards": shards,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("shards"))


def same(read: Sample, written: Sample) -> None:
    assert (read.image - written.image).abs().max() <= 0.5 / 255 + 1e-6
    for found, given in ((read.entry, written.entry), (read.exit, written.exit)):
        assert torch.equal(found, given.half().float())
    assert torch.equal(read.structures, written.structures)
    assert torch.equal(read.covered, written.covered)
    assert read.camera == written.camera
    assert torch.equal(read.camera_from_bone, written.camera_from_bone)
    assert torch.equal(read.coefficients, written.coefficients)
    assert read.drawn == written.drawn


def test_samples_come_back_in_any_order(folder):
    shards = ShardSet(folder)
    assert len(shards) == 7
    for index in (6, 0, 3, 4, 2, 5, 1):
        same(shards[index], a_sample(index, covered=index != 2))
    same(shards[-1], a_sample(6))
    with pytest.raises(IndexError, match="there are 7 samples, no sample 7"):
        shards[7]
    assert shards.names == ("a", "b", "c")
    assert shards.model().names == ("sacrum", "hip_left", "hip_right")


def test_a_sample_keeps_half_a_grey_level_and_a_sixteenth_of_a_millimetre(folder):
    read, written = ShardSet(folder)[1], a_sample(1)
    near = written.entry.abs().amax(0) < 256
    assert (read.entry - written.entry)[:, near].abs().max() <= 1 / 16


def read_one(shards: ShardSet, index: int) -> Sample:
    return shards[index]


def test_several_processes_read_one_set_at_once(folder):
    shards = ShardSet(folder)
    shards[0]  # what this process knows of a shard goes with it
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        found = list(pool.map(read_one, [shards] * 14, [*range(7), *range(7)]))
    for index, sample in enumerate(found):
        same(sample, a_sample(index % 7, covered=index % 7 != 2))


def test_bytes_follow_from_the_samples_alone(folder, tmp_path):
    write_set(tmp_path)
    for number in range(2):
        assert (tmp_path / shard_file(number)).read_bytes() == (folder / shard_file(number)).read_bytes()


def test_tar_programs_read_shards_and_find_no_time_and_no_owner(folder):
    with tarfile.open(folder / shard_file(0)) as tar:
        entries = tar.getmembers()
        assert [entry.name for entry in entries[:4]] == [
            "000000000.coordinates.npy", "000000000.json", "000000000.png", "000000000.structures.npy",
        ]  # fmt: skip
        assert len(entries) == 16
        assert all(entry.mtime == entry.uid == entry.gid == 0 and not entry.uname for entry in entries)
        levels = np.array(Image.open(io.BytesIO(tar.extractfile("000000001.png").read())))
    assert np.array_equal(levels, np.rint(a_sample(1).image.numpy() * 255).astype(np.uint8))


def test_webdataset_reads_the_shards(folder):
    webdataset = pytest.importorskip("webdataset")
    files = [str(folder / shard_file(number)) for number in range(2)]
    read = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode("l8"))
    assert [entry["__key__"] for entry in read] == [f"{index:09d}" for index in range(7)]
    for index, entry in enumerate(read):
        sample = ShardSet(folder)[index]
        assert np.array_equal(entry["png"], (sample.image * 255).round().numpy())
        assert entry["json"]["coefficients"] == sample.coefficients.tolist()
        assert entry["coordinates.npy"].shape == (6, int(sample.covered.sum()))
        bits = np.unpackbits(entry["structures.npy"], axis=1, count=HEIGHT * WIDTH)
        assert np.array_equal(bits.reshape(sample.structures.shape), sample.structures.numpy())


def test_a_shard_that_fails_on_the_way_leaves_nothing(tmp_path):
    def samples():
        yield a_sample(0)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path, 0, samples())
    assert not list(tmp_path.iterdir())


def test_a_damaged_shard_is_known_by_its_checksum(tmp_path):
    write_set(tmp_path)
    found = find_shard(tmp_path, 1)
    assert found is not None and (found.first, found.samples) == (4, 3)
    path = tmp_path / shard_file(1)
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    assert find_shard(tmp_path, 1) is None
    assert find_shard(tmp_path, 0) is not None
    assert find_shard(tmp_path, 2) is None


def test_a_shard_that_is_cut_off_is_an_error_with_its_name(tmp_path):
    write_set(tmp_path)
    path = tmp_path / shard_file(1)
    path.write_bytes(path.read_bytes()[:3000])
    shards = ShardSet(tmp_path)
    same(shards[3], a_sample(3))
    with pytest.raises(ValueError, match=r"shard-000001\.tar"):
        shards[4]
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-000001\.tar is absent"):
        ShardSet(tmp_path)


def test_an_unfinished_set_is_read_only_if_asked_for(tmp_path):
    write_set(tmp_path, complete=False)
    with pytest.raises(ValueError, match="the same `shapefit simulate` again"):
        ShardSet(tmp_path)
    assert len(ShardSet(tmp_path, unfinished=True)) == 7


def test_another_folder_is_no_set(tmp_path):
    with pytest.raises(ValueError, match="holds no simulated X-rays"):
        ShardSet(tmp_path)
    (tmp_path / MANIFEST).write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="schema version"):
        ShardSet(tmp_path)
