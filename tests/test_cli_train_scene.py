"""`shapefit train-scene` from outside: from simulated X-rays to a file that looks at X-rays."""

import json
import sys
from pathlib import Path

import pytest
import torch
from small import LABELS, small_model, write_small_model

from shapefit.cli import main
from shapefit.io.scene import read_scene, write_scene
from shapefit.jobs import simulate_job, train_scene_job
from shapefit.jobs.train_scene import first_network
from shapefit.settings import SimulateSettings, TrainSceneSettings

SIMULATE = SimulateSettings(pixels=24, faces=0, empty=0.0)
SETTINGS = TrainSceneSettings(
    steps=4, batch=4, channels=(8, 8), held_out=4, judge_every=2, save_every=2, warmup=1, threads=1
)
OPTIONS = ["--steps", "4", "--batch", "4", "--channels", "8", "8", "--held-out", "4", "--judge-every", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "small.h5")


@pytest.fixture(scope="module")
def xrays(model) -> Path:
    simulate_job(model, model.parent / "xrays", 16, SIMULATE)
    return model.parent / "xrays"


def call(*arguments: object) -> int:
    sys.argv = ["shapefit", "train-scene", *(str(argument) for argument in arguments)]
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_process_that_does_not_lead_ends_in_silence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("shapefit.jobs.train_scene_job", lambda *_: {"history": []})
    assert call("xrays", "-o", tmp_path / "net.safetensors", *OPTIONS) == 0
    assert not capsys.readouterr().out


def test_a_network_is_trained_from_a_folder_of_xrays(xrays, tmp_path, capsys):
    assert call(xrays, "-o", tmp_path / "net.safetensors", *OPTIONS) == 0
    told = capsys.readouterr().out
    assert "median error" in told and str(tmp_path / "net.safetensors") in told
    network = read_scene(tmp_path / "net.safetensors")
    assert network.structures == tuple(LABELS)
    assert network.pixels == SIMULATE.pixels
    torch.testing.assert_close(network.template.double(), small_model().mean, atol=1e-3, rtol=0)
    assert torch.equal(network.faces, small_model().faces)
    assert network.about["samples"] == "16" and network.about["model"] == "small"
    assert json.loads(network.about["simulation"])["pixels"] == SIMULATE.pixels
    assert json.loads(network.about["training"])["channels"] == [8, 8]
    record = json.loads((tmp_path / "net.training" / "training.json").read_text())
    assert [found["step"] for found in record["history"]] == [2, 4]
    assert list((tmp_path / "net.training" / "curves").iterdir())
    # all is done already: the same file again, at once
    before = (tmp_path / "net.safetensors").read_bytes()
    assert call(xrays, "-o", tmp_path / "net.safetensors", *OPTIONS) == 0
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_what_is_simulated_on_the_fly_depends_on_the_number_of_workers_in_nothing(model, tmp_path):
    for workers in (0, 1):
        settings = TrainSceneSettings(**{**vars(SETTINGS), "workers": workers})
        train_scene_job(model, tmp_path / f"{workers}.safetensors", settings, SIMULATE)
    one, other = (read_scene(tmp_path / f"{workers}.safetensors").state_dict() for workers in (0, 1))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_training_begins_from_another_network(xrays, tmp_path):
    model = small_model()
    torch.manual_seed(7)
    first = first_network(model, 24, TrainSceneSettings(**{**vars(SETTINGS), "seed": 7}))
    write_scene(tmp_path / "first.safetensors", first)
    begun = first_network(model, 24, SETTINGS, tmp_path / "first.safetensors")
    for name, value in first.layers.state_dict().items():
        assert torch.equal(value, begun.layers.state_dict()[name])
    settings = TrainSceneSettings(**{**vars(SETTINGS), "rate": 1e-9})  # nothing is learned
    record = train_scene_job(
        xrays, tmp_path / "net.safetensors", settings, init=tmp_path / "first.safetensors"
    )
    assert record["about"]["init"] == str(tmp_path / "first.safetensors")
    trained = read_scene(tmp_path / "net.safetensors")
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name], atol=1e-5, rtol=1e-3)


def test_a_network_without_attention_begins_one_with_it(tmp_path):
    model, path, given = small_model(), tmp_path / "plain.safetensors", torch.randn(1, 2, 24, 24)
    plain = first_network(model, 24, TrainSceneSettings(**{**vars(SETTINGS), "attention": 0}))
    write_scene(path, plain)
    for attention in (0, 2):
        settings = TrainSceneSettings(**{**vars(SETTINGS), "attention": attention})
        begun = first_network(model, 24, settings, path)
        assert begun.attention == attention
        torch.testing.assert_close(begun.eval()(given), plain.eval()(given))
    write_scene(path, begun)
    other = TrainSceneSettings(**{**vars(SETTINGS), "attention": 1})
    with pytest.raises(ValueError, match="has 2 blocks of attention, not 1; pass its own with --attention"):
        first_network(model, 24, other, path)


def test_a_network_of_another_layout_is_no_beginning(xrays, tmp_path, capsys):
    wide = TrainSceneSettings(**{**vars(SETTINGS), "channels": (16, 16)})
    write_scene(tmp_path / "wide.safetensors", first_network(small_model(), 24, wide))
    options = ("-o", tmp_path / "net.safetensors", "--init", tmp_path / "wide.safetensors", *OPTIONS)
    assert call(xrays, *options) == 2
    assert "has channels (16, 16), not (8, 8); pass its own with --channels" in capsys.readouterr().err
    assert not (tmp_path / "net.safetensors").exists()


def test_what_cannot_be_trained_on_is_a_line_on_stderr(xrays, tmp_path, capsys):
    assert call(tmp_path, "-o", tmp_path / "net.safetensors", *OPTIONS) == 2
    assert "holds no simulated X-rays" in capsys.readouterr().err
    assert call(xrays, "-o", tmp_path / "net.pt", *OPTIONS) == 2
    assert "written as .safetensors" in capsys.readouterr().err
    assert call(xrays, "-o", tmp_path / "net.safetensors") == 2
    assert "16 samples of which 512 are held out" in capsys.readouterr().err
    assert call(xrays, "-o", tmp_path / "net.safetensors", *OPTIONS, "--precision", "float16") == 2
    assert "float16 trains on a GPU alone" in capsys.readouterr().err


def test_a_loss_that_is_not_a_number_has_an_exit_status_of_its_own(xrays, tmp_path, capsys):
    options = ("-o", tmp_path / "net.safetensors", *OPTIONS, "--rate", "1e30", "--precision", "float32")
    assert call(xrays, *options) == 3
    assert "is nan" in (told := capsys.readouterr().err) or "is inf" in told
    assert "lower --rate" in told
    assert not (tmp_path / "net.safetensors").exists()
