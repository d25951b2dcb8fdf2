"""The study of scene networks, with an oracle in the network's place: what it sees is rendered."""

import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch
import trimesh

from shapefit import se3
from shapefit.camera import Camera
from shapefit.io.model import write_model
from shapefit.io.scene import read_scene, write_scene
from shapefit.metrics import compare
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.locate import Look, locate_looks, template_surface
from shapefit.scene.network import SceneNetwork
from shapefit.scene.simulate import simulate_sample
from shapefit.settings import (
    EvaluateSettings,
    FitSettings,
    LocateSettings,
    RegisterSettings,
    SimulateSettings,
)
from shapefit.view import View

SCRIPTS = Path(__file__).parents[1] / "scripts"
SIMULATE = SimulateSettings(
    seed=9,
    pixels=48,
    deformation=0.0,
    detector=(130.0, 150.0),
    shift=(8.0, 8.0),
    turn=30.0,
    tilt=15.0,
    faces=0,
)
LOCATE = LocateSettings(modes=5, least_area=0.005)
QUICK_FIT = FitSettings(
    free_views=True, starts=3, finalists=1, steps=(3, 3, 6), start_pixels=24, fine_pixels=48, accept=0.0
)
QUICK_REGISTER = RegisterSettings(
    starts=6, finalists=(3, 2), pixels=(24, 32, 48), steps=(4, 3, 8), patch=12, rotation_range=4.0,
    translation_range=4.0,
)  # fmt: skip
OUT = ("case1", "case4")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import study_scene

    return study_scene


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """A shape model, and a network of its mesh that has learned nothing."""
    folder, model = tmp_path_factory.mktemp("scene"), small.small_model()
    few = model
    for case in OUT:
        few = few.without(case)
    write_model(folder / "small.h5", model)
    torch.manual_seed(0)
    network = SceneNetwork(few.mean, few.faces, few.names, 32, channels=(4, 4), residual_units=1)
    write_scene(folder / "small.safetensors", network)
    return {"model": str(folder / "small.h5"), "network": str(folder / "small.safetensors")}


@pytest.fixture
def oracle(study, monkeypatch):
    """Locating with the coordinates that the simulation knows, each 0.5 mm off; it may be blind to some."""
    import scene_runs

    prepared = scene_runs._known

    def remembered(*arguments):
        locate.stage = prepared(*arguments).stage
        return prepared(*arguments)

    def locate(network, model, views, settings):
        number = int(views[0].name.split()[1])
        sample = simulate_sample(locate.stage, number, study.seeds(SIMULATE, empty=False))
        rng = np.random.default_rng(number)
        entry, leaving = (
            part[None] + 0.5 * torch.from_numpy(rng.normal(size=part.shape)).float()
            for part in (sample.entry, sample.exit)
        )
        std = torch.full((1, *sample.image.shape), 0.5)
        share = sample.structures[None].float() * (number not in locate.blind)
        valid = torch.ones(sample.image.shape, dtype=torch.bool)
        look = Look(Coordinates(entry, leaving, std, std, share), sample.camera, valid, None)
        template = template_surface(network.template, network.faces, network.structures)
        return locate_looks(template, model, [look], settings)

    locate.blind = ()
    monkeypatch.setattr(scene_runs, "_known", remembered)
    monkeypatch.setattr(scene_runs, "locate_views", locate)
    return locate


