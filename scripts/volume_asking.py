"""How `benchmark_volume.py` asks the processes of `volume_timing.py`, and what it does not ask them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from volume_peers import RENDERERS

SHARE = 0.85  # of the memory that is free, which one measurement may take
SPACIOUS = 1 << 62  # bytes, where nothing tells


@dataclass(frozen=True)
class Asked:
    """A process for each package, and when all must be over."""

    processes: dict[str, subprocess.Popen]
    deadline: float  # of time.perf_counter
    patience: float  # seconds for one call

    def left(self) -> float:
        return max(0.0, self.deadline - time.perf_counter())

    def refuses(self, hope: tuple[float, float] | None) -> str | None:
        """Why a measurement is not made that is expected to take (seconds, bytes) for a call."""
        if hope is None:
            return None if self.left() > 1 else "no time left"
        seconds, memory = hope
        if seconds == float("inf"):
            return "a smaller one failed"
        if memory > free_memory():
            return f"{memory / 1e9:.0f} GB expected"
        if seconds > self.patience:
            return "too long"
        return "no time left" if 1.2 * seconds > self.left() else None


def free_memory() -> float:
    info = Path("/proc/meminfo")
    if not info.exists():
        return float(SPACIOUS)
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return SHARE * 1024 * int(lines["MemAvailable"].split()[0])


def hire(
    packages: list[str], folder: Path, threads: int, device: str, deadline: float, patience: float
) -> Asked:
    """Start the processes; each loads its package meanwhile."""
    told = dict.fromkeys(
        ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"], str(threads)
    )
    script = str(Path(__file__).with_name("volume_timing.py"))
    processes = {
        package: subprocess.Popen(
            [sys.executable, "-W", "ignore", script, package, str(folder), str(threads), device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | told,
        )
        for package in packages
    }  # fmt: skip
    return Asked(processes, deadline, patience)


def close(asked: Asked) -> None:
    for process in asked.processes.values():
        _pipe(process.stdin).close()
        process.wait()


def ask(asked: Asked, name: str, wanted: str, about: dict) -> dict:
    """The answer of a renderer's process, or {"failure": why}."""
    process = asked.processes[RENDERERS[name][1]]
    limits = {"seconds": min(3 * asked.patience, asked.left()), "memory": free_memory()}
    question = {"name": name, "wanted": wanted, "dtype": "float32"} | about | limits
    try:
        _pipe(process.stdin).write(json.dumps(question) + "\n")
        _pipe(process.stdin).flush()
        line = _pipe(process.stdout).readline()
    except BrokenPipeError:
        line = ""
    return json.loads(line) if line else {"failure": "its process has ended"}


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def expected(cell: dict, cells: list[dict]) -> tuple[float, float] | None:
    """Seconds and bytes of a call, from the nearest smaller one of the same kind; infinite if that failed.

    Both grow with the rays; for Siddon's method, with the voxels along an edge too.
    """
    kin = [
        c for c in cells
        if (c["name"], c["mode"]) == (cell["name"], cell["mode"])
        and c["count"] <= cell["count"] and c["size"] <= cell["size"] and c is not cell
    ]  # fmt: skip
    if any("skipped" in c and c.get("expected") is None for c in kin):
        return float("inf"), float("inf")
    known = [c for c in kin if c["rounds"]] + ([cell] if cell["rounds"] else [])
    if not known:
        return None
    nearest = max(known, key=lambda c: (c["count"] * c["size"] ** 2, c["size"]))
    growth = (cell["size"] / nearest["size"]) ** 2
    if "siddon" in cell["name"]:
        growth *= cell["count"] / nearest["count"]
    memory = (nearest["beyond"] or 0) * growth
    if cell["mode"] == "volume":
        memory = max(memory, 4.0 * cell["count"] ** 3)
    return max(nearest["rounds"][0]) * growth, memory
