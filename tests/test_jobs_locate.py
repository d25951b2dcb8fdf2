"""The location job: what it reads, what it finds, how sure it says it is, what it leaves on disk."""

import json

import located
import numpy as np
import pytest
import small
import torch

from shapefit import se3
from shapefit.fit.result import XRayFit
from shapefit.fit.solve import fit_xrays
from shapefit.io.mesh import read_surfaces, write_surfaces
from shapefit.io.model import write_model
from shapefit.io.pose import read_pose
from shapefit.io.record import read_record, recorded_views
from shapefit.jobs.evaluate import evaluate_job
from shapefit.jobs.fit import fit_record, read_views
from shapefit.jobs.locate import locate_job
from shapefit.jobs.locate_record import pose_std, uncertainty_in_words
from shapefit.scene.locate import locate_views
from shapefit.settings import EvaluateSettings, FitSettings, LocateSettings

MAPS = {f"{kind}_{n}.png" for kind in ("structures", "entry", "exit", "std") for n in range(2)}


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr("shapefit.report.register_pictures.SHORTEST", 96)
    monkeypatch.setattr("shapefit.report.register_pictures.LONGEST", 96)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> located.World:
    folder = tmp_path_factory.mktemp("world")
    world = located.write_world(folder)
    write_model(folder / "small.h5", world.model)
    return world


@pytest.fixture(scope="module")
def job(world, tmp_path_factory):
    """One location of both views by a network that knows the answer: the record and its folder."""
    out = tmp_path_factory.mktemp("located") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for size in ("SHORTEST", "LONGEST"):
            patch.setattr(f"shapefit.report.register_pictures.{size}", 96)
        patch.setattr("shapefit.jobs.locate.read_scene", lambda name: located.knowing_network(world))
        record = locate_job(
            world.images, world.cameras, out, None, "knowing", world.images[0].parent / "small.h5",
            command="shapefit locate ...",
        )  # fmt: skip
    return record, out


@pytest.fixture
def locate(world, tmp_path, monkeypatch):
    """`locate_job` with a network that knows the answer, or another."""

    def run(network=None, settings=None, count=2, out="out", **options):
        network = network or located.knowing_network(world, located.VIEWS[:count])
        monkeypatch.setattr("shapefit.jobs.locate.read_scene", lambda name: network)
        return locate_job(
            world.images[:count], world.cameras[:count], tmp_path / out, settings, "knowing",
            world.images[0].parent / "small.h5", **options,
        )  # fmt: skip

    return run


def test_a_bone_is_located_where_it_is_and_in_its_shape(job, world):
    record, out = job
    assert record["converged"], record["reason"]
    found = torch.tensor(record["world_from_model"], dtype=torch.float64)
    vertices = se3.transform(found, world.model.instance(torch.tensor(record["coefficients"]).double()))
    # mm: of votes that may err by 2 mm, and the prior of shapes
    assert float((vertices - world.vertices).norm(dim=1).max()) < 1.0
    mean = se3.transform(located.TRUTH, world.model.mean)
    assert float((mean - world.vertices).norm(dim=1).mean()) > 1  # the mean shape would not do
    written = read_surfaces(out)
    for name, mesh in world.model.surfaces(vertices).items():
        np.testing.assert_allclose(written[name].vertices, mesh.vertices, atol=1e-4)


def test_everything_is_written_and_the_folder_is_one_of_a_fit(job, world):
    record, out = job
    overlays = {"overlay_0.png", "overlay_1.png"}
    meshes = {f"{name}.ply" for name in world.model.names}
    assert {path.name for path in out.iterdir()} == MAPS | overlays | meshes | {"fit.json", "report.html"}
    written = read_record(out)
    fit = XRayFit(
        world.coefficients, 1.0, located.TRUTH, torch.stack([located.pose(name) for name in located.VIEWS]),
        world.vertices, [0.0] * 2, [{}] * 2, [None] * 2, True, "", [], 0.0,
    )  # fmt: skip
    of_fit = fit_record(world.model, read_views(world.images, world.cameras), world.images, fit, 0, "")
    assert set(of_fit) - {"start"} <= set(written) and set(of_fit["views"][0]) <= set(written["views"][0])
    assert written["command"] == "shapefit locate ..." and written["network"] == "knowing"
    assert [view["inlier_share"] for view in written["views"]] == [1.0, 1.0]
    assert written["uncertainty"] == record["uncertainty"] != ""
    size = 6 + len(written["coefficients"])
    assert np.array(written["covariance"]).shape == (size, size) and len(written["covariance_of"]) == size
    torch.testing.assert_close(read_pose(out), torch.tensor(record["world_from_model"]).double())
    assert len(recorded_views(written)) == 2


def test_evaluate_measures_a_location_as_it_does_a_fit(job, world, tmp_path):
    _, out = job
    write_surfaces(tmp_path / "truth", world.model.surfaces(world.vertices))
    quick = EvaluateSettings(samples=2000, voxel=3.0)
    table = evaluate_job([out], [tmp_path / "truth"], tmp_path / "figures", quick)
    assert not table["failures"]
    assert table["table"]["absolute"]["all"]["assd"]["mean"] < 0.3


def test_a_fit_begins_from_a_location(job, world):
    _, out = job
    quick = FitSettings(steps=(1, 1, 1), start_pixels=24, fine_pixels=48)
    views = read_views(world.images, world.cameras)
    fit = fit_xrays(world.model, views, quick, init=read_record(out))
    assert float((fit.vertices - world.vertices).norm(dim=1).max()) < 3  # one step of the descent away


