"""The mesh renderer beside its peers: the same path lengths from each, their errors, times and gradients.

python scripts/benchmark_mesh.py                  # under 10 minutes; peers: pip install ".[bench]"
python scripts/benchmark_mesh.py --quick          # everything once, on small things: no figures
python scripts/benchmark_mesh.py --device cuda    # the Triton kernels on a GPU, alone

Each renderer runs in a process of its own, held to --threads cores and told of as many threads, and gets
the same float32 mesh, source and rays. Times are medians after two calls to warm up: forward, an image of
path lengths in mm in host memory; forward and backward, that and the gradient of a smooth weighted sum of
it in the vertices. What changed vertices cost before they can be seen (an accelerating structure) is timed
apart. Even a machine at rest has slow moments, above all a virtual one: renderers that need less than 30 s
for everything are asked again in later --rounds, and the median of the rounds counts. Errors are against
float64 (`mesh_scenes.truth`, itself compared with the torch reference here). On a busy machine OpenMP threads
that spin for work lose whole time slices: OMP_WAIT_POLICY=passive is kinder; it is passed on, and printed.
"""

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated

import mesh_ours
import mesh_scenes as scenes
import numpy as np
import torch
import tyro
from mesh_report import plot, table

from shapefit.io.atomic import prepare_output_dir, write_text

PEERS = {  # our name -> what is shown, the module it needs
    "shapefit": ("shapefit", "shapefit"),
    "shapefit64": ("shapefit, float64", "shapefit"),
    "mitsuba": ("Mitsuba 3", "mitsuba"),
    "mitsuba_step": ("Mitsuba 3, steps of 1e-3 mm", "mitsuba"),
    "gvxr": ("gVXR", "gvxrPython3"),
    "gvxr_filtered": ("gVXR, artefact filter", "gvxrPython3"),
    "open3d": ("Open3D", "open3d"),
    "embree": ("Embree through trimesh", "embreex"),
    "warp": ("Warp, steps of 1e-3 mm", "warp"),
    "pytorch3d": ("PyTorch3D", "pytorch3d"),
}
PATIENCE = 300  # seconds for one renderer
TURNS = 8  # more views of the sphere, to count leaks in


def draw_scenes(folder: Path, pelvis: Path, quick: bool, slow: bool) -> tuple[dict, dict]:
    """Write every scene for the renderers; what they are asked of each, and the truths to compare with."""
    level, size, around, across = (2, 64, 80, 20) if quick else (5, 512, 320, 80)
    box, box_image = scenes.adversarial_box()
    made = {
        f"sphere {size}": scenes.sphere(level, size),
        f"sphere {2 * size}": scenes.sphere(level, 2 * size),
    }
    made[f"torus {size}"] = scenes.bumpy_torus(around, across, size)
    timed = [*made]
    if pelvis.is_dir():
        timed.append(f"pelvis {size}")
        made[timed[-1]] = scenes.pelvis(pelvis, size)
    else:
        print(f"no pelvis: {pelvis} is not a folder; --pelvis names one of closed meshes")
    made |= {f"turn {view}": scenes.sphere(level, size, view) for view in range(1, 2 if quick else TURNS + 1)}
    asked, truths = {}, {}
    for name, scene in made.items():
        truths[name] = scenes.truth(scene)
        layers = int(truths[name][1].max())
        too_slow = name in timed[1:] if not slow else name in timed[1::2]
        skipped = ["pytorch3d"] if name.startswith("turn") or too_slow else []
        asked[name] = {"timed": name in timed, "layers": layers, "without": skipped}
        scene.write(folder / f"{name}.npz")
        if name in timed:
            print(describe(name, scene, truths[name], 1e6 if quick else 1e7), flush=True)
    asked["box"], truths["box"] = {"timed": False, "layers": 12, "without": []}, (box_image, None, None)
    box.write(folder / "box.npz")
    write_text(folder / "scenes.json", json.dumps({"quick": quick, "scenes": asked}))
    return asked, truths


def describe(name: str, scene: scenes.Scene, truth: tuple, effort: float) -> str:
    """The scene in a line, and how far its truth lies from the torch reference at every n-th pixel."""
    pixels = scene.camera.height * scene.camera.width
    step = max(1, int(np.ceil(np.sqrt(len(scene.faces) * pixels / effort))))
    draw, vertices, _ = mesh_ours.ready(scenes.thinned(scene, step), 1, torch.float64, backend="torch")
    apart = np.abs(draw(vertices)[0, 0].numpy() - truth[0][::step, ::step]).max()
    return (
        f"{name}: {len(scene.faces)} faces, {scene.camera.height}^2 pixels of {scene.camera.delx:.3f} mm, at "
        f"most {truth[1].max()} layers ({(truth[1] > 2).mean():.0%} of the pixels have more than 2); float64 "
        f"truth and torch reference {apart:.0e} mm apart"
    )


