"""Whatever breaks on the way, a build gives the same model, or says all that is wrong and keeps its work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from shapefit.io.kept_case import read_cases
from shapefit.io.pieces import Pieces, fingerprint
from shapefit.jobs import build_job
from shapefit.jobs.build import work_folder
from shapefit.settings import BuildSettings, MeshSettings, SurfaceSettings
from shapefit.workers import Workers
from tests.small import case_surfaces

QUICK = BuildSettings(
    vertices=240,
    mirror=False,
    samples=500,
    template_spacing=4.0,
    template_rounds=1,
    kernel_widths=(25.0,),
    kernel_steps=2,
    stiffness=(3.0, 0.5),
    stiffness_steps=1,
    leave_one_out=False,
    workers=1,
)
LABELS = {"hip_left": 2, "hip_right": 3}


@pytest.fixture(autouse=True, scope="module")
def unchanging_code():
    with pytest.MonkeyPatch.context() as patch:  # the killed process and this one take the same pieces
        patch.setattr("shapefit.io.pieces._code", lambda: b"as it is")
        yield


def write_bones(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    for name, mesh in case_surfaces(seed, subdivisions=2).items():
        if name in LABELS:
            mesh.export(folder / f"{name}.ply")
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    place = tmp_path_factory.mktemp("cases")
    return [write_bones(place / f"c{seed}", seed) for seed in range(3)]


def built(cases, output: Path, settings: BuildSettings = QUICK, progress=None, fresh: bool = False) -> dict:
    build_job(cases, LABELS, output, settings, progress=progress, fresh=fresh)
    assert not work_folder(output).exists()
    return json.loads(output.with_suffix(".card.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(cases, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "model.h5"
    card = built(cases, output)
    assert card["pieces"]["taken_over"] == 0
    return output.read_bytes()


@pytest.fixture(scope="module")
def two():
    with Workers(2) as pool:
        yield pool


def stop_at(where: float):
    def progress(what: str, fraction: float) -> None:
        if fraction >= where:
            raise KeyboardInterrupt

    return progress


def interrupted(cases, output: Path, where: float = 0.7, settings: BuildSettings = QUICK) -> int:
    """A build that is stopped; returns how many pieces it leaves."""
    with pytest.raises(KeyboardInterrupt):
        built(cases, output, settings, stop_at(where))
    assert not output.exists()
    return len(list(work_folder(output).glob("*.npz")))


@pytest.mark.parametrize("where", [0.12, 0.35])
def test_an_interrupted_build_goes_on_to_the_same_model_bit_for_bit(cases, undisturbed, tmp_path, where):
    output = tmp_path / "model.h5"
    left = interrupted(cases, output, where)
    card = built(cases, output)
    assert output.read_bytes() == undisturbed
    assert 0 < card["pieces"]["taken_over"] <= left


KILLED = """
import os, signal, sys
from pathlib import Path
import shapefit.io.pieces
from shapefit.jobs import build_job
from tests.test_build_faults import LABELS, QUICK

shapefit.io.pieces._code = lambda: b"as it is"

def progress(what, fraction):
    if fraction > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

