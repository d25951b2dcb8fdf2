"""`shapefit locate` from outside: what it writes, what it says of bad input, with which status it ends."""

import json
import sys
from typing import NamedTuple

import located
import numpy as np
import pytest
import torch

from shapefit import cli
from shapefit.io.model import write_model
from shapefit.io.scene import write_scene
from shapefit.io.xray import read_image, write_image
from shapefit.scene.network import SceneNetwork


class Ended(NamedTuple):
    """How a command ended."""

    status: int | None
    out: str
    err: str


@pytest.fixture
def shapefit(monkeypatch, capsys):
    def run(*arguments) -> Ended:
        monkeypatch.setattr(sys, "argv", ["shapefit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        text = capsys.readouterr()
        return Ended(end.value.code, text.out, text.err)

    return run


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr("shapefit.report.register_pictures.SHORTEST", 96)
    monkeypatch.setattr("shapefit.report.register_pictures.LONGEST", 96)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> located.World:
    folder = tmp_path_factory.mktemp("world")
    world = located.write_world(folder)
    write_model(folder / "small.h5", world.model)
    torch.manual_seed(0)
    model = world.model
    write_scene(folder / "new.safetensors", SceneNetwork(model.mean, model.faces, model.names, 32, (2, 2), 0))
    fewer = SceneNetwork(model.mean, model.faces[:-1], model.names, 32, (2, 2), 0)
    write_scene(folder / "fewer.safetensors", fewer)
    return world


@pytest.fixture
def pretend(world, monkeypatch):
    """A network that knows the answer stands for every file."""
    asked = []

    def network(made=None):
        made = made or located.knowing_network(world)
        monkeypatch.setattr("shapefit.jobs.locate.read_scene", lambda name: asked.append(name) or made)
        return asked

    return network


def arguments(world: located.World, out, network="new.safetensors") -> list:
    folder = world.images[0].parent
    return [
        "locate", *world.images, "--camera", *world.cameras, "--network", folder / network,
        "--model", folder / "small.h5", "-o", out,
    ]  # fmt: skip


def test_a_bone_is_located_from_the_command_line(shapefit, world, pretend, tmp_path):
    asked = pretend()
    ended = shapefit(*arguments(world, tmp_path / "out"))
    assert ended.status == 0, ended.err
    assert asked == [str(world.images[0].parent / "new.safetensors")]
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert record["converged"] and record["command"].startswith("shapefit locate")
    for line in ("ap: 100 % inliers", "lateral: 100 % inliers", record["uncertainty"], "report.html"):
        assert line in ended.out


def test_no_pelvis_is_an_answer_with_status_3(shapefit, world, pretend, tmp_path):
    pretend(located.blind_network(world))
    ended = shapefit(*arguments(world, tmp_path / "out"))
    assert ended.status == 3
    assert "no pelvis in these images; no mesh was written" in ended.err
    assert (tmp_path / "out" / "report.html").is_file() and not list((tmp_path / "out").glob("*.ply"))
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert (record["converged"], record["reason"]) == (False, "no pelvis in these images")


def test_too_few_inliers_is_an_answer_with_status_3(shapefit, world, pretend, tmp_path):
    pretend()
    ended = shapefit(*arguments(world, tmp_path / "out"), "--least-inliers", 1.1)
    assert ended.status == 3
    assert "too few inliers" in ended.err and not list((tmp_path / "out").glob("*.ply"))


def test_a_network_that_learned_nothing_finds_nothing_and_says_so(shapefit, world, tmp_path):
    ended = shapefit(*arguments(world, tmp_path / "out"))
    assert ended.status == 3, ended.err
    assert "nothing was located" in ended.err and "Traceback" not in ended.err
    assert (tmp_path / "out" / "entry_0.png").is_file()


def test_what_the_x_rays_show_is_flipped_if_they_were_seen_from_the_detector(
    shapefit, world, pretend, tmp_path, monkeypatch
):
    pretend()
    seen = []

    def locate_views(network, model, views, settings):
        seen.extend(views)
        raise ValueError("seen enough")

    monkeypatch.setattr("shapefit.jobs.locate.locate_views", locate_views)
    assert "seen enough" in shapefit(*arguments(world, tmp_path / "out"), "--seen-from", "detector").err
    np.testing.assert_allclose(seen[0].image, read_image(world.images[0]).flip(1))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"--network": "absent"}, "absent"),
        ({"--network": "FOLDER/fewer.safetensors"}, "mesh"),
        ({"--network": "FOLDER/ap.png"}, "ap.png"),
        ({"--model": "absent"}, "no such model file"),
        ({"--camera": "FOLDER/ap.json"}, "2 images but 1 camera file"),
        ({"--device": "tpu"}, "unknown device 'tpu'"),
        ({"--polarity": "grey"}, "unknown polarity 'grey'"),
    ],
)
def test_what_is_asked_for_in_vain_ends_with_2(shapefit, world, tmp_path, change, sentence):
    given = arguments(world, tmp_path / "out")
    for option, value in change.items():
        value = value.replace("FOLDER", str(world.images[0].parent))
        if option == "--camera":
            given.remove(world.cameras[1])
        else:
            given += [option, value]
    ended = shapefit(*given)
    assert ended.status == 2
    assert sentence in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_an_empty_image_ends_with_2(shapefit, world, tmp_path):
    write_image(tmp_path / "empty.png", torch.full((64, 72), 0.5))
    given = arguments(world, tmp_path / "out")
    given[1] = tmp_path / "empty.png"
    ended = shapefit(*given)
    assert ended.status == 2 and "empty.png is an empty image" in ended.err
