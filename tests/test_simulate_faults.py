"""Whatever breaks on the way, a simulation leaves the same shards, and what is finished is never lost."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shapefit.io.model import write_model
from shapefit.jobs import code
from shapefit.jobs.simulate import simulate_job
from shapefit.scene.shards import ShardSet, shard_file
from shapefit.scene.simulate import simulate_sample
from shapefit.settings import ShardSettings, SimulateSettings
from shapefit.workers import Workers
from tests.small import small_model

QUICK = SimulateSettings(pixels=16, faces=100, neighbours=0.5)
SHARDS = ShardSettings(shard_size=3, workers=1)
COUNT = 10  # three full shards, and one of a single sample


@pytest.fixture(autouse=True, scope="module")
def unchanging_code():
    with pytest.MonkeyPatch.context() as patch:  # the killed process and this one are of the same code
        patch.setattr("shapefit.jobs.simulate.code_digest", lambda *modules: "as it is")
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.h5"
    write_model(path, small_model(4))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    manifest = simulate_job(model, folder, COUNT, QUICK, SHARDS)
    assert [shard["samples"] for shard in manifest["shards"]] == [3, 3, 3, 1]
    return content(folder)


@pytest.fixture(scope="module")
def two():
    with Workers(2) as pool:
        yield pool


def finished(model: Path, folder: Path, undisturbed: dict[str, bytes], shards: ShardSettings = SHARDS) -> int:
    """Let a simulation go on to its end; returns how many samples were made."""
    manifest = simulate_job(model, folder, COUNT, QUICK, shards)
    assert content(folder) == undisturbed
    assert {path.name for path in folder.iterdir()} == {*undisturbed, "manifest.json", "model.h5"}
    assert len(ShardSet(folder)) == COUNT
    return manifest["throughput"]["samples"]


def stop_at(where: float):
    def progress(what: str, fraction: float) -> None:
        if fraction >= where:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_simulation_goes_on_to_the_same_shards(model, undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        simulate_job(model, tmp_path, COUNT, QUICK, SHARDS, progress=stop_at(0.5))
    with pytest.raises(ValueError, match="holds 6 of 10 simulated X-rays"):
        ShardSet(tmp_path)
    assert len(ShardSet(tmp_path, unfinished=True)) == 6
    assert finished(model, tmp_path, undisturbed) == 4
    assert finished(model, tmp_path, undisturbed) == 0


KILLED = """
import os, signal, sys
from pathlib import Path
import shapefit.jobs.simulate
from shapefit.scene import simulate_shard
from tests.test_simulate_faults import COUNT, QUICK, SHARDS

shapefit.jobs.simulate.code_digest = lambda *modules: "as it is"
simulate = simulate_shard.simulate_sample

def deadly(stage, index, settings):
    if index == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return simulate(stage, index, settings)