def test_the_study_says_what_it_measures(study, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study_scene.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / "study_scene.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert end.value.code == 0 and "--left-out" in told and "fluoroscopy" in told


def test_a_moved_bone_is_off_by_its_motion(study):
    from scene_errors import pose_errors, shape_errors

    vertices, faces, _ = (torch.from_numpy(array) for array in small.case_vertices(3))
    camera = Camera(1000.0, 1.0, 1.0, 0.0, 0.0, 64, 64)
    truth = vertices + torch.tensor([5.0, -3.0, 700.0])
    centre = truth.mean(0)
    turn = se3.exp(torch.tensor([0.0, 0.1, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64))[:3, :3]
    shift = torch.tensor([3.0, 4.0, -12.0], dtype=torch.float64)
    errors = pose_errors((truth - centre) @ turn.T + centre + shift, truth, camera)
    assert errors["rotation_deg"] == pytest.approx(np.degrees(0.1), abs=1e-6)
    assert errors["in_plane_mm"] == pytest.approx(5.0, abs=1e-9)
    assert errors["depth_mm"] == pytest.approx(-12.0, abs=1e-9)
    assert errors["translation_mm"] == pytest.approx(13.0, abs=1e-9)
    # size is what a similarity takes away, and a rigid motion does not
    grown = shape_errors(1.1 * (truth @ turn.T), truth, faces)
    assert grown["similarity_assd_mm"] < 1e-6 < 0.5 < grown["rigid_assd_mm"] < grown["absolute_assd_mm"]


def test_surface_distances_are_those_of_an_evaluation(study):
    from scene_errors import shape_errors

    (a, faces, structure), (b, _, _) = (small.case_vertices(seed, subdivisions=3) for seed in (1, 2))
    one = faces[structure == 1]
    used, local = np.unique(one, return_inverse=True)
    bones = [trimesh.Trimesh(v[used], local.reshape(-1, 3), process=False) for v in (a, b)]
    told = shape_errors(
        *(torch.tensor(np.array(bone.vertices)) for bone in bones), torch.tensor(bones[0].faces)
    )
    settings = EvaluateSettings(samples=4000, voxel=20.0)
    for kind, figures in compare(*bones, settings)["metrics"].items():
        assert told[f"{kind}_assd_mm"] == pytest.approx(figures["all"]["assd"], rel=0.03)


def test_points_on_their_rays_have_no_error_on_the_detector(study):
    from scene_errors import pose_errors

    truth = torch.rand(50, 3, dtype=torch.float64) * 40 + torch.tensor([0.0, 0.0, 600.0])
    camera = Camera(1000.0, 0.7, 0.7, 4.0, 0.0, 64, 64)
    assert (
        pose_errors(1.05 * truth, truth, camera)["mpe_mm"]
        < 1e-9
        < 20
        < abs(pose_errors(1.05 * truth, truth, camera)["depth_mm"])
    )


def test_bands_hold_what_they_should_of_gaussian_errors(study):
    from scene_errors import calibration

    rng = np.random.default_rng(0)
    rows = [
        {
            "surprises": {
                "rotation": rng.normal(size=3),
                "translation": 2 * rng.normal(size=3),
                "coefficients": [],
            }
        }
        for _ in range(2000)
    ]
    found = calibration([*rows, {"surprises": None}])
    assert found["rotation"]["inside"] == pytest.approx([0.5, 0.8, 0.95], abs=0.02)
    assert found["rotation"]["median_over_expected"] == pytest.approx(1, abs=0.03)
    assert found["translation"]["median_over_expected"] == pytest.approx(2, abs=0.06)
    assert "coefficients" not in found


def test_runs_without_an_answer_count_in_shares_and_medians(study):
    from scene_errors import POSE, SHAPE, summary

    def one(error):
        errors = None if error is None else dict.fromkeys((*POSE, *SHAPE), error)
        return {"errors": errors, "reason": "dark"}

    runs = [one(1.0), one(2.0), one(None), one(None), one(None)]
    runs[2]["reason"], runs[3]["reason"] = "dark 0.1, below 0.2", "dark: 0.3"
    figures = summary(runs, {"rotation_deg": 1.5})
    assert (figures["answers"], figures["without_answer"], figures["within"]) == (2, 0.6, 0.2)
    assert figures["measures"]["rotation_deg"]["mean"] == 1.5
    assert figures["measures"]["rotation_deg"]["median"] is None  # infinitely far off
    assert figures["reasons"] == {"dark": 3}


def test_bones_left_out_are_located_and_the_study_goes_on(study, files, oracle, tmp_path, capsys):
    oracle.blind = (3,)
    amount = study.Study(runs=6, empty=0, left_out=OUT)

    def call(amount) -> dict:
        study.main("simulated", output=tmp_path, study=amount, simulate=SIMULATE, locate=LOCATE, **files)
        return json.loads((tmp_path / "scene.json").read_text())

    result = call(amount)
    assert set(result["bones"]) == {"case1", "case4"}
    located = result["located"]
    assert (located["runs"], located["answers"], located["reasons"]) == (6, 5, {located_reason(located): 1})
    assert located["measures"]["rotation_deg"]["largest"] < 2
    assert located["measures"]["in_plane_mm"]["largest"] < 1
    assert located["measures"]["similarity_assd_mm"]["mean"] < result["references"]["mean_shape"]
    assert result["references"]["models_best"] < result["references"]["mean_shape"]
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 7
    # cut off in the middle of a line: that run is done again, the others are not
    (tmp_path / "runs.jsonl").write_text("\n".join(lines)[:-40])
    assert call(amount)["located"] == located
    again = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert again[:6] == lines[:6] and json.loads(again[6])["number"] == 5
    assert "without an answer" in capsys.readouterr().out
    text = (tmp_path / "scene.md").read_text()
    assert re.search(r"Without an answer: 16.7 %: 1 no \w+", text)
    with pytest.raises(SystemExit, match="another study"):
        study.main("simulated", output=tmp_path, study=amount, simulate=replace(SIMULATE, seed=1), **files)


def test_a_network_that_may_have_seen_the_bones_is_refused(study, files, tmp_path):
    for subjects, told in ((("case1",), "trained on other bones"), ((), "name the subjects")):
        with pytest.raises(SystemExit, match=told):
            study.main("simulated", output=tmp_path, study=study.Study(left_out=subjects), **files)
    assert not (tmp_path / "runs.jsonl").exists()


def located_reason(located: dict) -> str:
    (reason,) = located["reasons"]
    assert reason.startswith("no ")
    return reason


def test_a_network_that_knows_nothing_gives_no_wrong_answers_a_number(study, files, tmp_path):
    amount = study.Study(runs=4, empty=2, left_out=OUT)
    study.main("simulated", output=tmp_path, study=amount, simulate=SIMULATE, locate=LOCATE, **files)
    result = json.loads((tmp_path / "scene.json").read_text())
    assert result["located"]["runs"] == 4 and result["empty"]["runs"] == 2
    assert result["located"]["answers"] == 0 and result["located"]["within"] == 0


def test_fits_that_start_from_what_was_located_are_measured(study, files, oracle, tmp_path):
    amount = study.Study(runs=2, left_out=OUT)
    study.main(
        "refined", output=tmp_path, study=amount, simulate=SIMULATE, locate=LOCATE, fit=QUICK_FIT, **files
    )
    refined = json.loads((tmp_path / "scene.json").read_text())["refined"]
    assert refined["answers"] == 2 and refined["started_from_prior"] == 0
    assert refined["capture_failures"] == 0
    assert (tmp_path / "scene.md").read_text().count("##") >= 2


def test_real_views_are_judged_stage_by_stage_and_in_halves(study):
    import scene_fluoroscopy as real

    def one(number: int, located: float | None, fitted: float) -> dict:
        dice = {
            "network": {"hip_left": 0.9, "hip_right": 0.8},
            "fitted": {"hip_left": fitted, "hip_right": fitted},
        }
        dice |= {} if located is None else {"located": {"hip_left": located, "hip_right": located}}
        return {
            "view": f"view_{number}",
            "found": located is not None,
            "start": {"kind": "prior"},
            "converged": fitted > 0.8,
            "dice": dice,
        }

    records = [one(0, 0.8, 0.9), one(1, None, 0.5), one(2, 0.75, 0.95), one(3, 0.6, 0.85)]
    figures = real.half(records)
    assert figures["network"]["median"] == pytest.approx(0.85)
    assert figures["network"]["sides"] == {"hip_left": 0.9, "hip_right": 0.8}
    assert figures["located"]["median"] == pytest.approx((0.6 + 0.75) / 2)  # view_1 counts as 0
    assert figures["located"]["below_0.7"] == ["view_1", "view_3"]
    assert (figures["fitted"]["least"], figures["fitted"]["below_0.7"]) == (0.5, ["view_1"])
    assert figures["not_located"] == figures["fit_not_converged"] == ["view_1"]
    text = real.table({"halves": {"all": figures, "even": real.half(records[::2])}})
    assert "| even, 2 | fitted | 0.925 | 0.900 | 0 |" in text and "view_1" in text
    only_located = real.half([record | {"start": None} for record in records])
    assert "fitted" not in only_located and only_located["located"] == figures["located"]


def test_a_real_view_goes_through_all_stages(study, files, oracle, monkeypatch, tmp_path):
    import scene_fluoroscopy as real
    import scene_runs

    bones = small.small_model()
    network = read_scene(files["network"])
    known = scene_runs.left_out(network, bones, OUT, SIMULATE)
    sample = simulate_sample(known.stage, 0, study.seeds(SIMULATE, empty=False))
    labels = torch.zeros(sample.image.shape, dtype=torch.uint8)
    for number, hit in enumerate(sample.structures):
        labels[hit] = number + 1
    view = View(sample.image.float(), sample.camera, mask=labels, name="sample 0")
    monkeypatch.setattr(real, "locate_views", oracle)
    record = real.one_view(network, known.model, view, LOCATE, QUICK_FIT, "auto", tmp_path)
    assert record["found"] and set(record["dice"]) == set(real.STAGES)
    assert min(record["dice"]["network"].values()) > 0.8  # the last drawn bone hides the others' shadows
    assert np.mean(list(record["dice"]["located"].values())) > 0.7
    assert len(list(tmp_path.rglob("*.png"))) >= 2
    oracle.blind = (0,)
    blind = real.one_view(network, known.model, view, LOCATE, QUICK_FIT, "scene", tmp_path)
    assert not blind["found"] and set(blind["dice"]) == {"network"} and blind["start"] is None


@pytest.fixture
def one_bone(tmp_path) -> dict[str, str]:
    """A model without modes and a network of its mesh."""
    model = small.small_model().truncate(0)
    write_model(tmp_path / "one.h5", model)
    network = SceneNetwork(model.mean, model.faces, model.names, 32, channels=(4, 4), residual_units=1)
    write_scene(tmp_path / "one.safetensors", network)
    return {"model": str(tmp_path / "one.h5"), "network": str(tmp_path / "one.safetensors")}


def test_the_one_bone_that_is_known_is_located(study, one_bone, oracle, tmp_path):
    study.main(
        "specific", output=tmp_path, study=study.Study(runs=4, empty=0), simulate=SIMULATE, locate=LOCATE,
        **one_bone,
    )  # fmt: skip
    result = json.loads((tmp_path / "scene.json").read_text())
    assert result["located"]["within"] == 1.0
    assert result["located"]["measures"]["similarity_assd_mm"]["largest"] < 1e-6
    assert result["references"] == {
        "mean_shape": pytest.approx(0, abs=1e-9),
        "models_best": pytest.approx(0, abs=1e-9),
    }


@pytest.mark.parametrize("init", ["scene", "auto"])
def test_registrations_that_start_from_what_was_located_are_measured(study, one_bone, oracle, init, tmp_path):
    oracle.blind = (1,)
    study.main(
        "registered", output=tmp_path, study=study.Study(runs=3), simulate=SIMULATE, locate=LOCATE,
        register=QUICK_REGISTER, init=init, **one_bone,
    )  # fmt: skip
    refined = json.loads((tmp_path / "scene.json").read_text())["refined"]
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()[1:]
    kinds = [json.loads(line)["refined"]["start"] for line in lines]
    if init == "scene":
        assert kinds == ["scene", "none", "scene"] and refined["answers"] == 2
        assert refined["measures"]["in_plane_mm"]["largest"] < 5  # of balls the turn is hardly seen
        assert refined["capture_failures"] >= 1 / 3
    else:
        assert kinds[1] == "prior" and refined["answers"] == 3
    assert refined["measures"]["similarity_assd_mm"]["largest"] < 1e-6
    believed = json.loads((tmp_path / "scene.json").read_text())["believed"]
    good = [json.loads(line)["refined"]["converged"] for line in lines]
    assert (believed["runs"], believed["answers"]) == (3, sum(good))
    assert "## Refined and believed: 3 X-rays" in (tmp_path / "scene.md").read_text()
