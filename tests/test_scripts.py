import json
import runpy
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import Image

from shapefit.fit.solve import fit_xrays
from shapefit.image_metrics import mask_dice
from shapefit.io.mesh import read_surfaces
from shapefit.io.model import read_model
from shapefit.settings import FitSettings

SCRIPTS = Path(__file__).parents[1] / "scripts"
QUICK_FIT = shlex.split(
    "--starts 3 --finalists 1 --steps 3 3 6 --start-pixels 32 --fine-pixels 64 --accept 0"
)
QUICK_BUILD = shlex.split(
    "--vertices 500 --no-mirror --template-spacing 3 --template-rounds 0 --samples 9000 --kernel-widths 30 "
    "--kernel-steps 2 --stiffness 10 1 --stiffness-steps 1 --no-leave-one-out --workers 1 --name lumps"
)


@pytest.fixture
def run(monkeypatch, capsys):
    def call(script: str, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_a_real_xray_is_met_with_masks_and_without(data_dir):
    study = runpy.run_path(str(SCRIPTS / "study_fluoroscopy.py"))
    model = read_model("pelvis")
    view = study["load_views"](data_dir / "fluoroscopy" / "specimen_18-2800.npz", model)[12]
    bare = replace(view, mask=None)
    for seen, least in ((view, 0.93), (bare, 0.85)):
        fit = fit_xrays(model, [seen], FitSettings(rotation_range=16.0, starts=12, steps=(15, 15, 30)))
        paths = study["shadows"](model, fit, [view])[0]
        dice = mask_dice(paths > 0.5, view.mask, model.names, view.valid)
        assert fit.converged and set(dice) == {"hip_left", "hip_right"}
        assert min(dice.values()) > least


@pytest.mark.parametrize(
    "script",
    [
        "study_fluoroscopy.py",
        "study_gradients.py",
        "study_left_out.py",
        "study_model.py",
        "study_registration.py",
    ],
)
def test_each_study_says_what_it_measures(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert end.value.code == 0 and "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "script", ["fit_shape.py", "train_shape_model.py", "evaluate.py", "draw_xray.py", "demo.py"]
)
def test_each_script_says_what_it_does_and_fits_one_screen(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert end.value.code == 0
    assert "usage" in capsys.readouterr().out
    length = len((SCRIPTS / script).read_text().splitlines())
    assert length <= (120 if script == "demo.py" else 70)


def test_an_xray_is_drawn_of_a_model(run, tmp_path):
    model = small.write_small_model(tmp_path / "small.h5")
    out = run(
        "draw_xray.py", "--model", model, "-o", tmp_path / "xray.png", "--kv", "90", "--view", "lateral"
    )
    assert "of the open beam" in out
    grey = np.array(Image.open(tmp_path / "xray.png"))
    assert grey.shape == (460, 560) and grey.dtype == np.uint8 and grey.std() > 20


def test_a_shape_model_is_trained_from_label_maps(run, tmp_path):
    cases = [small.write_label_map(tmp_path / f"case{seed}.nii.gz", seed, voxel=2.0) for seed in range(3)]
    labels = [f"{name}={label}" for name, label in small.LABELS.items()]
    out = run("train_shape_model.py", *cases, "--labels", *labels, "-o", tmp_path / "lumps.h5", *QUICK_BUILD)
    model = read_model(tmp_path / "lumps.h5")
    assert (model.names, model.labels) == (tuple(small.LABELS), (1, 2, 3))
    assert model.cases == ("case0", "case1", "case2")
    assert "from 3 shapes" in out
    # the surfaces of the mean have the size of the cases, about the model's own origin
    for name, mesh in model.surfaces(model.mean).items():
        sizes = [small.case_surfaces(seed)[name].volume for seed in range(3)]
        assert mesh.is_watertight and 0.85 * min(sizes) < mesh.volume < 1.15 * max(sizes)


def test_a_bone_is_fitted_to_two_xrays(run, tmp_path):
    model = small.write_small_model(tmp_path / "small.h5")
    first = small.write_xray(tmp_path, name="first")
    second = small.write_xray(tmp_path, name="second")
    cameras = ("--cameras", first["camera"], second["camera"])
    out = run(
        "fit_shape.py", first["image"], second["image"], *cameras, "--model", model,
        "-o", tmp_path / "out", *QUICK_FIT,
    )  # fmt: skip
    assert set(read_surfaces(tmp_path / "out")) == set(small.LABELS)
    assert {path.name for path in (tmp_path / "out").glob("*.tif")} == {
        "first_image_paths.tif",
        "second_image_paths.tif",
    }
    assert "largest coefficients" in out


def test_results_are_measured_against_references(run, tmp_path):
    results = [small.write_case(tmp_path / f"result{seed}", seed) for seed in (1, 2)]
    references = [small.write_case(tmp_path / f"reference{seed}", seed) for seed in (1, 3)]
    arguments = (*results, "--references", *references, "-o", tmp_path / "out", "--samples", 2000)
    out = run("evaluate.py", *arguments)
    table = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert table["cases"] == 2 and table["failures"] == []
    same, other = (record["metrics"]["absolute"]["all"]["assd"] for record in table["records"])
    assert same < 0.01 < other
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert "similarity" in out


def test_the_demo_simulates_fits_and_reports(run, tmp_path):
    model = small.write_small_model(tmp_path / "small.h5")
    out = run("demo.py", "--model", model, "--output", tmp_path / "demo", *QUICK_FIT)
    made = {
        str(path.relative_to(tmp_path / "demo")) for path in (tmp_path / "demo").rglob("*") if path.is_file()
    }
    assert {"report.html", "fit.json", "overlay_0.png", "input/xray.png", "input/camera.json"} <= made
    assert {"sacrum.ply", "input/truth/sacrum.ply"} <= made
    assert out.rstrip().endswith("report.html")
    assert "The X-ray is simulated" in out
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "cannot be reached exactly" in page and "mean shape at the same pose" in page
    numbers = {
        line[:40].strip(): float(line[40:48])
        for line in out.splitlines()
        if line[48:56].strip()[:1].isdigit()
    }
    # a smooth deformation lies outside the model: even the best of it does not reach the truth
    assert 0.02 < numbers["the model fitted to the true surface"] < numbers["mean shape at the same pose"]