simulate_shard.simulate_sample = deadly
shapefit.jobs.simulate.simulate_job(Path(sys.argv[1]), Path(sys.argv[2]), COUNT, QUICK, SHARDS)
"""


def test_a_run_that_is_killed_within_a_shard_goes_on_to_the_same_shards(model, undisturbed, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, model, tmp_path], cwd=Path(__file__).parents[1], timeout=300
    )
    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".partial-*-shard-000002.tar"))  # what it had begun
    assert finished(model, tmp_path, undisturbed) == 4


def test_a_killed_worker_changes_nothing(model, undisturbed, tmp_path, two):
    killed = []

    def progress(what: str, fraction: float) -> None:
        if not killed:
            killed.extend(two.client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    manifest = simulate_job(model, tmp_path, COUNT, QUICK, replace(SHARDS, workers=2), progress=progress)
    assert killed and content(tmp_path) == undisturbed
    assert manifest["complete"] and not list(tmp_path.glob(".partial-*"))


def test_a_cluster_makes_the_same_shards(model, undisturbed, tmp_path, two):
    cluster = replace(SHARDS, cluster=two.client.cluster.scheduler_address)
    assert finished(model, tmp_path, undisturbed, cluster) == COUNT


def test_a_full_disk_is_told_and_loses_nothing(model, undisturbed, tmp_path, monkeypatch):
    def full(stage, index, settings):
        if index == 7:
            raise OSError(28, "No space left on device")
        return simulate_sample(stage, index, settings)

    with monkeypatch.context() as patch:
        patch.setattr("shapefit.scene.simulate_shard.simulate_sample", full)
        with pytest.raises(OSError, match=r"2 of 4 shards are finished and stay.*No space left.*make room"):
            simulate_job(model, tmp_path, COUNT, QUICK, SHARDS)
    assert set(content(tmp_path)) == {f"shard-00000{n}.{kind}" for n in range(2) for kind in ("tar", "json")}
    assert not list(tmp_path.glob(".*"))
    assert finished(model, tmp_path, undisturbed) == 4


def test_damaged_and_lost_shards_are_made_again(model, undisturbed, tmp_path):
    simulate_job(model, tmp_path, COUNT, QUICK, SHARDS)
    damaged = bytearray(undisturbed[shard_file(0)])
    damaged[1000] ^= 1
    (tmp_path / shard_file(0)).write_bytes(damaged)
    (tmp_path / shard_file(3)).unlink()
    assert finished(model, tmp_path, undisturbed) == 4


def test_a_set_grows_by_what_is_missing_and_does_not_shrink(model, undisturbed, tmp_path):
    simulate_job(model, tmp_path, 5, QUICK, SHARDS)
    assert finished(model, tmp_path, undisturbed) == 7  # the second shard had two samples, not three
    with pytest.raises(ValueError, match="10 X-rays already, more than 5"):
        simulate_job(model, tmp_path, 5, QUICK, SHARDS)


def test_what_was_simulated_otherwise_is_refused_until_it_may_go(model, undisturbed, tmp_path):
    simulate_job(model, tmp_path, 3, replace(QUICK, seed=1, empty=0.5), SHARDS)
    with pytest.raises(ValueError, match=r"seed 1, now 0; empty 0\.5, now 0\.04"):
        simulate_job(model, tmp_path, COUNT, QUICK, SHARDS)
    with pytest.raises(ValueError, match="3 samples in a shard, now 5"):
        simulate_job(model, tmp_path, COUNT, QUICK, replace(SHARDS, shard_size=5))
    other = tmp_path / "other.h5"
    write_model(other, small_model(5))
    with pytest.raises(ValueError, match=r"now of .*other\.h5, which differs"):
        simulate_job(other, tmp_path, 3, replace(QUICK, seed=1, empty=0.5), SHARDS)
    other.unlink()
    simulate_job(model, tmp_path, COUNT, QUICK, SHARDS, fresh=True)
    assert finished(model, tmp_path, undisturbed) == 0


def test_other_code_does_not_go_on_with_a_set(model, tmp_path, monkeypatch):
    simulate_job(model, tmp_path, 1, QUICK, SHARDS)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"code": "another"}))
    with pytest.raises(ValueError, match="by other code"):
        simulate_job(model, tmp_path, 1, QUICK, SHARDS)
    path.write_text(json.dumps(manifest | {"versions": manifest["versions"] | {"torch": "1.0"}}))
    with pytest.raises(ValueError, match=r"torch 1\.0, now"):
        simulate_job(model, tmp_path, 1, QUICK, SHARDS)
    path.unlink()
    with pytest.raises(ValueError, match="unknown origin"):
        simulate_job(model, tmp_path, 1, QUICK, SHARDS)


def test_two_runs_do_not_share_a_folder(model, tmp_path):
    with (tmp_path / ".simulating").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is simulating"):
            simulate_job(model, tmp_path, 1, QUICK, SHARDS)


def test_a_digest_is_of_the_code_and_of_all_that_it_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "pack")
    (tmp_path / "pack" / "deep").mkdir(parents=True)
    files = {
        "top.py": "from pack.deep.low import f\nfrom pack.settings import N\n",
        "deep/low.py": '"""Words."""\ndef f():\n    """More words."""\n    return 1\n',
        "deep/__init__.py": "",
        "settings.py": "N = 1\n",
        "other.py": "",
    }

    def digest(**changed: str) -> str:
        for name, text in files.items():
            (tmp_path / "pack" / name).write_text(changed.get(Path(name).stem, text))
        return code.code_digest.__wrapped__("top")

    plain = digest()
    assert digest(low="def f():\n    # said otherwise\n    return (1)\n") == plain
    assert digest(settings="N = 2\n", other="x = 1\n") == plain
    assert digest(low="def f():\n    return 2\n") != plain
    assert digest(top="from pack.deep.low import f\n\nf()\n") != plain
