"""The command line from outside: what it writes, what it says, and with which status it ends."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import located
import numpy as np
import pytest
import small
import torch
import trimesh
from PIL import Image

from shapefit import cli
from shapefit.fit.solve import XRayFit
from shapefit.io.mesh import read_surfaces, write_mesh
from shapefit.io.model import read_model, write_model
from shapefit.io.xray import read_image


class Ended:
    """How a command ended."""

    def __init__(self, status, out: str, err: str):
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def shapefit(monkeypatch, capsys):
    def run(*arguments, program="shapefit") -> Ended:
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            (cli.fit_shape if program == "fit-shape" else cli.main)()
        text = capsys.readouterr()
        return Ended(end.value.code, text.out, text.err)

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small.write_small_model(tmp_path_factory.mktemp("model") / "small.h5")


@pytest.fixture
def xray(tmp_path) -> dict:
    return small.write_xray(tmp_path / "xray")


@pytest.fixture
def fitted(monkeypatch):
    """A fit that finds (or, told so, does not find) the mean shape at once, to see what is made of it."""
    seen = {}

    def pretend(converged=True, reason=""):
        def fit_xrays(model, views, settings, progress=None, init=None):
            seen.update(views=views, settings=settings, init=init)
            if progress:
                progress("pretending", 0.5)
            poses = torch.stack([small.ap_pose()] * len(views))
            found = torch.full((model.modes,), 0.5, dtype=torch.float64)
            n = len(views)
            return XRayFit(
                coefficients=found,
                scale=1.0,
                world_from_model=torch.eye(4, dtype=torch.float64),
                world_from_camera=poses,
                vertices=model.instance(found),
                losses=[0.25] * n,
                terms=[{"local": 0.2, "gradient": float("nan")}] * n,
                dice=[None if view.mask is None else {"sacrum": 0.9} for view in views],
                converged=converged,
                reason=reason,
                history=[{"stage": "coarse", "step": 0, "loss": 0.5}],
                seconds=1.5,
            )

        monkeypatch.setattr("shapefit.jobs.fit.fit_xrays", fit_xrays)
        return seen

    return pretend


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


QUICK = ("--samples", 1500, "--starts", 1, "--rigid-steps", 12, "--steps", 12)  # of project
RESULT = {"sacrum.ply", "hip_left.ply", "hip_right.ply", "fit.json", "overlay_0.png", "report.html"}


def test_fit_writes_meshes_record_overlay_and_report(shapefit, model, xray, fitted, tmp_path):
    fitted()
    out = tmp_path / "out"
    arguments = ("fit", xray["image"], "--camera", xray["camera"], "--model", model, "--seed", 7, "-o", out)
    ended = shapefit(*arguments, "--mask", xray["mask"])
    assert (ended.status, files(out)) == (0, RESULT), ended.err
    record = json.loads((out / "fit.json").read_text())
    assert record["schema_version"] == 1
    assert record["package_version"] == "0.1.0"
    assert record["command"].startswith("shapefit fit ") and record["command"].endswith(str(xray["mask"]))
    assert (record["seed"], record["model"], record["converged"]) == (7, "small", True)
    assert record["structures"] == small.LABELS
    assert record["coefficients"] == pytest.approx([0.5] * len(record["coefficients"]))
    (view,) = record["views"]
    assert view["image"] == str(xray["image"])
    assert view["camera"]["sdd"] == 1020.0 and view["camera"]["height"] == 64
    np.testing.assert_allclose(view["world_from_camera"], small.ap_pose().numpy())
    assert view["dice"] == {"sacrum": 0.9}
    assert view["terms"] == {"local": 0.2, "gradient": None}  # JSON has no NaN
    shape = read_model(model)
    landmarks = shape.landmark_positions(shape.instance(torch.tensor(record["coefficients"])))
    np.testing.assert_allclose(record["landmarks"]["side"], landmarks[1], atol=1e-6)
    assert all(mesh.is_watertight for mesh in read_surfaces(out, list(small.LABELS)).values())
    assert str(out / "report.html") in ended.out and "0.2500" in ended.out


def test_fit_shape_is_a_synonym_of_shapefit_fit(shapefit, model, xray, fitted, tmp_path):
    fitted()
    out = tmp_path / "out"
    ended = shapefit(
        xray["image"], "--camera", xray["camera"], "--model", model, "-o", out, program="fit-shape"
    )
    assert (ended.status, files(out)) == (0, RESULT), ended.err
    assert json.loads((out / "fit.json").read_text())["command"].startswith("fit-shape ")


def test_a_failed_fit_leaves_its_reason_and_no_mesh_not_even_an_older_one(
    shapefit, model, xray, fitted, tmp_path
):
    out = tmp_path / "out"
    arguments = ("fit", xray["image"], "--camera", xray["camera"], "--model", model, "-o", out)
    fitted()
    assert shapefit(*arguments).status == 0
    (out / "notes.txt").write_text("mine")
    fitted(converged=False, reason="the similarity 0.12 is below 0.40")
    ended = shapefit(*arguments)
    assert ended.status == 3
    assert files(out) == {"fit.json", "report.html", "notes.txt"}
    record = json.loads((out / "fit.json").read_text())
    assert record["converged"] is False
    assert record["reason"] == "the similarity 0.12 is below 0.40"
    assert "the similarity 0.12 is below 0.40; no mesh was written" in ended.err
    assert "failed" in (out / "report.html").read_text().lower()


def test_settings_and_start_reach_the_fit(shapefit, model, xray, fitted, tmp_path):
    seen = fitted()
    out = tmp_path / "out"
    arguments = ("fit", xray["image"], xray["image"], "--camera", xray["camera"], "--model", model)
    ended = shapefit(*arguments, "--free-views", "--view", "pa", "--rotation-range", 12, "-o", out)
    assert ended.status == 0, ended.err
    assert (seen["settings"].view, seen["settings"].rotation_range) == ("pa", 12.0)
    assert len(seen["views"]) == 2 and seen["init"] is None
    assert "overlay_1.png" in files(out)
    again = ("fit", xray["image"], "--camera", xray["camera"], "--model", model, "-o", tmp_path / "again")
    assert shapefit(*again, "--init", out / "fit.json").status == 0
    assert seen["init"]["coefficients"] == json.loads((out / "fit.json").read_text())["coefficients"]


def test_a_fit_begins_with_a_search_where_no_network_knows_the_model(shapefit, model, xray, fitted, tmp_path):
    seen = fitted()
    arguments = ("fit", xray["image"], "--camera", xray["camera"], "--model", model, "-o", tmp_path / "out")
    for init in ((), ("--init", "auto"), ("--init", "prior")):
        ended = shapefit(*arguments, *init)
        assert ended.status == 0 and seen["init"] is None and "begun" not in ended.out, ended.err
    ended = shapefit(*arguments[:-1], tmp_path / "none", "--init", "scene")
    assert ended.status == 2 and "pelvis-scene" in ended.err and not (tmp_path / "none").exists()
    ended = shapefit(*arguments[:-1], tmp_path / "none", "--network", tmp_path / "absent.safetensors")
    assert ended.status == 2 and "no such file of a scene network" in ended.err
    ended = shapefit(*arguments[:-1], tmp_path / "none", "--network", model)
    assert ended.status == 2 and "not a safetensors file" in ended.err


def test_a_network_that_sees_no_bone_ends_with_3_where_it_is_the_only_start(
    shapefit, xray, monkeypatch, tmp_path
):
    world = located.write_world(tmp_path / "world")
    write_model(tmp_path / "small.h5", world.model)
    blind = located.blind_network(world)
    monkeypatch.setattr("shapefit.jobs.scene_start.read_scene", lambda name: blind)
    monkeypatch.setattr(
        "shapefit.jobs.scene_start.read_scene_mesh", lambda name: (world.model.names, world.model.faces)
    )
    out = tmp_path / "out"
    arguments = (
        "fit",
        xray["image"],
        "--camera",
        xray["camera"],
        "--model",
        tmp_path / "small.h5",
        "-o",
        out,
    )
    ended = shapefit(*arguments, "--init", "scene")
    assert ended.status == 3 and "no pelvis in this image; no mesh was written" in ended.err
    assert files(out) == {"fit.json", "report.html"}
    ended = shapefit(
        "evaluate", out, "--reference", small.write_case(tmp_path / "case", 3), "-o", tmp_path / "m"
    )
    assert ended.status == 0, ended.err
    (failed,) = json.loads((tmp_path / "m" / "metrics.json").read_text())["records"]
    assert "no pelvis in this image" in failed["failed"]


def test_a_fit_from_the_command_line_finds_the_masks_and_repeats_itself(shapefit, model, xray, tmp_path):
    quick = shlex.split("--starts 3 --finalists 1 --steps 8 8 20 --start-pixels 36 --rotation-range 10")
    arguments = ("fit", xray["image"], "--camera", xray["camera"], "--mask", xray["mask"], "--model", model)
    records = []
    for name in ("first", "again"):
        ended = shapefit(*arguments, "-o", tmp_path / name, *quick)
        assert ended.status == 0, ended.err
        records.append(json.loads((tmp_path / name / "fit.json").read_text()))
    assert records[0]["coefficients"] == records[1]["coefficients"]
    assert records[0]["world_from_model"] == records[1]["world_from_model"]
    dice = records[0]["views"][0]["dice"]
    assert set(dice) == set(small.LABELS) and min(dice.values()) > 0.8
    # the record remembers the camera, so figures of what the image shows and of the rest come apart
    truth = small.write_case(tmp_path / "truth", 100)
    ended = shapefit(
        "evaluate", tmp_path / "first", "--reference", truth, "-o", tmp_path / "figures", "--samples", 2000
    )
    assert ended.status == 0, ended.err
    (measured,) = json.loads((tmp_path / "figures" / "metrics.json").read_text())["records"]
    assert measured["metrics"]["absolute"]["all"]["in_view"]["area_share"] > 0.9
    assert measured["metrics"]["similarity"]["all"]["assd"] < 1.5


def test_build_writes_a_model_with_landmarks_its_card_and_its_report(shapefit, tmp_path):
    cases = [small.write_case(tmp_path / f"case{seed}", seed) for seed in range(3)]
    labels = [f"{name}={label}" for name, label in small.LABELS.items()]
    settings = (
        "--vertices 400 --no-mirror --template-spacing 3 --template-rounds 0 --samples 9000 "
        "--kernel-widths 30 --kernel-steps 2 --stiffness 10 1 --stiffness-steps 1 --no-leave-one-out "
        "--workers 1 --name lumps"
    )
    out = tmp_path / "models" / "lumps.h5"
    ended = shapefit("build", *cases, "--labels", *labels, "-o", out, *shlex.split(settings))
    assert ended.status == 0, ended.err
    assert files(out.parent) == {"lumps.h5", "lumps.card.json", "lumps.html"}
    found = read_model(out)
    assert dict(zip(found.names, found.labels, strict=True)) == small.LABELS
    assert found.metadata["id"] == "lumps"
    assert found.landmarks.names == ("top",)
    top = found.landmark_positions(found.mean)[0]
    sacrum = found.surfaces(found.mean)["sacrum"].vertices
    assert sacrum[:, 2].max() - top[2] < 3.0
    card = json.loads((out.parent / "lumps.card.json").read_text())
    assert (
        card["subjects"] == ["case0", "case1", "case2"] and card["frame"] == "RAS" and card["units"] == "mm"
    )
    assert card["command"].startswith("shapefit build ") and card["peak_memory_gib"] > 0.1
    assert f"{len(found.mean)} vertices" in ended.out


def test_project_finds_a_case_that_the_model_knows(shapefit, model, tmp_path):
    case, out = small.write_case(tmp_path / "case", 3), tmp_path / "out"
    ended = shapefit("project", model, case, "-o", out, *QUICK)
    assert ended.status == 0, ended.err
    assert files(out) == {"sacrum.ply", "hip_left.ply", "hip_right.ply", "fit.json"}
    record = json.loads((out / "fit.json").read_text())
    assert (record["converged"], record["views"], record["structures"]) == (True, [], small.LABELS)
    ended = shapefit("evaluate", out, "--reference", case, "-o", tmp_path / "figures", "--samples", 3000)
    assert ended.status == 0, ended.err
    assert files(tmp_path / "figures") == {"metrics.json", "metrics.csv", "report.html"}
    table = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert table["table"]["absolute"]["all"]["assd"]["mean"] < 0.6
    assert table["failures"] == []
    rows = list(csv.DictReader((tmp_path / "figures" / "metrics.csv").open()))
    assert {row["structure"] for row in rows} == {*small.LABELS, "all"}
    assert {row["alignment"] for row in rows} == {"absolute", "rigid", "similarity"}
    assert table["records"][0]["landmarks"]["top"]["distance"] < 25.0


def test_evaluate_reads_labels_from_the_result_s_own_record(shapefit, model, tmp_path):
    labels = small.write_label_map(tmp_path / "labels.nii.gz", 3)
    assert shapefit("project", model, labels, "-o", tmp_path / "out", *QUICK).status == 0
    arguments = ("evaluate", tmp_path / "out", "--reference", labels, "-o", tmp_path / "figures")
    ended = shapefit(*arguments, "--samples", 2000, "--structures", "hip_left", "hip_right")
    assert ended.status == 0, ended.err
    table = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert table["records"][0]["structures"] == ["hip_left", "hip_right"]
    assert table["table"]["absolute"]["all"]["assd"]["mean"] < 1.0


def test_a_result_without_a_bone_is_a_failure_that_counts(shapefit, tmp_path):
    case = small.write_case(tmp_path / "case", 3)
    whole, part = small.write_case(tmp_path / "whole", 4), small.write_case(tmp_path / "part", 5)
    (part / "sacrum.ply").unlink()
    arguments = ("evaluate", whole, part, "--reference", case, "-o", tmp_path / "out", "--samples", 2000)
    ended = shapefit(*arguments, "--labels", *(f"{k}={v}" for k, v in small.LABELS.items()))
    assert ended.status == 0, ended.err
    table = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [failure["case"] for failure in table["failures"]] == ["part"]
    assert "2 cases, 1 failures" in ended.out


def test_a_fit_that_failed_is_a_failure_that_counts(shapefit, model, xray, fitted, tmp_path):
    fitted(converged=False, reason="the similarity 0.12 is below 0.40")
    arguments = ("fit", xray["image"], "--camera", xray["camera"], "--model", model)
    assert shapefit(*arguments, "-o", tmp_path / "failed").status == 3
    case = small.write_case(tmp_path / "case", 3)
    ended = shapefit("evaluate", tmp_path / "failed", "--reference", case, "-o", tmp_path / "out")
    assert ended.status == 0, ended.err
    table = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "the similarity 0.12 is below 0.40" in table["records"][0]["failed"]
    assert len(table["failures"]) == len(small.LABELS)
    assert table["table"]["absolute"]["all"]["assd"]["mean"] is None
    assert "NaN" not in (tmp_path / "out" / "metrics.json").read_text()


def test_render_writes_path_lengths_by_suffix(shapefit, model, xray, tmp_path):
    for suffix in (".png", ".tif", ".npy", ".nii.gz"):
        out = tmp_path / f"paths{suffix}"
        ended = shapefit("render", model, "--camera", xray["camera"], "-o", out)
        assert ended.status == 0, ended.err
    paths = np.load(tmp_path / "paths.npy")
    assert paths.shape == (64, 72) and 20 < paths.max() < 120
    png = np.array(Image.open(tmp_path / "paths.png"))
    scale = float(Image.open(tmp_path / "paths.png").info["scale"])
    np.testing.assert_allclose(png * scale, paths, atol=scale)
    mean = small.case_surfaces(0)
    case = small.write_case(tmp_path / "case", 0)
    assert shapefit("render", case, "--camera", xray["camera"], "-o", tmp_path / "case.npy").status == 0
    assert np.load(tmp_path / "case.npy").max() > 0.5 * np.ptp(mean["sacrum"].vertices[:, 1])


def test_render_places_a_model_in_a_named_view_and_draws_an_xray(shapefit, model, xray, tmp_path):
    content = json.loads(xray["camera"].read_text())
    del content["world_from_camera"]
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(content))
    out = tmp_path / "xray.png"
    arguments = ("render", model, "--camera", bare, "-o", out, "--picture", "xray", "--coefficients", "1.5")
    ended = shapefit(*arguments, "--view", "lateral")
    assert ended.status == 0, ended.err
    image = read_image(out, "bone-dark")
    assert image.min() >= 0 and image.max() <= 1 and float(image.std()) > 0.01
    # without a view the identity is the pose, and the bone then lies around the source
    ended = shapefit("render", model, "--camera", bare, "-o", tmp_path / "no.png")
    assert ended.status == 2 and "behind the X-ray source" in ended.err
    assert not (tmp_path / "no.png").exists()


def test_render_draws_xrays_of_chosen_tubes_and_materials(shapefit, model, xray, tmp_path):
    command = ("render", model, "--camera", xray["camera"], "--picture", "xray", "-o")

    def draw(*settings: str) -> np.ndarray:
        ended = shapefit(*command, tmp_path / "xray.npy", "--photons", "0", *settings)
        assert ended.status == 0, ended.err
        return np.load(tmp_path / "xray.npy")

    usual, hard = draw(), draw("--kv", "120", "--copper", "0.3")
    assert usual.std() > hard.std() > 0.01
    metal = draw("--materials", "titanium")
    assert metal.min() < 0.5 * usual.min()
    assert np.array_equal(draw("--materials", *["bone"] * len(small.LABELS)), usual)
    for settings, said in (
        (("--kv", "73"), "no spectrum for a tube voltage of 73 kV; expected one of 40, 50"),
        (("--materials", "cheese"), "unknown material 'cheese'"),
        (("--materials", *["bone"] * 7), f"{len(small.LABELS)} structures need as many materials, got 7"),
    ):
        ended = shapefit(*command, tmp_path / "no.png", *settings)
        assert ended.status == 2 and said in ended.err
    assert not (tmp_path / "no.png").exists()


def test_version_and_help_are_told(shapefit):
    assert shapefit("--version").out == "shapefit 0.1.0\n"
    for command in ("build", "project", "fit", "evaluate", "render"):
        ended = shapefit(command, "--help")
        assert ended.status == 0 and "--output" in ended.out
    assert "degrees, how far the patient may be turned" in " ".join(
        shapefit("fit", "--help").out.replace("│", "").split()
    )


def test_the_installed_commands_run():
    for program in ("shapefit", "fit-shape"):
        done = subprocess.run(
            [Path(sys.executable).parent / program, "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr


# Bad input: what is wrong -> what is said. Each makes the arguments of a command that must refuse them.


def camera_with(**change):
    def make(place, xray, model):
        content = {
            k: v for k, v in (json.loads(xray["camera"].read_text()) | change).items() if v is not None
        }
        xray["camera"].write_text(json.dumps(content))
        return fit_arguments(place, xray, model)

    return make


def image_of(array):
    def make(place, xray, model):
        xray["image"] = xray["image"].with_suffix(".npy")
        np.save(xray["image"], array)
        return fit_arguments(place, xray, model)

    return make


def fit_arguments(place, xray, model):
    return ["fit", xray["image"], "--camera", xray["camera"], "--model", model, "-o", place / "out"]


def spoiled(value):
    array = np.tile(np.linspace(0.2, 0.9, 72), (64, 1))
    array[3, 4] = value
    return array


def not_an_image(place, xray, model):
    xray["image"].write_text("hello")
    return fit_arguments(place, xray, model)


def no_such_image(place, xray, model):
    return fit_arguments(place, xray | {"image": place / "none.png"}, model)


def more_views_than_cameras(place, xray, model):
    arguments = fit_arguments(place, xray, model)
    return [*arguments[:1], xray["image"], *arguments[1:]]


def views_without_poses(place, xray, model):
    content = json.loads(xray["camera"].read_text())
    del content["world_from_camera"]
    xray["camera"].write_text(json.dumps(content))
    return ["fit", xray["image"], xray["image"], "--camera", xray["camera"], xray["camera"],
            "--model", model, "-o", place / "out"]  # fmt: skip


def no_camera_at_all(place, xray, model):
    return ["fit", xray["image"], "--model", model, "-o", place / "out"]


def mask_of_another_size(place, xray, model):
    Image.fromarray(np.ones((32, 36), dtype=np.uint8)).save(xray["mask"])
    return [*fit_arguments(place, xray, model), "--mask", xray["mask"]]


def two_masks_for_one_image(place, xray, model):
    return [*fit_arguments(place, xray, model), "--mask", xray["mask"], xray["mask"]]


def unusable_output(place, xray, model):
    (place / "taken").write_text("a file")
    return [*fit_arguments(place, xray, model)[:-1], place / "taken" / "out"]


def spoiled_model(spoil):
    def make(place, xray, model):
        copy = place / "copy.h5"
        copy.write_bytes(model.read_bytes())
        spoil(copy)
        return fit_arguments(place, xray, copy)

    return make


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_version(path):
    with h5py.File(path, "r+") as file:
        file["version/minorVersion"][()] = 7


def not_a_model(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


def no_such_model(place, xray, model):
    return fit_arguments(place, xray, "hedgehog")


def label_map_without_a_label(place, xray, model):
    maps = [small.write_label_map(place / f"{seed}.nii.gz", seed) for seed in (1, 2)]
    return ["build", *maps, "--labels", "sacrum=1", "femur=9", "-o", place / "out" / "model.h5"]


def label_that_is_no_number(place, xray, model):
    maps = [small.write_label_map(place / f"{seed}.nii.gz", seed) for seed in (1, 2)]
    return ["build", *maps, "--labels", "sacrum=one", "-o", place / "out" / "model.h5"]


def one_shape_only(place, xray, model):
    return ["build", small.write_case(place / "one", 1), "-o", place / "out" / "model.h5"]


def open_mesh(place, xray, model):
    case = small.write_case(place / "case", 1)
    mesh = small.case_surfaces(1)["sacrum"]
    write_mesh(case / "sacrum.ply", trimesh.Trimesh(mesh.vertices, mesh.faces[1:], process=False))
    return ["project", model, case, "-o", place / "out"]


def inside_out_mesh(place, xray, model):
    case = small.write_case(place / "case", 1)
    mesh = small.case_surfaces(1)["sacrum"]
    write_mesh(case / "sacrum.ply", trimesh.Trimesh(mesh.vertices, mesh.faces[:, ::-1], process=False))
    return ["project", model, case, "-o", place / "out"]


def too_many_references(place, xray, model):
    cases = [small.write_case(place / name, 1) for name in "abc"]
    return ["evaluate", cases[0], "--reference", *cases[1:], "-o", place / "out"]


def empty_result(place, xray, model):
    (place / "nothing").mkdir()
    return [
        "evaluate",
        place / "nothing",
        "--reference",
        small.write_case(place / "a", 1),
        "-o",
        place / "out",
    ]


def start_that_is_no_record(place, xray, model):
    return [*fit_arguments(place, xray, model), "--init", xray["camera"]]


def unknown_device(place, xray, model):
    return [*fit_arguments(place, xray, model), "--device", "abacus"]


SHEARED = [[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, -700], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (not_an_image, "ap_image.png is not a readable image"),
        (no_such_image, "none.png"),
        (image_of(np.zeros((0, 5))), "empty image"),
        (image_of(np.full((64, 72), 0.5)), "empty image: every pixel is 0.5"),
        (image_of(spoiled(np.nan)), "1 pixels that are NaN or infinite"),
        (image_of(spoiled(np.inf)), "1 pixels that are NaN or infinite"),
        (camera_with(height=65), "64 rows and 72 columns"),
        (camera_with(sdd=None), "has no sdd"),
        (camera_with(sdd=0), "sdd must be a positive length in mm, got 0"),
        (camera_with(sdd=-1020), "sdd must be a positive length in mm, got -1020"),
        (camera_with(frame="LAS"), "frame is 'LAS'"),
        (camera_with(world_from_camera=SHEARED), "not a rigid motion"),
        (more_views_than_cameras, "2 images but 1 camera file: give one per image.*--free-views"),
        (views_without_poses, "gives no world_from_camera.*--free-views"),
        (no_camera_at_all, "--camera"),
        (mask_of_another_size, "32 rows and 36 columns"),
        (two_masks_for_one_image, "1 image but 2 masks"),
        (unusable_output, "cannot write into .*taken"),
        (spoiled_model(cut), "cut off or damaged"),
        (spoiled_model(another_version), "version 0.7; 0.8, 0.9 and 1.x are read"),
        (spoiled_model(not_a_model), "not a shape model"),
        (spoiled_model(lambda path: path.write_text("hello")), "not an HDF5 shape model"),
        (no_such_model, "hedgehog"),
        (label_map_without_a_label, r"no label 9 \(femur\)"),
        (label_that_is_no_number, "'sacrum=one' is not STRUCTURE=LABEL"),
        (one_shape_only, "at least 2 shapes, got 1"),
        (open_mesh, "sacrum.ply is not closed: 3 boundary edges"),
        (inside_out_mesh, "sacrum.ply is inside out"),
        (too_many_references, "1 result.* but 2 references"),
        (empty_result, "holds neither fit.json nor a mesh"),
        (start_that_is_no_record, "not a record of a fit"),
        (unknown_device, "unknown device 'abacus'; expected 'cpu' or 'cuda'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_input_is_told_once_and_leaves_nothing(make, said, shapefit, model, xray, tmp_path):
    arguments = make(tmp_path, xray, model)
    before = {path for path in tmp_path.rglob("*")}
    ended = shapefit(*arguments)
    assert ended.status == 2, ended.err
    _, *told = re.split("^shapefit: error: ", ended.err, flags=re.MULTILINE)
    assert len(told) == 1 and "Traceback" not in ended.err
    assert re.search(said, told[0]), told[0]  # in the first line, or in those that name the cases
    assert {path for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("arguments", [["fit"], ["fit", "--sdd", "3"], ["hedgehog"], []], ids=str)
def test_a_command_line_that_cannot_be_read_is_bad_input(arguments, shapefit):
    assert shapefit(*arguments).status == 2


def test_a_defect_keeps_its_traceback(shapefit, model, xray, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("shapefit.jobs.fit.fit_xrays", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        shapefit(*fit_arguments(tmp_path, xray, model))
    assert not (tmp_path / "out").exists()
