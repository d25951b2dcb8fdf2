import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from shapefit.camera import Camera, ray_lengths
from shapefit.render import render_mesh

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def scenes(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import mesh_scenes

    return mesh_scenes


def drawn(scene, backend="auto"):
    vertices, faces, pose = (torch.from_numpy(array) for array in scene[:3])
    vertices.requires_grad_()
    image = render_mesh(vertices[None], faces, pose[None], scene.camera, backend=backend)[0, 0]
    (image * torch.from_numpy(scene.weight())).sum().backward()
    return image.detach().numpy(), vertices.grad.numpy()


def test_the_benchmark_runs_without_its_peers(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark_mesh.py", "--quick", "--threads", "1", "-o", tmp_path,
         "--pelvis", tmp_path / "none", "--renderers", "shapefit", "pytorch3d"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(SCRIPTS.parent)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "benchmark.json").read_text())
    report = (tmp_path / "benchmark.md").read_text()
    assert report in done.stdout and "no pelvis" in done.stdout
    ours = result["renderers"]["shapefit"]["scenes"]
    assert set(ours) == {"sphere 64", "sphere 128", "torus 64", "turn 1", "box"}
    for measured in ours.values():
        wrong = measured["errors"]
        assert wrong["above 0.1 mm"] == wrong["negative"] == 0 and wrong["max"] < 0.01
    assert all(ours[scene][key] > 0 for scene in ("sphere 64", "torus 64") for key in ("forward", "both"))
    assert ours["sphere 64"]["errors"]["gradient"] < 1e-4
    assert set(result["scaling"]) == {"faces", "pixels", "batch"} and "forward" in result["memory"]
    if "failure" in result["renderers"]["pytorch3d"]:  # a peer that is absent is listed with the reason
        assert "- PyTorch3D: not installed" in report
    pytest.importorskip("matplotlib")
    assert (tmp_path / "benchmark_mesh.png").stat().st_size > 10_000


def test_the_benchmarks_truth_is_the_reference_by_another_way(scenes):
    for scene in (scenes.sphere(2, 40), scenes.bumpy_torus(80, 20, 32)):
        exact, _, slope = scenes.truth(scene)
        image, gradient = drawn(scene, "torch")
        assert np.abs(image - exact).max() < 1e-8
        assert np.abs(gradient - slope).max() < 1e-7 * np.abs(slope).max()
    few = scenes.thinned(scene, 5)
    assert np.abs(drawn(few, "torch")[0] - exact[::5, ::5]).max() < 1e-7
    box, known = scenes.adversarial_box()
    assert np.abs(drawn(box)[0] - known).max() < 1e-9


def test_the_bumpy_torus_has_twelve_layers_and_the_renderer_gets_them_right(scenes):
    scene = scenes.bumpy_torus(320, 80, 256)
    assert len(scene.faces) == 51_200
    exact, layers, slope = scenes.truth(scene)
    assert layers.max() == 12
    image, gradient = drawn(scene)
    assert np.abs(image - exact)[layers == 12].max() < 1e-8
    assert np.abs(image - exact).max() < 1e-8
    assert np.linalg.norm(gradient - slope) < 1e-8 * np.linalg.norm(slope)


def hit_loop(vertices, faces, source, directions, step):
    """The usual recipe: find the nearest hit, add its signed depth, go on `step` beyond it. Float64."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    paths = []
    for d in directions:
        slope = normal @ d
        t = ((a - source) * normal).sum(-1) / slope
        hit = source + t[:, None] * d
        inside = [((np.cross(q - p, hit - p) * normal).sum(-1) >= 0) for p, q in ((a, b), (b, c), (c, a))]
        t = np.where(np.all(inside, 0), t, np.inf)
        at, total = 0.0, 0.0
        for _ in range(2 * len(faces)):
            ahead = np.where(t > at, t, np.inf)
            face = ahead.argmin()
            if np.isinf(ahead[face]):
                break
            total += np.sign(slope[face]) * t[face]
            at = t[face] + step
        paths.append(total)
    return np.array(paths)


def test_a_loop_that_steps_past_its_hits_leaks_at_edges_and_the_renderer_does_not():
    # a cube on edge: the rays of one column graze an upright edge, 0.0002 mm inside it
    box = trimesh.creation.box((60, 60, 60))
    box.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 4, (0, 1, 0)))
    vertices, faces = np.array(box.vertices), np.array(box.faces)
    edge, depth, column = vertices[:, 0].max(), 700.0, 16
    pitch = (edge - 2e-4) / depth * 1020 / (column - 0.5)
    camera = Camera(1020.0, pitch, pitch, 0.0, 0.37 * pitch, 8, 2 * column)
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = depth
    k = camera.intrinsics().numpy()
    rows, columns = np.mgrid[: camera.height, : camera.width]
    directions = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3) @ np.linalg.inv(k).T
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    source = np.array([0.0, 0.0, -depth])
    image = render_mesh(torch.from_numpy(vertices)[None], torch.from_numpy(faces), pose[None], camera)[0, 0]
    fine, coarse = (
        hit_loop(vertices, faces, source, directions, step).reshape(rows.shape) for step in (1e-9, 1e-3)
    )
    assert np.abs(image.numpy() - fine).max() < 1e-7
    leaks = np.abs(coarse - image.numpy()) > 600
    assert leaks[:, [0, -1]].all() and not leaks[:, 1:-1].any()
    grazing = image[:, [0, -1]] / ray_lengths(camera)[:, [0, -1]]
    assert (grazing > 1e-5).all() and (grazing < 1e-3).all()
