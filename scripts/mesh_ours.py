"""shapefit's own rows of `benchmark_mesh.py`: beside its peers, how cost and memory grow, and on a GPU."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from mesh_peers import Peer
from mesh_scenes import Scene, sphere, thinned, truth

import shapefit as sf
from shapefit import se3

T = TypeVar("T")
HBM_AND_FP32 = {"H200": (4.8e12, 67e12)}  # bytes/s and flop/s on NVIDIA's data sheet


def shapefit(scene: Scene, threads: int, layers: int, dtype: torch.dtype = torch.float32) -> Peer:
    """One call from pose to image, all its checks included."""
    set_threads(threads)
    draw, vertices, weight = ready(scene, 1, dtype)

    def backward():
        image, gradient = draw_and_differentiate(draw, vertices, weight)
        return image[0, 0].numpy(), gradient[0].numpy()

    return Peer(None, lambda: draw(vertices)[0, 0].numpy(), backward)


def shapefit64(scene: Scene, threads: int, layers: int) -> Peer:
    return shapefit(scene, threads, layers, torch.float64)


def set_threads(threads: int) -> None:
    import numba

    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def ready(
    scene: Scene, batch: int, dtype=torch.float32, device: str = "cpu", backend: str = "auto"
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, torch.Tensor]:
    """The renderer as a function of the vertices, the vertices (B, V, 3), and the image's weight.

    The first view is the scene's, the others are turned at random.
    """
    turns = torch.from_numpy(np.random.default_rng(0).normal(size=(batch, 6)) * [1, 1, 1, 0, 0, 0])
    turns[0] = 0
    pose = (torch.from_numpy(scene.pose) @ se3.exp(turns)).to(device, dtype)
    vertices = torch.from_numpy(scene.vertices).to(device, dtype).expand(batch, -1, -1).contiguous()
    faces = torch.from_numpy(scene.faces).to(device)
    weight = torch.from_numpy(scene.weight()).to(device, dtype)
    return (lambda at: sf.render_mesh(at, faces, pose, scene.camera, backend=backend)), vertices, weight


def draw_and_differentiate(draw, vertices, weight) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, and the gradient of their weighted sum in the vertices."""
    at = vertices.detach().requires_grad_()
    image = draw(at)
    (image * weight).sum().backward()
    return image.detach(), at.grad


def timed(f: Callable[[], T], quick: bool = False) -> tuple[float, T]:
    """Median milliseconds of a call and what it returned: 7 to 50 calls after 2 to warm up.

    Slow ones are called less: 5 times over 0.4 s, 3 times over 1 s, and twice in all over 8 s.
    """
    spent, wanted = [], 3
    while len(spent) < wanted:
        start = time.perf_counter()
        result = f()
        spent.append(time.perf_counter() - start)
        if spent[-1] > 8 and len(spent) > 1:  # the first may have compiled
            return 1000 * spent[-1], result
        if len(spent) == 2 and not quick:
            fewest = 7 if spent[-1] < 0.4 else 5 if spent[-1] < 1 else 3
            wanted = 2 + max(fewest, min(50, int(1.5 / spent[-1])))
    return 1000 * float(np.median(spent[2:])), result


