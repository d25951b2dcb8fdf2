"""The volume renderer beside its peers: the same line integrals, their errors, gradients, times and memory.

python scripts/benchmark_volume.py                  # 12 minutes at most; peers: pip install ".[bench]"
python scripts/benchmark_volume.py --quick          # 4 minutes at most: one small volume, two detectors
python scripts/benchmark_volume.py --device cuda    # the same on a GPU, where the fused kernels are

Each package runs in a process of its own, held to --threads cores, and every measurement in a fork of it
that finds the float32 volume and the detector in place. First each renderer draws bodies whose integrals are
known: one whose picture is another is not timed. Then seconds forward, forward and backward to the pose, and
to the volume, renderers in turn, so that they share a machine's moods, and small images in --rounds, of which
the medians count. A measurement that is expected, from smaller ones, to last more than --patience seconds or
not to fit into memory is not made, and the expectation is shown instead.
"""

import importlib.util
import json
import os
import re
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version, system
from typing import Annotated

import numpy as np
import torch
import tyro
import volume_scenes as scenes
from volume_asking import Asked, ask, close, expected, hire
from volume_peers import RENDERERS
from volume_report import plot, table

from shapefit.io.atomic import prepare_output_dir, write_text

MODES = ("forward", "pose", "volume")
BODIES = {"smooth": scenes.SMOOTH, "sharp": scenes.SHARP}
REPEATS = 5  # calls in a measurement, while they last less than 2 s together
STEP = 1e-4  # of central differences: mm, and 0.01 rad of it


def draw_volumes(folder: Path, counts: tuple[int, ...]) -> None:
    """The voxels that the renderers get: both bodies and noise on the first grid, the smooth one on all."""
    for count in counts:
        torch.save(scenes.voxels(scenes.body(scenes.SMOOTH), count), folder / f"smooth-{count}.pt")
    torch.save(scenes.voxels(scenes.body(scenes.SHARP), counts[0]), folder / f"sharp-{counts[0]}.pt")
    noise = torch.rand((counts[0],) * 3, generator=torch.Generator().manual_seed(0))
    torch.save(noise, folder / f"noise-{counts[0]}.pt")


