"""Scene networks as files: the same network comes back, and nothing else is taken for one."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from shapefit.io.scene import read_scene, read_scene_mesh, scene_path, write_scene
from shapefit.scene.network import SceneNetwork, network_input

TEMPLATE = torch.tensor([[0.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 90.0, 0.0], [0.0, 0.0, 90.0]])
FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def small_network(fold: int = 1) -> SceneNetwork:
    about = {"licence": "CC0", "training": '{"steps": 3}'}
    return SceneNetwork(TEMPLATE, FACES, ("left", "right"), 24, (4, 8), 1, fold, 2, True, about)


def head_of(path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["shapefit"])


@pytest.mark.parametrize("fold", [1, 2])
def test_a_network_comes_back_as_it_was_written(tmp_path, fold):
    network = small_network(fold)
    write_scene(tmp_path / "net.safetensors", network)
    back = read_scene(tmp_path / "net.safetensors")
    for name in (
        "structures",
        "pixels",
        "channels",
        "residual_units",
        "fold",
        "attention",
        "mirrored",
        "about",
    ):
        assert getattr(back, name) == getattr(network, name)
    assert torch.equal(back.template, TEMPLATE) and torch.equal(back.faces, FACES)
    given = network_input(torch.rand(1, 24, 16))
    assert torch.equal(back(given), network(given))
    assert not back.training


def test_the_same_network_is_the_same_bytes(tmp_path):
    network = small_network()
    write_scene(tmp_path / "a.safetensors", network)
    write_scene(tmp_path / "b.safetensors", read_scene(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_structures_and_faces_are_read_without_the_network(tmp_path):
    write_scene(tmp_path / "net.safetensors", small_network())
    names, faces = read_scene_mesh(tmp_path / "net.safetensors")
    assert names == ("left", "right")
    assert torch.equal(faces, FACES)


def test_a_network_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "models" / "toy").mkdir(parents=True)
    write_scene(tmp_path / "models" / "toy" / "toy.safetensors", small_network())
    monkeypatch.chdir(tmp_path)
    assert scene_path("toy").samefile(tmp_path / "models" / "toy" / "toy.safetensors")
    with pytest.raises(ValueError, match=r"other: no such file of a scene network, nor .*toy"):
        scene_path("other")


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    write_scene(path, small_network())
    whole = path.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"net\.safetensors is cut off, damaged or not"):
            read_scene(path)


def test_what_is_not_a_scene_network_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(save({"weight": torch.zeros(3)}))
    with pytest.raises(ValueError, match="not a scene network"):
        read_scene(path)
    path.write_bytes(
        save({"weight": torch.zeros(3)}, {"shapefit": json.dumps({"schema": "shapefit-scene/99"})})
    )
    with pytest.raises(ValueError, match="'shapefit-scene/99' file; this version reads 'shapefit-scene/1'"):
        read_scene(path)


def test_weights_that_are_not_those_of_the_head_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    write_scene(path, small_network())
    head = head_of(path)
    weights = {name: value.contiguous() for name, value in small_network().state_dict().items()}
    for wrong in ({**head, "channels": [4, 4]}, {**head, "structures": ["one"]}):
        path.write_bytes(save(weights, {"shapefit": json.dumps(wrong)}))
        with pytest.raises(ValueError, match="not those of the network in its head"):
            read_scene(path)
    del weights["template"]
    path.write_bytes(save(weights, {"shapefit": json.dumps(head)}))
    with pytest.raises(ValueError, match="not those of the network in its head"):
        read_scene(path)


def test_weights_that_are_not_numbers_are_not_written(tmp_path):
    network = small_network()
    with torch.no_grad():
        next(network.layers.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_scene(tmp_path / "net.safetensors", network)
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        write_scene(tmp_path / "net.pt", small_network())
    assert not list(tmp_path.iterdir())
