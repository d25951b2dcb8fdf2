import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import shapefit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def test_importing_the_package_is_quick_because_torch_waits():
    done = python("-c", "import shapefit, sys; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_help_needs_no_torch():
    code = (
        "import sys; sys.argv = ['shapefit', 'fit', '--help']\n"
        "from shapefit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print('status', end.code, 'torch' in sys.modules)"
    )
    assert "status 0 False" in python("-c", code).stdout


@pytest.mark.parametrize("name", shapefit.__all__)
def test_every_public_name_is_there(name):
    assert getattr(shapefit, name) is not None
    assert name in dir(shapefit)


def test_type_checkers_and_readers_see_the_same_public_names():
    source = (ROOT / "shapefit" / "__init__.py").read_text()
    seen = {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shapefit.")
        for alias in node.names
    }
    assert seen == {(module, name) for name, module in shapefit._MODULE.items()}


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        shapefit.nonsense  # noqa: B018


def test_one_version_is_told_everywhere():
    assert shapefit.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{line} is not a plain version"
            pinned[name.lower().replace("_", "-")] = version
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    for requirement in wanted:
        name, lowest = re.match(r"([a-z0-9-]+)>=([0-9.]+)(?:;|$)", requirement).groups()
        numbers = [tuple(map(int, re.findall(r"\d+", v)[:3])) for v in (pinned[name], lowest)]
        assert numbers[0] >= numbers[1], requirement


def test_the_wheel_carries_the_model_and_its_card(tmp_path):
    pytest.importorskip("hatchling")
    if not (ROOT / "models" / "pelvis").is_dir():
        pytest.skip("models/pelvis has not been built here")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    carried = [name for name in names if name.startswith("shapefit/models/pelvis/")]
    assert any(name.endswith(".h5") for name in carried)
    assert any(name.endswith(".card.json") for name in carried)
    own = {"cli/__init__.py", "report/page.css", "report/page.js", "tube_spectra.csv"}
    assert {f"shapefit/{name}" for name in own} <= set(names)
    assert wheel.stat().st_size < 20_000_000
    # and finds it by name, away from the repository
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    found = subprocess.run(
        [sys.executable, "-c", "from shapefit.io.model import model_path; print(model_path('pelvis'))"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "site" / "shapefit" / "models" / "pelvis" / "pelvis.h5")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_what_is_missing_where_there_is_no_python(tmp_path):
    done = subprocess.run(
        ["make", "install", f"VENV={tmp_path / 'env'}", "PYTHON=/nowhere/python"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no Python >= 3.11 with venv found (tried /nowhere/python)" in done.stderr
    assert not (tmp_path / "env").exists()


def test_the_check_that_guards_changes_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert script.read_text().rstrip().endswith("make test")
