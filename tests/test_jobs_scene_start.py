"""Fits and registrations that begin where a network sees the bone, with a network that knows the answer."""

import json
from dataclasses import replace

import located
import pytest
import small
import torch

from shapefit import se3
from shapefit.io.mesh import write_surfaces
from shapefit.io.model import write_model
from shapefit.io.scene import write_scene
from shapefit.io.volume import read_labels
from shapefit.jobs.bone import BoneFile, read_bone
from shapefit.jobs.evaluate import evaluate_job
from shapefit.jobs.fit import fit_job, read_views
from shapefit.jobs.register import register_job
from shapefit.jobs.scene_start import ask_for_bone, ask_for_fit, kind_of_start
from shapefit.settings import EvaluateSettings, FitSettings, RegisterSettings
from shapefit.shape_model import ShapeModel
from shapefit.volume import Volume

QUICK = FitSettings(
    starts=3, finalists=2, steps=(3, 4, 8), start_pixels=32, fine_pixels=64, rotation_range=10.0, accept=0.0,
    trust=0.0,
)  # fmt: skip
RIGID = RegisterSettings(
    starts=4, finalists=(2, 1), pixels=(24, 32, 48), steps=(6, 5, 5), translation_range=6.0,
    rotation_range=5.0, patch=12, accept=0.2,
)  # fmt: skip
# where the bone's file has it: another frame than the model's
FILE_FROM_MODEL = se3.exp(torch.tensor([0.4, -0.3, 0.5, 30.0, -20.0, 45.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> located.World:
    return located.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.h5"
    write_model(path, world.model)
    return path


@pytest.fixture
def network(world, tmp_path, monkeypatch):
    """The file of a network of the small model's mesh; once read, it sees what is there, or nothing."""
    written = located.SceneNetwork(world.model.mean, world.model.faces, world.model.names, 72, (2, 2), 0)
    path = tmp_path / "knowing.safetensors"
    write_scene(path, written)

    def sees(views=located.VIEWS):
        made = located.knowing_network(world, views) if views else located.blind_network(world)
        monkeypatch.setattr("shapefit.jobs.scene_start.read_scene", lambda name: made)
        return str(path)

    return sees


def fit(world, model, out, views=1, **options) -> dict:
    return fit_job(world.images[:views], world.cameras[:views], model, out, QUICK, **options)


def stages(record: dict) -> set[str]:
    return {step["stage"] for step in record["history"]}


def error(record: dict, world: located.World) -> float:
    """mm, mean over the vertices of a fit's record."""
    shape = world.model.instance(torch.tensor(record["coefficients"], dtype=torch.float64))
    pose = torch.tensor(record["world_from_model"], dtype=torch.float64)
    return float((se3.transform(pose, shape) - world.vertices).norm(dim=1).mean())


def test_a_fit_begins_where_the_network_saw_the_bone(world, model, network, tmp_path):
    record = fit(world, model, tmp_path / "out", views=2, network=network())
    assert record["converged"] and "starts" not in stages(record)
    begun = json.loads((tmp_path / "out" / "fit.json").read_text())["start"]
    assert (begun["kind"], begun["doubt"]) == ("scene", "") and begun["network"].endswith(
        "knowing.safetensors"
    )
    assert "of the pixels agree" in begun["network_says"] and min(begun["inlier_share"]) > 0.9
    assert error(record, world) < 2.5
    assert "knowing.safetensors saw the bone" in (tmp_path / "out" / "report.html").read_text()


def test_a_fit_searches_where_the_network_sees_no_bone(world, model, network, tmp_path):
    record = fit(world, model, tmp_path / "out", network=network(()))
    assert "starts" in stages(record) and record["start"]["kind"] == "prior"
    assert "no pelvis in this image" in record["start"]["network_says"]


def test_a_fit_from_the_network_alone_fails_where_it_sees_no_bone(world, model, network, tmp_path):
    record = fit(world, model, tmp_path / "out", network=network(()), init="scene")
    assert not record["converged"] and record["reason"] == "no pelvis in this image"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"fit.json", "report.html"}
    written = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert written["start"]["kind"] == "scene" and written["views"][0]["loss"] is None
    assert "no pelvis in this image" in (tmp_path / "out" / "report.html").read_text()


def test_a_fit_from_the_prior_asks_no_network(world, model, network, tmp_path):
    record = fit(world, model, tmp_path / "out", network=network(), init="prior")
    assert record["start"] == {"kind": "prior"} and "starts" in stages(record)


def test_a_fit_goes_on_from_the_record_of_another(world, model, network, tmp_path):
    first = fit(world, model, tmp_path / "out", views=2, network=network())
    record = fit(world, model, tmp_path / "again", views=2, network=network(), init=tmp_path / "out")
    assert record["start"] == {"kind": "record"} and "starts" not in stages(record)
    assert error(record, world) < error(first, world) + 0.5


def test_a_model_that_no_network_knows_is_searched_unless_one_was_named(world, network, tmp_path):
    views, named = read_views(world.images, world.cameras), network()
    other = replace(world.model, faces=world.model.faces.roll(1, 1))
    asked = ask_for_fit("auto", None, other, views, QUICK)
    assert asked.located is None and asked.network == "" and "pelvis-scene" in asked.reason
    for kind in ("auto", "scene"):
        with pytest.raises(ValueError, match=r"knowing.* was trained on another mesh \(960 faces\)"):
            ask_for_fit(kind, named, other, views, QUICK)
    with pytest.raises(ValueError, match="pelvis-scene"):
        ask_for_fit("scene", None, other, views, QUICK)
    with pytest.raises(ValueError, match="absent: no such file of a scene network"):
        ask_for_fit("auto", "absent", world.model, views, QUICK)


def test_words_are_starts_and_all_else_is_a_file():
    kinds = [kind_of_start(init) for init in (None, "auto", "scene", "prior", "auto.json")]
    assert kinds == ["auto", "auto", "scene", "prior", "record"]


def known_bone(world: located.World, names=tuple(small.LABELS)) -> dict:
    """The very bone that was seen, as meshes in a frame of its own."""
    shape = se3.transform(FILE_FROM_MODEL, world.model.instance(world.coefficients))
    return {name: mesh for name, mesh in world.model.surfaces(shape).items() if name in names}


def misplaced(pose: torch.Tensor, world: located.World) -> float:
    """mm, mean over the vertices of a known bone."""
    shape = se3.transform(FILE_FROM_MODEL, world.model.instance(world.coefficients))
    return float((se3.transform(pose, shape) - world.vertices).norm(dim=1).mean())


@pytest.mark.parametrize("names", [tuple(small.LABELS), ("hip_left", "sacrum")])
def test_a_known_bone_in_a_frame_of_its_own_is_seen_by_the_network(world, model, network, names):
    meshes = known_bone(world, names)
    bone = BoneFile(meshes, {name: small.LABELS[name] for name in meshes}, {})
    views = read_views(world.images, world.cameras)
    asked, pose = ask_for_bone("auto", network(), model, bone, views, RIGID)
    assert asked.located.found and pose is not None
    assert misplaced(torch.eye(4, dtype=torch.float64), world) > 40
    assert misplaced(pose, world) < 3.0


def test_a_network_of_this_very_bone_needs_no_shape_model(world, network, monkeypatch):
    name = network()
    own = located.knowing_network(world._replace(model=one_shape(world)))
    monkeypatch.setattr("shapefit.jobs.scene_start.read_scene", lambda path: own)
    views = read_views(world.images, world.cameras)
    bone = BoneFile(known_bone(world), dict(small.LABELS), {})
    _, pose = ask_for_bone("auto", name, "no-such-model", bone, views, RIGID)
    assert misplaced(pose, world) < 2.0
    part = BoneFile(known_bone(world, ("sacrum",)), {"sacrum": 1}, {})
    with pytest.raises(ValueError, match="the bone has no hip_left, hip_right, and there is no model"):
        ask_for_bone("auto", name, "no-such-model", part, views, RIGID)


def one_shape(world: located.World) -> ShapeModel:
    return replace(world.model.truncate(0), mean=world.model.instance(world.coefficients))


def test_a_segmented_ct_is_seen_by_the_network_and_a_whole_one_is_not(world, model, network, tmp_path):
    labels = read_labels(small.write_label_map(tmp_path / "labels.nii.gz", 0, 2.0))
    hu = Volume(torch.where(labels.data > 0, 1200.0, -1000.0), labels.world_from_voxel)
    bone = BoneFile(hu.with_structures(labels, small.LABELS).attenuation(), dict(small.LABELS), {})
    views = read_views(world.images[:1], world.cameras[:1])
    asked, pose = ask_for_bone("auto", network(("ap",)), model, bone, views, RIGID)
    assert asked.located.found
    turn = torch.rad2deg(se3.rotation_angle((pose @ se3.inverse(located.TRUTH))[:3, :3]))
    assert float(turn) < 10  # another case's bone, aligned as well as it goes
    whole = BoneFile(hu.attenuation(), {"ct": 1}, {})
    asked, pose = ask_for_bone("auto", None, model, whole, views, RIGID)
    assert asked.located is None and pose is None
    with pytest.raises(ValueError, match="knows sacrum, hip_left, hip_right, but the bone has a whole CT"):
        ask_for_bone("scene", network(), model, whole, views, RIGID)


def test_a_registration_begins_where_the_network_saw_the_bone(world, model, network, tmp_path, monkeypatch):
    monkeypatch.setattr("shapefit.report.register_pictures.SHORTEST", 96)
    meshes = tmp_path / "bone"
    write_surfaces(meshes, known_bone(world))
    settings = (world.images, world.cameras, tmp_path / "out", RIGID)
    record = register_job(
        meshes, *settings, with_landscape=False, network=network(), model=model, command="shapefit register"
    )
    assert record["init"]["kind"] == "scene" and "of the pixels agree" in record["init"]["network_says"]
    assert record["converged"], record["reason"]
    assert 0 < record["init"]["apart"] < RIGID.near
    assert misplaced(torch.tensor(record["start"], dtype=torch.float64), world) < 3.0
    assert misplaced(torch.tensor(record["world_from_bone"], dtype=torch.float64), world) < 1.5
    write_surfaces(tmp_path / "truth", world.model.surfaces(world.vertices))
    quick = EvaluateSettings(samples=1000)
    table = evaluate_job([tmp_path / "out"], [tmp_path / "truth"], tmp_path / "figures", quick)
    assert table["table"]["absolute"]["all"]["assd"]["mean"] < 1.5 and not table["failures"]
    blind = register_job(
        meshes, *settings, with_landscape=False, network=network(()), model=model, init="scene"
    )
    assert not blind["converged"] and blind["reason"] == "no pelvis in these images"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no pelvis in these images" in page and "loss nan" not in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"fit.json", "report.html"}


def test_a_bone_whose_file_lies_right_is_not_taken_elsewhere_by_the_network(
    world, model, network, tmp_path, monkeypatch
):
    monkeypatch.setattr("shapefit.report.register_pictures.SHORTEST", 96)
    meshes = tmp_path / "bone"
    write_surfaces(meshes, world.model.surfaces(world.vertices))
    wrong = se3.exp(torch.tensor([0.0, 0.0, 0.6, 8.0, 0.0, 0.0], dtype=torch.float64))
    monkeypatch.setattr(
        "shapefit.jobs.register.ask_for_bone",
        lambda *given: (ask_for_bone(*given)[0], wrong),
    )
    record = register_job(
        meshes, world.images, world.cameras, tmp_path / "out", RIGID, with_landscape=False,
        network=network(), model=model,
    )  # fmt: skip
    assert record["init"]["kind"] == "prior" and record["start"] == torch.eye(4).tolist()
    found = torch.tensor(record["world_from_bone"], dtype=torch.float64)
    moved = se3.transform(found, world.vertices) - world.vertices
    assert float(moved.norm(dim=1).mean()) < 1.0
    assert read_bone(meshes).labels  # the file is as it was
