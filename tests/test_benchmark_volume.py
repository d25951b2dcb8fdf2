import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import simpson

from shapefit.render import render_volume
from shapefit.volume import Volume

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def scenes(scripts):
    import volume_scenes

    return volume_scenes


def test_the_benchmark_runs_without_its_peers(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark_volume.py", "--quick", "--threads", "1", "-o", tmp_path,
         "--counts", "16", "--sizes", "12", "--renderers", "siddon", "trilinear", "nanodrr"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(SCRIPTS.parent)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "benchmark.json").read_text())
    report = (tmp_path / "benchmark_volume.md").read_text()
    assert report in done.stdout and "at most 4 minutes" in done.stdout
    ours = [c for c in result["cells"] if c["name"] != "nanodrr"]
    assert len(ours) == 6 and all(c["seconds"] > 0 for c in ours)
    assert all(off < 1e-6 for off in result["siddon"].values()) and len(result["siddon"]) == 2
    for name in ("siddon", "trilinear"):
        quotients = result["differences"][name]
        assert np.allclose(quotients["gradient"], quotients["exact"], rtol=2e-3)
        assert result["looked"][name]["smooth"]["max"] < 0.3
    if result["absent"]:  # a peer that is absent is listed with the reason
        assert "- nanodrr, 500: not installed" in report
    pytest.importorskip("matplotlib")
    assert (tmp_path / "benchmark_volume.png").stat().st_size > 10_000


@pytest.mark.parametrize("power", [0, 3])
def test_the_bodies_integrals_are_those_of_quadrature(scenes, power):
    body, seen, at = scenes.body(power), scenes.camera(24), scenes.pose(scenes.still(), 1)
    source, direction = scenes.rays(at, seen)
    image = scenes.integrals(body, at, seen)
    depth = np.linspace(550, 850, 60_001)  # mm
    for i, j in ((11, 12), (8, 15), (14, 9)):
        place = source.numpy() + depth[:, None] * direction[i, j].numpy()
        density = np.zeros(len(depth))
        for centre, axes, turn, rho in zip(*(part.numpy() for part in body[:4]), strict=True):
            r2 = ((((place - centre) @ turn) / axes) ** 2).sum(-1)
            density += np.where(r2 < 1, rho * np.maximum(1 - r2, 0) ** power, 0)
        known = simpson(density, x=depth) * float(direction[i, j].norm())
        assert image[i, j] > 0.5 and abs(float(image[i, j]) - known) < (1e-4 if power == 0 else 1e-10) * known


def test_a_bodys_derivative_is_that_of_differences(scenes):
    body, seen, weight = scenes.body(scenes.SMOOTH), scenes.camera(32), scenes.weight(32)

    def mean(twist):
        return (scenes.integrals(body, scenes.pose(twist), seen) * weight).sum()

    twist = scenes.still().requires_grad_()
    slope = torch.autograd.grad(mean(twist), twist)[0]
    for k in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[k] = 1e-5
        quotient = (mean(step) - mean(-step)) / 2e-5
        assert abs(float(quotient - slope[k])) < 1e-5 * float(slope[k // 3 * 3 : k // 3 * 3 + 3].norm())


def test_voxels_near_a_body_as_they_shrink(scenes):
    """Trilinear pictures of a smooth body come nearer by the square of the voxel."""
    seen, at = scenes.camera(24), scenes.pose(scenes.still())
    exact, off = scenes.integrals(scenes.body(scenes.SMOOTH), at, seen), []
    for count in (24, 48, 96):
        volume = Volume(scenes.voxels(scenes.body(scenes.SMOOTH), count), scenes.world_from_voxel(count))
        image = render_volume(volume, at[None], seen)[0, 0]
        off.append(float((image - exact).abs().max() / exact.max()))
    assert off[2] < 0.3 * off[1] < 0.12 * off[0] and off[2] < 0.01


def test_voxels_across_a_sharp_edge_hold_their_share_of_the_body(scenes):
    grid = scenes.voxels(scenes.body(scenes.SHARP), 48).double().sum() * (scenes.SIDE / 48) ** 3
    body = scenes.body(scenes.SHARP)
    mass = (body.density * body.axes.prod(-1)).sum() * 4 / 3 * np.pi
    assert abs(float(grid / mass) - 1) < 5e-4


def test_siddon_of_the_benchmark_adds_up_the_pieces_of_a_ray(scenes):
    data = np.arange(1, 9, dtype=np.float64).reshape(2, 2, 2)
    along = scenes.siddon(data, np.eye(4), np.array([-5.0, 0.1, 0.9]), np.array([[1.0, 0, 0], [2.0, 0, 0]]))
    assert np.allclose(along, data[0, 0, 1] + data[1, 0, 1])
    slanted = scenes.siddon(data, np.eye(4), np.array([-1.0, -1.0, 0.0]), np.array([[1.0, 1.0, 0.0]]))
    assert np.allclose(slanted, np.sqrt(2) * (data[0, 0, 0] + data[1, 1, 0]))
    assert scenes.siddon(data, np.eye(4), np.array([3.0, 0, 0]), np.array([[1.0, 0.1, 0.1]])) == 0


def test_a_measurement_that_would_last_or_grow_too_much_is_not_made(scripts):
    import time

    from volume_asking import Asked, expected

    def cell(size, seconds=None, beyond=1000, **more):
        about = {"name": "diffdrr_siddon", "count": 64, "size": size, "mode": "forward", "beyond": beyond}
        return about | {"rounds": [[seconds]] if seconds else []} | more

    cells = [cell(100, 2.0), cell(200), cell(200, count=128)]
    assert expected(cells[0], [cells[0]]) == (2.0, 1000)
    assert expected(cells[1], cells) == (8.0, 4000)
    assert expected(cells[2], cells) == (16.0, 8000)  # twice the planes
    cells[0] = cell(100, skipped="out of memory")
    assert expected(cells[1], cells) == (float("inf"),) * 2
    asked = Asked({}, time.perf_counter() + 100, 10.0)
    assert asked.refuses((8.0, 4000)) is None
    assert asked.refuses((16.0, 8000)) == "too long"
    assert asked.refuses((1.0, 1e15)) == "1000000 GB expected"
    assert asked.refuses(expected(cells[1], cells)) == "a smaller one failed"
    assert Asked({}, time.perf_counter() + 1, 10.0).refuses((8.0, 4000)) == "no time left"


def test_ratios_say_when_a_peer_was_not_run(scripts):
    from volume_report import deviations, ratio

    def cell(name, size, seconds, **more):
        return {"name": name, "count": 64, "size": size, "mode": "forward", "seconds": seconds} | more

    result = {
        "cells": [
            cell("trilinear", 100, 0.5), cell("nanodrr", 100, 5.0), cell("trilinear", 200, 2.0),
            cell("nanodrr", 200, None, expected=22.0), cell("trilinear", 400, None, expected=4.0),
        ]
    }  # fmt: skip
    said = [ratio(result, "trilinear", "nanodrr", 64, size, "forward") for size in (100, 200, 400, 800)]
    assert said == ["10", "(11)", "", ""]
    parts = deviations([1.1, 2, 2, 4, 0, -0.5], [1, 2, 2, 4, 0.5, -1])
    assert np.allclose(parts, [0.1, 0, 0, 0.1 / 3, 0, 1, 0.5, np.sqrt(0.5 / 17.25)])