def start(name: str, folder: Path, threads: int) -> dict:
    """Run one renderer, or a study of ours, in its own process; what it leaves, or why it left nothing."""
    told = dict.fromkeys(
        ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "LP_NUM_THREADS"],
        str(threads),
    )
    if name == "memory":
        told["MALLOC_MMAP_THRESHOLD_"] = "65536"
    command = [
        sys.executable,
        str(Path(__file__).with_name("mesh_timing.py")),
        name,
        str(folder),
        str(threads),
    ]
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command, env=os.environ | told, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = ([line for line in lines if "Error" in line] or lines)[-1:]
        failure = f"exit status {done.returncode}: {' '.join(said)}" if done.returncode else None
    except subprocess.TimeoutExpired:
        failure = f"stopped after {PATIENCE} s"
    kept = folder / f"{name}.json"
    record = json.loads(kept.read_text()) if kept.exists() else {}
    seconds = time.perf_counter() - begun
    print(f"  {name}: {failure or f'{seconds:.0f} s'}", flush=True)
    return record | {"seconds": seconds} | ({"failure": failure} if failure else {})


def ask_again(records: dict, folder: Path, asked: dict, threads: int, rounds: int, quick: bool) -> None:
    """Time the quick renderers anew, at other moments; each time becomes the median of its rounds."""
    timed = {name: about for name, about in asked.items() if about["timed"]}
    write_text(folder / "scenes.json", json.dumps({"quick": quick, "scenes": timed}))
    brisk = [name for name, r in records.items() if "failure" not in r and r["seconds"] < 30]
    taken = {name: [records[name]["scenes"]] for name in brisk}
    for _ in range(1, rounds):
        for name in brisk:
            taken[name].append(start(name, folder, threads).get("scenes", {}))
    for name in brisk:
        for scene in timed.keys() & records[name]["scenes"].keys():
            measured = records[name]["scenes"][scene]
            measured["rounds"] = [dict(times[scene]) for times in taken[name] if scene in times]
            for key in ("forward", "both", "place"):
                if measured[key] is not None:
                    measured[key] = float(np.median([times[key] for times in measured["rounds"]]))


def errors(folder: Path, name: str, scene: str, truth: tuple) -> dict:
    """How far an image lies from the truth, in mm and in pixels, and a gradient, relatively."""
    with np.load(folder / f"{name}-{scene}.npz") as kept:
        image, gradient = kept["image"].astype(np.float64), kept["gradient"]
    exact, _, slope = truth
    off = np.where(np.isfinite(image), np.abs(image - exact), np.inf)
    result = {
        "median": float(np.median(off[exact > 0])), "max": float(off.max()),
        "above 0.1 mm": int((off > 0.1).sum()), "above 10 mm": int((off > 10).sum()),
        "negative": int((image < -0.01).sum()),
    }  # fmt: skip
    if slope is not None and gradient.size:
        result["gradient"] = float(np.linalg.norm(gradient - slope) / np.linalg.norm(slope))
    return result


def machine(threads: int) -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    cpu = found[1] if found else platform.processor() or platform.machine()
    policy = os.environ.get("OMP_WAIT_POLICY")
    return (
        f"{date.today()}, {cpu}, {os.cpu_count()} cores, {threads} threads each; Python "
        f"{platform.python_version()}, torch {torch.__version__}, {platform.system()}"
        + (f", OMP_WAIT_POLICY={policy}" if policy else "")
    )


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out/benchmark"),
    threads: int = 2,
    quick: bool = False,
    rounds: int = 3,
    slow: bool = False,
    device: str = "cpu",
    pelvis: Path = scenes.PELVIS,
    renderers: tuple[str, ...] = tuple(PEERS),
) -> None:
    """Measure the mesh renderer and its peers; print, and write benchmark.json, .md and a plot.

    Args:
        output: folder for the results
        threads: cores and threads for each renderer
        quick: everything once and small: shows that it runs, measures nothing
        rounds: how often the quick renderers are timed
        slow: PyTorch3D on the torus and the pelvis too
        device: cuda measures the Triton kernels on a GPU instead
        pelvis: folder with the closed meshes of a pelvis
        renderers: some of them only
    """
    prepare_output_dir(output)
    if device != "cpu":
        lines = mesh_ours.cuda()
        write_text(output / "benchmark_cuda.md", "\n".join(f"- {line}" for line in lines) + "\n")
        print(*lines, sep="\n")
        return
    begun = time.perf_counter()
    lines = [machine(threads)]
    print(lines[0], flush=True)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        asked, truths = draw_scenes(folder, pelvis, quick, slow)
        records = {}
        for name in renderers:
            present = importlib.util.find_spec(PEERS[name][1])
            records[name] = start(name, folder, threads) if present else {"failure": "not installed"}
            records[name]["title"] = PEERS[name][0]
            for scene, measured in records[name].get("scenes", {}).items():
                measured["errors"] = errors(folder, name, scene, truths[scene])
        ask_again(records, folder, asked, threads, rounds, quick)
        growth = {study: start(study, folder, threads) for study in ("scaling", "memory")}
        for study in growth.values():
            study.pop("seconds")
    sphere = next(iter(asked))
    facets = np.abs(
        truths[sphere][0] - scenes.sphere_chords(scenes.sphere(2 if quick else 5, 64 if quick else 512))
    )
    result = {
        "machine": lines[0], "quick": quick, "renderers": records, **growth,
        "facets": {"median": float(np.median(facets)), "max": float(facets.max())},
    }  # fmt: skip
    write_text(output / "benchmark.json", json.dumps(result, indent=1))
    report = table(result, asked)
    print("\n" + report)
    write_text(output / "benchmark.md", report)
    plot(result, sphere, output / "benchmark_mesh.png")
    print(f"\n{time.perf_counter() - begun:.0f} s; {output}/benchmark.json, benchmark.md, benchmark_mesh.png")


if __name__ == "__main__":
    tyro.cli(main)