def truth(power: int, view: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Image (H, W) of a body itself and the derivative (6,) of its weighted mean in the pose.

    At a sharp edge the derivative of a ray is unbounded, and that of a sampled image scatters by 30 %: there
    it is central differences over 1 mm or 0.01 rad of an image four times finer, good to 2 %.
    """
    body = scenes.body(power)

    def mean(twist, fine=1):
        image = scenes.integrals(body, scenes.pose(twist, view), scenes.camera(fine * size))
        return image, (image * scenes.weight(fine * size)).sum()

    twist = scenes.still().requires_grad_()
    image, value = mean(twist)
    if power:
        return image.detach(), torch.autograd.grad(value, twist)[0].numpy()
    steps = torch.diag(torch.tensor([0.01] * 3 + [1.0] * 3, dtype=torch.float64))
    with torch.no_grad():
        slope = [float((mean(h, 4)[1] - mean(-h, 4)[1]) / (2 * h.sum())) for h in steps]
    return image.detach(), np.array(slope)


def look(asked: Asked, names: list[str], count: int, size: int, views: int, folder: Path) -> dict:
    """Errors of images and pose gradients against the bodies themselves, for each body and renderer."""
    found = {name: {} for name in names}
    for kind, power in BODIES.items():
        for view in range(views):
            exact, slope = truth(power, view, size)
            for name in names:
                kept = folder / "image.pt"
                question = {"data": f"{kind}-{count}", "size": size, "view": view, "kept": str(kept)}
                said = ask(asked, name, "look", question)
                about = found[name].setdefault(kind, {"views": []})
                if "failure" in said:
                    about["failure"] = said["failure"]
                    continue
                about["views"].append({"gradient": said["gradient"], "exact": slope.tolist()})
                if view == 0:
                    off = (torch.load(kept).double() - exact).abs() / exact.max()
                    about |= {"max": float(off.max()), "rms": float(off.square().mean().sqrt())}
    return found


def differences(asked: Asked, names: list[str], count: int, size: int) -> dict:
    """Each renderer's gradient in float32 and the central differences of its own functional in float64."""
    found = {}
    common = {"data": f"smooth-{count}", "size": size, "view": 0, "step": STEP}
    for name in names:
        own = ask(asked, name, "look", common)
        quotient = ask(asked, name, "differences", common | {"dtype": "float64"})
        failure = own.get("failure") or quotient.get("failure")
        found[name] = (
            {"failure": failure} if failure else {"gradient": own["gradient"], "exact": quotient["gradient"]}
        )
    return found


def siddons(asked: Asked, names: list[str], count: int, folder: Path, size: int = 64) -> dict:
    """Largest relative error on noise against a plain Siddon in float64; of our torch reference too."""
    import shapefit as sf

    data, place = torch.load(folder / f"noise-{count}.pt"), scenes.world_from_voxel(count)
    camera, at = scenes.camera(size), scenes.pose(scenes.still())
    source, direction = scenes.rays(at, camera)
    brute = scenes.siddon(data.numpy(), place.numpy(), source.numpy(), direction.reshape(-1, 3).numpy())
    volume = sf.Volume(data.double(), place)
    twin = sf.render_volume(volume, at[None], camera, method="siddon", backend="torch")[0, 0].numpy()
    found = {"shapefit's torch reference, float64": float(np.abs(twin.ravel() - brute).max() / brute.max())}
    for name in names:
        if "siddon" in name:
            kept = folder / "image.pt"
            question = {"data": f"noise-{count}", "size": size, "view": 0, "kept": str(kept)}
            if "failure" not in ask(asked, name, "look", question):
                off = np.abs(torch.load(kept).double().numpy().ravel() - brute)
                found[f"{RENDERERS[name][0]}, float32"] = float(off.max() / brute.max())
    return found


def time_all(
    asked: Asked, names: list[str], counts: tuple[int, ...], sizes: tuple[int, ...], rounds: int
) -> list[dict]:
    """Seconds and memory of every renderer, volume, detector and mode: small ones in rounds, others once."""
    cells = [
        {"name": name, "count": count, "size": size, "mode": mode, "rounds": [], "beyond": None}
        for count in counts for size in sizes for mode in MODES for name in names
    ]  # fmt: skip
    first = [c for c in cells if c["count"] == counts[0] and c["size"] <= 256]
    rest = [c for c in cells if c not in first]
    own = {name for name, (_, package) in RENDERERS.items() if package == "shapefit"}  # they are quick
    rest = sorted(
        rest,
        key=lambda c: (c["name"] not in own, c["size"] > 512, c["count"], c["size"], MODES.index(c["mode"])),
    )
    for turn, order in enumerate([first] * rounds + [rest]):
        for cell in order:
            hope = expected(cell, cells)
            reason = None if cell["rounds"] and asked.left() > 2 * hope[0] else asked.refuses(hope)
            if reason or "skipped" in cell:
                if not cell["rounds"]:
                    cell |= {"skipped": reason or cell["skipped"]}
                    cell.setdefault("expected", hope[0] if hope else None)
                continue
            question = {"data": f"smooth-{cell['count']}", "size": cell["size"], "mode": cell["mode"]}
            said = ask(asked, cell["name"], "cost", question | {"repeats": REPEATS})
            if "failure" in said and not cell["rounds"]:
                cell["skipped"] = said["failure"]
            elif "failure" not in said:
                cell["rounds"].append(said["seconds"])
                cell["beyond"] = cell["beyond"] or said["beyond"]
        what = f"round {turn + 1}" if turn < rounds else "larger ones"
        print(f"  {what}: {asked.left():.0f} s left", flush=True)
    for cell in cells:
        cell["seconds"] = float(np.median([np.median(r) for r in cell["rounds"]])) if cell["rounds"] else None
    return cells


def machine(threads: int, device: str) -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    place = f"{found[1] if found else 'CPU'}, {os.cpu_count()} cores, {threads} threads each"
    if device == "cuda":
        place = f"{torch.cuda.get_device_name()}; {place}"
    return f"{date.today()}, {place}; Python {python_version()}, torch {torch.__version__}, {system()}"


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out/benchmark_volume"),
    threads: int = 2,
    quick: bool = False,
    rounds: int = 2,
    counts: tuple[int, ...] = (),
    sizes: tuple[int, ...] = (),
    views: int = 0,
    minutes: float = 0.0,
    patience: float = 40.0,
    device: str = "cpu",
    docs: bool = False,
    renderers: tuple[str, ...] = tuple(RENDERERS),
) -> None:
    """Measure the volume renderer and its peers; print, and write benchmark.json, benchmark_volume.md, .png.

    Args:
        output: folder for the results
        threads: cores and threads for each package
        quick: 256^3 voxels at 200 and 256 pixels, one round, one view
        rounds: how often the first volume is measured at up to 256 pixels
        counts: voxels along each edge of the volumes (256 and 512)
        sizes: pixels along each edge of the detectors (200, 256, 512 and 1024)
        views: poses that gradients are compared at (2; quick: 1)
        minutes: for everything (12; quick: 4): what is expected to last longer is left out, and listed
        patience: seconds that one call of a renderer may last
        device: cpu or cuda
        docs: write the page and the plot to docs/ too
        renderers: some of them only
    """
    counts = counts or ((256,) if quick else (256, 512))
    sizes = sizes or ((200, 256) if quick else (200, 256, 512, 1024))
    views, minutes, rounds = (
        views or (1 if quick else 2),
        minutes or (4 if quick else 12),
        1 if quick else rounds,
    )
    prepare_output_dir(output)
    begun, lines = time.perf_counter(), [machine(threads, device)]
    print(f"{lines[0]}\nat most {minutes:g} minutes (the peers need most of it)", flush=True)
    torch.set_num_threads(threads)
    absent = {n: "not installed" for n in renderers if not importlib.util.find_spec(RENDERERS[n][1])}
    names = [name for name in renderers if name not in absent]
    with tempfile.TemporaryDirectory() as kept:
        folder, usual = Path(kept), min(256, *sizes) if min(sizes) < 200 else 256
        draw_volumes(folder, counts)
        packages = sorted({RENDERERS[name][1] for name in names})
        asked = hire(packages, folder, threads, device, begun + 60 * minutes, patience)
        try:
            found = look(asked, names, counts[0], usual, views, folder)
            print(f"  pictures and gradients: {asked.left():.0f} s left", flush=True)
            exactness = siddons(asked, names, counts[0], folder)
            quotients = differences(asked, names, counts[0], usual // 2)
            print(f"  differences: {asked.left():.0f} s left", flush=True)
            # interpolation is wrong by the square of a voxel: 0.1 % at 256^3
            astray = {n: f["smooth"].get("max", np.inf) for n, f in found.items()}
            strange = {n: off for n, off in astray.items() if off > 0.004 * (256 / counts[0]) ** 2}
            absent |= {n: f"not timed: its picture is {off:.1%} off" for n, off in strange.items()}
            cells = time_all(asked, [n for n in names if n not in strange], counts, sizes, rounds)
        finally:
            close(asked)
    result = {
        "machine": lines[0], "quick": quick, "device": device, "threads": threads, "absent": absent,
        "versions": {p: version(p) for p in packages}, "looked": found, "siddon": exactness,
        "differences": quotients, "difference_size": usual // 2, "look_size": usual, "cells": cells,
        "titles": {name: RENDERERS[name][0] for name in renderers},
        "bandwidth": _bandwidth() if device == "cuda" else None, "share_seen": scenes.share_seen(),
    }  # fmt: skip
    write_text(output / "benchmark.json", json.dumps(result, indent=1))
    report = table(result)
    print("\n" + report)
    for folder in [output] + [Path(__file__).parents[1] / "docs"] * docs:
        write_text(folder / "benchmark_volume.md", report)
        plot(result, folder / "benchmark_volume.png")
    print(f"\n{time.perf_counter() - begun:.0f} s; {output}/benchmark.json, benchmark_volume.md and .png")


def _bandwidth() -> float:
    from mesh_ours import _device_limits

    return _device_limits()[0]


if __name__ == "__main__":
    tyro.cli(main)
