"""One renderer of `benchmark_mesh.py` in a process of its own, on cores of its own:

python scripts/mesh_timing.py NAME FOLDER THREADS

reads FOLDER/scenes.json and each scene beside it, and leaves NAME.json, and NAME-<scene>.npz with the image
and the gradient, there. So a peer that crashes takes nobody with it, and no library meets another's threads.
"""

import json
import os
import sys
from pathlib import Path

THREADS_OF = {  # how each is told; all are also held to as many cores, where the system can
    "shapefit": "torch.set_num_threads, numba.set_num_threads",
    "shapefit64": "torch.set_num_threads, numba.set_num_threads",
    "mitsuba": "drjit.set_thread_count",
    "mitsuba_step": "drjit.set_thread_count",
    "gvxr": "LP_NUM_THREADS (llvmpipe)",
    "gvxr_filtered": "LP_NUM_THREADS (llvmpipe)",
    "open3d": "nthreads",
    "embree": "one thread (embreex)",
    "warp": "one thread (Warp on the CPU)",
    "pytorch3d": "torch.set_num_threads",
}
PACKAGES = {
    "shapefit64": "shapefit", "mitsuba_step": "mitsuba", "gvxr_filtered": "gvxr", "embree": "embreex",
    "warp": "warp-lang",
}  # fmt: skip


def run(name: str, folder: Path, threads: int) -> None:
    """Every scene: image and gradient kept, times where the scene is one to be timed."""
    import mesh_ours
    import mesh_peers
    import numpy as np
    from mesh_scenes import read_scene

    job = json.loads((folder / "scenes.json").read_text())
    quick = job["quick"]
    if name in ("scaling", "memory"):
        _keep(folder / f"{name}.json", getattr(mesh_ours, name)(threads, quick))
        return
    adapter = getattr(mesh_ours if name.startswith("shapefit") else mesh_peers, name)
    record = {"threads": THREADS_OF[name], "scenes": {}}
    for scene_name, about in job["scenes"].items():
        if name in about["without"]:
            continue
        scene = read_scene(folder / f"{scene_name}.npz")
        peer = adapter(scene, threads, about["layers"])
        record["version"] = _version(PACKAGES.get(name, name))
        shape, times = (scene.camera.height, scene.camera.width), {}
        gradient = np.empty(0)
        if about["timed"]:
            times["forward"], image = mesh_ours.timed(peer.forward, quick)
            times["both"] = times["place"] = None
            if peer.backward:
                times["both"], (_, gradient) = mesh_ours.timed(peer.backward, quick)
            if peer.place:
                times["place"], _ = mesh_ours.timed(peer.place, quick)
        else:
            image = peer.forward()
        np.savez(folder / f"{name}-{scene_name}.npz", image=image.reshape(shape), gradient=gradient)
        record["scenes"][scene_name] = times
        _keep(folder / f"{name}.json", record)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:  # built in place
        return sys.modules[package].__version__


def _keep(path: Path, record: dict) -> None:
    from shapefit.io.atomic import write_text

    write_text(path, json.dumps(record))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):  # before any library starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[3])])
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
