"""What a build costs with the number of its cases: memory of the driver and of its workers, time per case.

    python scripts/study_build_scale.py --counts 25 50 100 200

The cases are synthetic: two bones, bent, stretched and turned at random. Each build runs in a process of
its own. What must grow is the model (`N x V x 24` bytes, once as registered shapes, which lie in a file,
once aligned and once as components); reading, sampling, the template and registration must not.
"""

import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import trimesh
import tyro

from shapefit.jobs import build_job
from shapefit.settings import BuildSettings
from shapefit.workers import peak_memory


def write_case(folder: Path, seed: int) -> Path:
    """Two bones, mirror images but for the case's own asymmetry, as closed meshes in mm."""
    rng = np.random.default_rng(seed)
    sphere = trimesh.creation.icosphere(4)
    turn = trimesh.transformations.rotation_matrix(0.2 * rng.normal(), rng.normal(size=3))
    folder.mkdir(parents=True)
    for name, side in (("hip_left", -1.0), ("hip_right", 1.0)):
        size, width, bend, twist = 1 + np.array([0.06, 0.1, 0.5, 0.5]) * rng.normal(size=4)
        vertices = sphere.vertices * [28 * width, 45, 80]
        vertices[:, 1] += 0.004 * bend * vertices[:, 2] ** 2
        angle = 0.006 * twist * vertices[:, 2]
        x, y = vertices[:, 0].copy(), vertices[:, 1].copy()
        vertices[:, 0] = np.cos(angle) * x - np.sin(angle) * y + 70
        vertices[:, 1] = np.sin(angle) * x + np.cos(angle) * y
        vertices = (size * vertices * [side, 1, 1]) @ turn[:3, :3].T + 30 * rng.normal(size=3)
        mesh = trimesh.Trimesh(vertices, sphere.faces[:, :: int(side)], process=False)
        mesh.export(folder / f"{name}.ply")
    return folder


def build(cases: list[Path], output: Path, settings: BuildSettings) -> dict:
    """One build; returns its costs."""
    began = time.perf_counter()
    peaks: dict[str, float] = {}

    def progress(what: str, fraction: float) -> None:
        peaks["registered" if fraction < 0.73 else "all"] = peak_memory()

    build_job(cases, None, output, settings, progress=progress)
    card = json.loads(output.with_suffix(".card.json").read_text())
    return {
        "cases": len(cases),
        "seconds_per_case": (time.perf_counter() - began) / len(cases),
        "seconds_per_case_to_register": card["seconds"]["correspondence"] / len(cases),
        "driver_registered_gib": peaks["registered"],
        "driver_gib": peak_memory(),
        "workers_gib": card["peak_memory_gib"] - peak_memory() if settings.workers > 1 else 0.0,
        "model_gib": len(cases) * (1 + settings.mirror) * card["vertices"] * 24 / 2**30,
    }


def main(counts: tuple[int, ...] = (25, 50, 100, 200), workers: int = 2, vertices: int = 1500) -> None:
    """Print the costs of builds of so many cases.

    Args:
        counts: numbers of cases
        workers: processes
        vertices: of the template
    """
    settings = BuildSettings(
        vertices=vertices,
        samples=4000,
        template_spacing=5.0,
        kernel_widths=(60.0, 30.0),
        kernel_steps=2,
        stiffness=(10.0, 1.0),
        stiffness_steps=1,
        leave_one_out=False,
        workers=workers,
    )
    with tempfile.TemporaryDirectory() as place:
        cases = [write_case(Path(place) / "cases" / f"c{n:03d}", n) for n in range(max(counts))]
        for count in counts:
            output = Path(place) / f"n{count}" / "model.h5"
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                found = fresh.submit(build, cases[:count], output, settings).result()
            print("  ".join(f"{name} {value:.3g}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