def scaling(threads: int, quick: bool) -> dict:
    """Milliseconds forward, and forward and backward, against faces, pixels and batch; with exponents."""
    set_threads(threads)
    levels, sizes, batches = (range(2, 9), [64 << k for k in range(7)], [1 << k for k in range(7)])
    usual, side = (5, 512)
    if quick:
        levels, sizes, batches, usual, side = (range(1, 3), [16, 32], [1, 2], 1, 32)
    curves = {
        "faces": [(20 * 4**level, sphere(level, side), 1) for level in levels],
        "pixels": [(size * size, sphere(usual, size), 1) for size in sizes],
        "batch": [(batch, sphere(usual, side), batch) for batch in batches],
    }
    result = {}
    for axis, points in curves.items():
        rows = []
        for number, scene, batch in points:
            draw, vertices, weight = ready(scene, batch)
            forward, _ = timed(lambda draw=draw, vertices=vertices: draw(vertices), quick)
            both, _ = timed(lambda draw=draw, v=vertices, w=weight: draw_and_differentiate(draw, v, w), quick)
            rows.append((number, forward, both))
        n, *times = np.array(rows).T
        upper = slice(len(n) // 2, None) if len(n) > 3 else slice(None)
        exponents = [float(np.polyfit(np.log(n[upper]), np.log(t[upper]), 1)[0]) for t in times]
        result[axis] = {
            "n": n.tolist(), "forward": times[0].tolist(), "both": times[1].tolist(), "exponents": exponents,
        }  # fmt: skip
    return result


def memory(threads: int, quick: bool) -> dict:
    """Peak bytes per face beyond inputs and results: growth of the process's resident high-water mark.

    Linux resets the mark when 5 is written to clear_refs. Allocations are made to be pages of their own
    (MALLOC_MMAP_THRESHOLD_, set by the caller), so nothing is served from memory freed before. Inputs
    are in place when the mark is reset; the image and the gradient are taken off.
    """
    set_threads(threads)
    small, large = sphere(2, 64), (sphere(2, 64) if quick else sphere(8, 512))
    result = {"faces": len(large.faces), "pixels": large.camera.height**2}
    for scene in (small, large):
        draw, vertices, weight = ready(scene, 1)
        for name, f in (
            ("forward", lambda draw=draw, v=vertices: (draw(v),)),
            ("both", lambda draw=draw, v=vertices, w=weight: draw_and_differentiate(draw, v, w)),
        ):
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")
            before = _status("VmRSS")
            results = f()
            beyond = _status("VmHWM") - before - sum(r.nbytes for r in results)
            result[name] = beyond / len(scene.faces)
    return result


def _status(key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def cuda(batch: int = 64, size: int = 512, level: int = 5) -> list[str]:
    """64 views at once with the Triton kernels: rate, share of its floors, parity, the same bits each run."""
    scene, few = sphere(level, size), thinned(sphere(level, size), size // 64)
    draw, vertices, weight = ready(scene, batch, device="cuda", backend="triton")
    runs = [draw_and_differentiate(draw, vertices, weight) for _ in range(3)]
    same = all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
    image = runs[0][0][0, 0].double().cpu().numpy()
    exact, layers, _ = truth(scene)
    off = np.abs(image - exact)
    results = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "torch")):
        thin = ready(few, 1, dtype, "cuda", backend)
        results.append([r.double() for r in draw_and_differentiate(*thin)])
    parity = [float((a - b).norm() / b.norm()) for a, b in zip(*results, strict=True)]
    rate = {}
    for name, f in (
        ("forward", lambda: draw(vertices)),
        ("forward + backward", lambda: draw_and_differentiate(draw, vertices, weight)),
    ):
        rate[name] = batch / _cuda_seconds(f)
    bandwidth, flops = _device_limits()
    views, hits = batch, float(layers.sum())
    # read vertices and faces twice, write the image and read its gradient, write the vertices' gradient
    bytes_per_view = 4 * (9 * len(scene.vertices) + 2 * size * size) + 48 * len(scene.faces) / views
    # a hit: slope, division, sum forwards; square, division, two sums backwards. A face: planes and edges
    flops_per_view = 16 * hits + 300 * len(scene.faces)
    floors = {"memory": bytes_per_view / bandwidth, "arithmetic": flops_per_view / flops}
    lines = [f"{views} views x {size} px x {len(scene.faces)} faces, float32, {torch.cuda.get_device_name()}"]
    lines += [f"{name}: {r:,.0f} views/s" for name, r in rate.items()]
    lines += [
        f"{100 * floor * rate['forward + backward']:.1f} % of the {name} floor ({1 / floor:,.0f} views/s)"
        for name, floor in floors.items()
    ]
    lines += [
        f"against float64: median {np.median(off[layers > 0]):.2g}, max {off.max():.2g} mm, "
        f"{(off > 0.1).sum()} pixels off by more than 0.1 mm, {(image < -0.01).sum()} negative",
        f"against the torch reference in float64: image {parity[0]:.1e}, gradient {parity[1]:.1e} (relative)",
        f"same bits in three runs: {same}",
    ]
    return lines


def _cuda_seconds(f: Callable[[], object], repeats: int = 11) -> float:
    for _ in range(3):
        f()
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in marks:
        start.record()
        f()
        end.record()
    torch.cuda.synchronize()
    return float(np.median([start.elapsed_time(end) for start, end in marks])) / 1000


def _device_limits() -> tuple[float, float]:
    """Bytes/s and float32 flop/s: of the data sheet where known, else by a copy and a sheet's usual ratio."""
    for name, limits in HBM_AND_FP32.items():
        if name in torch.cuda.get_device_name():
            return limits
    source = torch.empty(1 << 28, device="cuda")
    copy = 2 * source.nbytes / _cuda_seconds(lambda: source.clone())
    return copy, 14 * copy