def test_views_without_poses_get_one_each_and_the_world_is_the_models(locate, world):
    record = locate(settings=LocateSettings(free_views=True))
    assert record["converged"], record["reason"]
    assert record["world_from_model"] == torch.eye(4).tolist()
    assert len(record["covariance"]) == 12 + len(record["coefficients"])
    assert record["covariance_of"][6] == "pose of lateral, turn x"
    for name, view in zip(located.VIEWS, record["views"], strict=True):
        between = torch.tensor(view["world_from_camera"], dtype=torch.float64)
        wanted = se3.inverse(located.TRUTH) @ located.pose(name)
        assert float(se3.rotation_angle((se3.inverse(wanted) @ between)[:3, :3])) < 0.01


def test_the_standard_deviations_are_those_of_poses_drawn_from_the_covariance(world):
    views = read_views(world.images, world.cameras)
    small_step = 0.05  # 20 mm of depth, turned, would be some way across
    for free in (False, True):
        found = locate_views(
            located.knowing_network(world), world.model, views, LocateSettings(free_views=free)
        )
        first = 6 if free else 0  # the second view
        block = found.covariance[first : first + 6, first : first + 6]
        draws = torch.randn(20_000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        draws = small_step * draws @ torch.linalg.cholesky(block).T
        camera_from_model = se3.inverse(found.world_from_camera[1]) @ found.world_from_model
        moved = camera_from_model @ se3.exp(draws)
        places = se3.transform(moved, world.model.mean.mean(0, keepdim=True))[:, 0]
        turns = se3.log(moved @ se3.inverse(camera_from_model))[:, :3]
        std = pose_std(world.model, found, 1)
        np.testing.assert_allclose(std["translation_mm"], places.std(0).numpy() / small_step, rtol=0.05)
        np.testing.assert_allclose(
            np.radians(std["rotation_deg"]), turns.std(0).numpy() / small_step, rtol=0.05
        )


def test_one_view_is_less_sure_of_depth_than_of_the_place_in_the_image(locate):
    record = locate(count=1)
    across, down, depth = record["views"][0]["std"]["translation_mm"]
    assert depth > 4 * max(across, down)
    turn = max(record["views"][0]["std"]["rotation_deg"])
    assert (
        f"{turn:.2g}°" in record["uncertainty"] and f"{depth:.2g} mm along the beam" in record["uncertainty"]
    )


def test_a_pose_that_nothing_tells_is_said_to_be_so():
    std = {"rotation_deg": [1.0, 2.0, 3.0], "translation_mm": [0.5, 1.5, None]}
    assert "infinite" in uncertainty_in_words([std])
    assert uncertainty_in_words([]) == ""


def test_without_a_bone_there_is_no_mesh_not_even_an_older_one(locate, world, tmp_path):
    out = tmp_path / "out"
    locate()
    assert (out / "sacrum.ply").is_file()
    (out / "notes.txt").write_text("mine")
    record = locate(located.blind_network(world))
    assert not record["converged"] and record["reason"] == "no pelvis in these images"
    assert {path.name for path in out.iterdir()} == MAPS | {"fit.json", "report.html", "notes.txt"}
    written = json.loads((out / "fit.json").read_text())
    assert written["coefficients"] is None and written["world_from_model"] is None
    assert written["covariance"] is None and written["uncertainty"] == ""
    assert recorded_views(written) == []


def test_a_pose_that_few_agree_on_is_not_written(locate, world, tmp_path):
    network = located.knowing_network(world)
    noise = torch.Generator().manual_seed(0)
    for answer in network.forward.answers:
        answer[:, :6] += torch.randn(answer[:, :6].shape, generator=noise)  # 100 mm
    record = locate(network)
    assert not record["converged"] and "too few inliers" in record["reason"]
    assert not list((tmp_path / "out").glob("*.ply"))


def test_a_start_without_an_answer_is_refused(locate, world, tmp_path):
    locate(located.blind_network(world))
    views = read_views(world.images, world.cameras)
    with pytest.raises(ValueError, match="start"):
        fit_xrays(world.model, views, FitSettings(), init=read_record(tmp_path / "out"))


def test_a_job_that_breaks_leaves_its_folder_as_it_was(locate, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("shapefit.jobs.locate.locate_page", broken)
    with pytest.raises(RuntimeError, match="on fire"):
        locate()
    assert not (tmp_path / "out").exists()


def test_the_same_is_located_twice(job, locate):
    records = [job[0], locate()]
    for key in ("coefficients", "world_from_model", "covariance"):
        # sums of products depend in their last bit on where in memory the factors lie
        np.testing.assert_allclose(*(record[key] for record in records), rtol=0, atol=1e-12)


def test_a_model_of_another_mesh_is_refused(locate, world):
    network = located.knowing_network(world)
    network.faces = network.faces[:-1]
    with pytest.raises(ValueError, match="mesh"):
        locate(network)
    assert small.small_model().faces.shape == world.model.faces.shape


@pytest.mark.parametrize("device, sentence", [("tpu", "unknown device"), ("cuda", "no CUDA device")])
def test_a_device_that_is_not_there_is_refused(locate, device, sentence):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match=sentence):
        locate(settings=LocateSettings(device=device))
