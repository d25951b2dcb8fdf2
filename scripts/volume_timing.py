"""The renderers of one package, in a process of their own that answers questions of `benchmark_volume.py`:

python scripts/volume_timing.py PACKAGE FOLDER THREADS DEVICE

A question is a line of JSON on the standard input, its answer a line on the standard output. The process
holds the package and a volume; each question is answered by a fork of it, so that every measurement has a
process of its own, with the inputs in place, and one that fails or lasts too long takes nobody with it.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

LINUX = sys.platform == "linux"
SMALL = 8  # pixels a side of the image that warms a renderer up
SLACK = 1 << 30  # bytes of addresses that are never touched
PATIENT = 2.0  # seconds after which a measurement is not repeated


def answer(question: dict, body: object, threads: int, device: str) -> dict:
    """One question in its own process: the name of a renderer, the view, and what is wanted of it."""
    import numba
    import torch
    import volume_scenes as scenes
    from volume_peers import aimed

    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    name, size = question["name"], question["size"]
    if question["wanted"] == "cost":
        warm = aimed(name, body, scenes.camera(SMALL), device)
        for _ in range(3 if device == "cuda" else 1):
            _call(warm, SMALL, question["mode"], device)()
        ready = aimed(name, body, scenes.camera(size), device)
        return _cost(_call(ready, size, question["mode"], device), device, question["repeats"])
    ready = aimed(name, body, scenes.camera(size), device)
    dtype, weight = ready.voxels.dtype, scenes.weight(size).to(ready.voxels)
    view = question["view"]

    def functional(twist):
        image = ready.draw(scenes.pose(twist, view).to(device))
        return (image * weight).sum(), image

    if question["wanted"] == "look":
        twist = scenes.still(dtype).requires_grad_()
        value, image = functional(twist)
        value.backward()
        if question.get("kept"):
            torch.save(image.detach().cpu(), question["kept"])
        return {"gradient": twist.grad.double().tolist()}
    with torch.no_grad():  # central differences, in the dtype of the volume
        slopes = []
        for k, h in enumerate([question["step"] / 100] * 3 + [question["step"]] * 3):
            twist = scenes.still(dtype)
            twist[k] = h
            slopes.append(float(functional(twist)[0] - functional(-twist)[0]) / (2 * h))
    return {"gradient": slopes}


def _call(ready, size: int, mode: str, device: str) -> Callable[[], object]:
    """What is timed: an image, or an image and a gradient of its weighted mean."""
    import torch
    import volume_scenes as scenes

    still = scenes.still(ready.voxels.dtype)
    at = scenes.pose(still).to(device)
    weight = scenes.weight(size).to(ready.voxels)

    def forward():
        with torch.no_grad():
            return ready.draw(at)

    def to_pose():
        twist = still.clone().requires_grad_()
        image = ready.draw(scenes.pose(twist).to(device))
        return image, torch.autograd.grad((image * weight).sum(), twist)

    def to_volume():
        ready.voxels.requires_grad_()
        image = ready.draw(at)
        return image, torch.autograd.grad((image * weight).sum(), ready.voxels)

    return {"forward": forward, "pose": to_pose, "volume": to_volume}[mode]


def _cost(call: Callable[[], object], device: str, repeats: int) -> dict:
    """Seconds of each call, and the peak of memory in the first one above what there was before it."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        beyond = torch.cuda.max_memory_allocated() - before
        spent = []
        for _ in range(3 * repeats):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
            call()
            marks[1].record()
            torch.cuda.synchronize()
            spent.append(marks[0].elapsed_time(marks[1]) / 1000)
        return {"seconds": spent, "beyond": beyond}
    if LINUX:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory goes back, so that using it again is seen
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, spent = _status("VmRSS"), []
    beyond = None
    while len(spent) < repeats and sum(spent) < PATIENT:
        start = time.perf_counter()
        kept = call()
        spent.append(time.perf_counter() - start)
        if beyond is None and LINUX:
            beyond = _status("VmHWM") - before
        del kept
    return {"seconds": spent, "beyond": beyond}


def _status(key: str) -> int:
    if not LINUX:
        return 0
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def forked(work: Callable[[], dict], seconds: float, memory: float) -> dict:
    """The answer of a fork that has so many seconds and bytes more than now, or why there is none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            if LINUX and memory < 1 << 50:
                resource.setrlimit(resource.RLIMIT_AS, (int(_status("VmSize") + memory + SLACK),) * 2)
            result = work()
        except BaseException as error:
            said = str(error).strip().splitlines() or [""]
            result = {"failure": f"{type(error).__name__}: {said[0][:200]}"}
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    told, deadline = b"", time.perf_counter() + seconds
    while select.select([reading], [], [], max(0.0, deadline - time.perf_counter()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            break
        told += part
    else:
        os.kill(child, signal.SIGKILL)
        told = json.dumps({"failure": f"stopped after {seconds:.0f} s"}).encode()
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    return json.loads(told) if told else {"failure": f"ended by signal {status & 127}"}


def serve(package: str, folder: Path, threads: int, device: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a package prints
    import torch

    torch.set_num_threads(1)  # no thread may be there to be lost in a fork
    import volume_scenes as scenes
    from volume_peers import get_going, placed

    get_going(package)
    held, body = None, None
    for line in sys.stdin:
        question = json.loads(line)
        if (question["data"], question["dtype"]) != held:
            body = None
            data = torch.load(folder / f"{question['data']}.pt").to(getattr(torch, question["dtype"]))
            body = placed(package, data, scenes.world_from_voxel(len(data)))
            held = (question["data"], question["dtype"])
            del data
        gc.collect()
        gc.freeze()  # a fork's own collections are then quick, and copy no page
        try:
            result = forked(
                lambda q=question, b=body: answer(q, b, threads, device),
                question["seconds"],
                question["memory"] if device == "cpu" else float("inf"),  # CUDA reserves addresses freely
            )
        except OSError as error:
            result = {"failure": str(error)}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):  # before any library starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[3])])
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
