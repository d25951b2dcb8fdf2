"""`shapefit simulate` from outside: what it writes of each source, what it says of bad input, how it ends."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import registered
import small
import torch

from shapefit import cli
from shapefit.io.mesh import write_surfaces
from shapefit.io.model import write_model
from shapefit.scene.shards import ShardSet

QUICK = ("--pixels", 24, "--faces", 100, "--workers", 1, "--neighbours", 0, "--empty", 0)


class Ended(NamedTuple):
    """How a command ended."""

    status: int | None
    out: str
    err: str


@pytest.fixture
def simulate(monkeypatch, capsys, tmp_path):
    def run(source, *arguments, count: int = 3) -> Ended:
        words = ["shapefit", "simulate", source, "-n", count, "-o", tmp_path / "set", *QUICK, *arguments]
        monkeypatch.setattr(sys, "argv", [*map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        text = capsys.readouterr()
        return Ended(end.value.code, text.out, text.err)

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.h5"
    write_model(path, small.small_model(4))
    return path


def test_a_model_becomes_xrays_of_its_shapes_and_the_command_adds_to_them(simulate, model, tmp_path):
    ended = simulate(model, "--shard-size", 2)
    assert ended.status == 0
    assert "3 X-rays in 2 shards\n" in ended.out and "a second" in ended.out
    ended = simulate(model, "--shard-size", 2, count=4)
    assert "4 X-rays in 2 shards, 2 of them from before" in ended.out
    shards = ShardSet(tmp_path / "set")
    assert shards.manifest["source"]["kind"] == "model"
    assert shards.manifest["source"]["id"] == "small"
    assert "shapefit simulate" in shards.manifest["command"]
    assert shards.manifest["settings"]["pixels"] == 24
    assert shards.manifest["throughput"]["samples_per_second"] > 0
    assert shards.names == tuple(small.LABELS)
    mean = read_template(shards)
    coefficients = torch.stack([sample.coefficients for sample in map(shards.__getitem__, range(4))])
    assert coefficients.shape == (4, 3) and len(torch.unique(coefficients)) == 12
    for index in range(4):
        points = shards[index].entry[:, shards[index].covered].T.double()
        # coordinates are points of the template's surface, whatever shape is seen
        assert torch.cdist(points, mean).amin(1).max() < 12


def read_template(shards: ShardSet) -> torch.Tensor:
    model = shards.model()
    return torch.cat([model.mean, model.mean[model.faces].mean(1)])


def test_meshes_are_one_bone_without_modes(simulate, tmp_path):
    bones = tmp_path / "bones"
    surfaces = small.case_surfaces(3, subdivisions=2)
    for mesh in surfaces.values():
        mesh.apply_translation([100.0, -50.0, 700.0])
    write_surfaces(bones, surfaces)
    ended = simulate(bones)
    assert ended.status == 0, ended.err
    shards = ShardSet(tmp_path / "set")
    model = shards.model()
    assert model.modes == 0 and set(model.names) == set(small.LABELS)
    assert shards[0].coefficients.shape == (0,)
    assert shards.manifest["source"]["kind"] == "meshes"
    origin = torch.tensor([float(x) for x in model.metadata["origin_in_file"].split()])
    assert (origin - torch.tensor([100.0, -50.0, 700.0])).abs().max() < 15
    assert model.mean.mean(0).abs().max() < 1e-3
    surface = surfaces[model.names[0]]
    assert torch.allclose(
        (model.mean[: len(surface.vertices)] + origin).amax(0).float(),
        torch.tensor(surface.vertices.max(0)).float(),
        atol=1e-3,
    )


def test_a_label_map_is_one_bone_too(simulate, tmp_path):
    labels = small.write_label_map(tmp_path / "labels.nii.gz", 1, voxel=3.0)
    ended = simulate(labels, "--labels", "sacrum=1", "hip_left=2")
    assert ended.status == 0, ended.err
    shards = ShardSet(tmp_path / "set")
    assert shards.names == ("sacrum", "hip_left")
    assert shards.manifest["source"]["kind"] == "label map"
    assert shards[0].structures.shape == (2, 24, 24)


def test_a_ct_is_one_bone_in_its_own_picture(simulate, tmp_path):
    world = registered.write_world(tmp_path / "world")
    ended = simulate(world.ct)
    assert ended.status == 2 and "which of its voxels are the bone?" in ended.err
    ended = simulate(world.ct, "--threshold", 400)
    assert ended.status == 0, ended.err
    assert "island" in ended.err  # only the largest piece is the bone
    assert ShardSet(tmp_path / "set").manifest["source"]["kind"] == "ct"
    divided = ("--segmentation", world.labels, "--labels", "sacrum=1", "hip_left=2")
    ended = simulate(world.ct, *divided)
    assert ended.status == 2 and "which differs" in ended.err
    ended = simulate(
        world.ct, "--segmentation", world.labels, "--labels", "sacrum=1", "hip_left=2", "--fresh"
    )
    assert ended.status == 0, ended.err
    assert ShardSet(tmp_path / "set").names == ("sacrum", "hip_left")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--count", 0), "-n must be at least 1, got 0"),
        (("--shard-size", 0), "--shard-size must be at least 1, got 0"),
        (("--workers", 0), "--workers must be at least 1, got 0"),
        (("--labels", "sacrum=1"), "is a shape model, which has its structures"),
        (("--cluster", "tcp://127.0.0.1:1"), "no Dask scheduler answers"),
    ],
)
def test_bad_input_is_an_error_of_one_line(simulate, model, arguments, words, monkeypatch):
    monkeypatch.setattr("shapefit.workers.PATIENCE", 0.5)
    ended = simulate(model, *arguments)
    assert ended.status == 2
    assert words in ended.err and "Traceback" not in ended.err


def test_a_source_that_is_absent_is_named(simulate, tmp_path):
    ended = simulate("pelvi")
    assert ended.status == 2 and "pelvi: no such model file" in ended.err
    ended = simulate(tmp_path / "absent.nii.gz")
    assert ended.status == 2 and "absent.nii.gz does not exist" in ended.err
    assert not (tmp_path / "set").exists()


def test_an_interrupted_command_says_how_it_goes_on(simulate, model, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("shapefit.jobs.simulate_job", interrupted)
    ended = simulate(model)
    assert ended.status == 130 and "the same command goes on" in ended.err