build_job([Path(case) for case in sys.argv[2:]], LABELS, Path(sys.argv[1]), QUICK, progress=progress)
"""


def test_a_killed_build_goes_on_to_the_same_model_bit_for_bit(cases, undisturbed, tmp_path):
    output = tmp_path / "model.h5"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, output, *cases], cwd=Path(__file__).parents[1], timeout=300
    )
    assert ended.returncode == -signal.SIGKILL
    assert not output.exists()
    card = built(cases, output)
    assert output.read_bytes() == undisturbed
    assert card["pieces"]["taken_over"] > 10


def test_a_killed_worker_changes_nothing(cases, undisturbed, tmp_path, two):
    killed = []

    def progress(what: str, fraction: float) -> None:
        if fraction > 0.4 and not killed:
            killed.extend(two.client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    output = tmp_path / "model.h5"
    card = built(cases, output, replace(QUICK, workers=2), progress)
    assert killed and output.read_bytes() == undisturbed
    assert card["peak_memory_gib"] > 0.2


def test_a_cluster_builds_the_same_model(cases, undisturbed, tmp_path, two):
    output = tmp_path / "model.h5"
    built(cases, output, replace(QUICK, cluster=two.client.cluster.scheduler_address))
    assert output.read_bytes() == undisturbed


def test_a_changed_setting_leaves_what_does_not_depend_on_it(cases, undisturbed, tmp_path):
    output, fresh = tmp_path / "model.h5", tmp_path / "fresh.h5"
    left = interrupted(cases, output)
    changed = replace(QUICK, stiffness=(3.0, 1.0))
    card = built(cases, output, changed)
    built(cases, fresh, changed)
    assert output.read_bytes() == fresh.read_bytes() != undisturbed
    assert card["pieces"]["made"] == 6  # two hips of three cases are laid again, and nothing else
    assert left > 20


def test_settings_that_do_not_bear_on_registration_cost_nothing(cases, tmp_path):
    output = tmp_path / "model.h5"
    interrupted(cases, output)
    assert built(cases, output, replace(QUICK, name="other", modes=1))["pieces"]["made"] == 0


def test_a_changed_case_is_read_again_and_the_others_are_not(cases, tmp_path):
    own = [Path(shutil.copytree(case, tmp_path / case.name)) for case in cases]
    output, fresh = tmp_path / "model.h5", tmp_path / "fresh.h5"
    interrupted(own, output, 0.12)
    mesh = trimesh.load(own[1] / "hip_left.ply", process=False)
    mesh.vertices[:, 2] *= 1.1
    mesh.export(own[1] / "hip_left.ply")
    card = built(own, output)
    assert card["pieces"]["taken_over"] == 2 + 5  # two cases, and the samples of five bones of six
    built(own, fresh)
    assert output.read_bytes() == fresh.read_bytes()


def test_a_damaged_piece_is_made_again(cases, undisturbed, tmp_path):
    output = tmp_path / "model.h5"
    interrupted(cases, output)
    for number, path in enumerate(sorted(work_folder(output).glob("*.npz"))):
        content = path.read_bytes()
        if number % 3 == 0:
            path.write_bytes(content[: len(content) // 2])
        if number % 3 == 1:
            half = len(content) // 2
            path.write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    built(cases, output)
    assert output.read_bytes() == undisturbed


def test_a_fresh_build_takes_nothing_over(cases, tmp_path):
    output = tmp_path / "model.h5"
    interrupted(cases, output, 0.1)
    written = {path: path.stat().st_mtime_ns for path in work_folder(output).iterdir()}
    with pytest.raises(KeyboardInterrupt):
        built(cases, output, QUICK, stop_at(0.1), fresh=True)
    assert all(path.stat().st_mtime_ns > time for path, time in written.items())


@pytest.fixture
def with_bad(cases, tmp_path):
    """The three cases, one with an open mesh and one without a hip."""
    opened, without = (write_bones(tmp_path / name, 7) for name in ("opened", "without"))
    mesh = trimesh.load(opened / "hip_left.ply", process=False)
    mesh.update_faces(np.arange(len(mesh.faces)) > 0)
    mesh.export(opened / "hip_left.ply")
    (without / "hip_right.ply").unlink()
    return [cases[0], opened, cases[1], without, cases[2]]


def test_all_cases_that_fail_are_named_with_their_reasons_and_the_work_is_kept(with_bad, tmp_path):
    output = tmp_path / "out" / "model.h5"
    with pytest.raises(ValueError, match="2 of 5 cases failed") as caught:
        built(with_bad, output)
    told = str(caught.value)
    assert "case opened: " in told and "3 boundary edges" in told
    assert "case without: " in told and "hip_right" in told
    assert len(list(work_folder(output).glob("*.npz"))) == 3
    assert not output.exists()


def test_the_model_of_the_others_is_as_if_the_failing_had_not_been_given(with_bad, undisturbed, tmp_path):
    output = tmp_path / "model.h5"
    card = built(with_bad, output, replace(QUICK, allow_failures=True))
    assert list(card["failures"]) == ["opened", "without"]
    assert card["subjects"] == ["c0", "c1", "c2"]
    assert output.read_bytes() == undisturbed


def test_two_cases_must_be_left(with_bad, tmp_path):
    with pytest.raises(ValueError, match=r"at least 2 shapes, got 1; 2 cases failed:\n  case opened"):
        built(with_bad[:2] + with_bad[3:4], tmp_path / "model.h5", replace(QUICK, allow_failures=True))
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".h5"] == []


def test_a_case_that_cannot_be_registered_is_named_or_left_out(cases, undisturbed, tmp_path, monkeypatch):
    from shapefit import correspondence

    lay = correspondence.lay_bone

    def lay_bone(template, samples, affine, settings):
        points = samples.arrays("points")["points"]
        if np.ptp(points[:, 2]) > 100:
            raise np.linalg.LinAlgError("Singular matrix")
        return lay(template, samples, affine, settings)

    monkeypatch.setattr(correspondence, "lay_bone", lay_bone)
    tall = write_bones(tmp_path / "tall", 1)
    for path in tall.iterdir():
        mesh = trimesh.load(path, process=False)
        mesh.vertices *= 2.5
        mesh.export(path)
    output, four = tmp_path / "model.h5", [*cases, tall]
    with pytest.raises(ValueError, match="1 of 4 cases failed:\n  case tall: LinAlgError: Singular matrix"):
        built(four, output)
    card = built(four, output, replace(QUICK, allow_failures=True))
    assert list(card["failures"]) == ["tall"]
    assert card["pieces"]["taken_over"] > 0
    assert output.read_bytes() == undisturbed


def test_the_command_line_says_what_is_kept_and_what_was_left_out(with_bad, tmp_path, monkeypatch, capsys):
    from shapefit.cli import main

    output = tmp_path / "out" / "model.h5"
    settings = "--vertices 240 --samples 500 --template-spacing 4 --kernel-widths 25 --stiffness 3"
    settings += " --stiffness-steps 1 --no-mirror --no-leave-one-out --workers 1"
    command = ["shapefit", "build", *with_bad, "-o", output, *settings.split()]
    command += ["--labels", "hip_left=2", "hip_right=3"]

    def status(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", [*map(str, command), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    assert status() == 2
    assert "the same command goes on from it" in capsys.readouterr().err
    assert status("--allow-failures") == 0
    told = capsys.readouterr().err
    assert "holds 3 finished pieces" in told
    assert (
        "shapefit: opened is not in the model: " in told and "shapefit: without is not in the model" in told
    )
    assert sorted(p.name for p in output.parent.iterdir()) == ["model.card.json", "model.h5", "model.html"]


def test_fingerprints_tell_contents_apart():
    array = np.arange(6.0)
    parts = [array, array.reshape(2, 3), array.astype(np.float32), "1", 1, 1.0, True, None, {"a": 1}]
    parts += [(1, (2, 3)), (1, 2, 3), QUICK, replace(QUICK, seed=1), Path("a"), b"a"]
    assert len({fingerprint(part) for part in parts}) == len(parts)
    assert fingerprint(array) == fingerprint(array.copy())
    with pytest.raises(TypeError, match="no fingerprint is known for set"):
        fingerprint({1})


def double(number: float) -> dict:
    return {"number": np.array(2 * number)}


def test_pieces_come_in_the_order_of_the_jobs_whichever_are_there(tmp_path):
    jobs = [(float(k),) for k in range(6)]
    with Workers(1) as pool:
        list(Pieces(tmp_path).complete(pool, double, [jobs[1], jobs[4], jobs[5]]))
        pieces = Pieces(tmp_path)
        found = [float(piece.arrays()["number"]) for piece in pieces.complete(pool, double, jobs)]
    assert found == [0, 2, 4, 6, 8, 10]
    assert (pieces.taken, pieces.made) == (3, 3)


def test_kept_cases_are_in_memory_only_while_they_are_looked_at(cases, tmp_path):
    with Workers(1) as pool:
        read = list(
            read_cases(cases, "abc", LABELS, SurfaceSettings(), MeshSettings(), pool, Pieces(tmp_path))
        )
    alive = []
    for _ in range(20):
        for case, warnings in read:
            assert list(case.surfaces) == ["hip_left", "hip_right"] and warnings == {}
            alive.append(weakref.ref(case.surfaces["hip_left"]))
            assert sum(mesh() is not None for mesh in alive) <= 17
    known = case_surfaces(0, subdivisions=2)["hip_left"]
    assert np.allclose(read[0][0].surfaces["hip_left"].vertices, known.vertices, atol=1e-5)
    assert "sacrum" not in read[0][0].surfaces
