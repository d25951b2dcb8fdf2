"""A shape model or one bone -> as many simulated X-rays as are wanted, in shards.

Sample i depends on the source, the settings and i alone. Whoever is stopped, and how, the same job goes on:
shards that are finished and whose checksums are right stay, the others are made again.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from shapefit.io.atomic import prepare_output_dir, write_text
from shapefit.io.label_names import Structures
from shapefit.io.model import write_model
from shapefit.jobs.code import code_digest
from shapefit.jobs.simulate_source import Source, read_source
from shapefit.scene.shards import MANIFEST, MODEL, SCHEMA, read_manifest
from shapefit.scene.simulate_shard import simulate_shard
from shapefit.settings import CTSettings, MeshSettings, ShardSettings, SimulateSettings, SurfaceSettings
from shapefit.workers import Workers, one_thread

_LIBRARIES = ("shapefit", "numpy", "scipy", "numba", "torch")  # what computes samples
# the source has a checksum of its own; kernels are imported by name, where nobody sees it
_CODE = ("scene.simulate_shard", "render._mesh_numba", "render._volume_numba")


def simulate_job(
    source: str | Path,
    output: Path,
    count: int,
    settings: SimulateSettings | None = None,
    shards: ShardSettings | None = None,
    labels: Structures = None,
    segmentation: Path | None = None,
    ct: CTSettings | None = None,
    surface: SurfaceSettings | None = None,
    meshes: MeshSettings | None = None,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
    fresh: bool = False,
) -> dict:
    """Simulate samples 0 to `count` - 1 -> a folder as in `scene.shards`; returns its manifest.

    The same job goes on with what is there, and a larger `count` adds to it; `fresh` begins anew. On a
    cluster, all workers see the folder at this path and write there. Raises ValueError for a source that
    cannot be read, and a folder whose X-rays were simulated otherwise; OSError for a full disk: what is
    finished stays.
    """
    settings, shards = settings or SimulateSettings(), shards or ShardSettings()
    for what, number in (("-n", count), ("--shard-size", shards.shard_size), ("--workers", shards.workers)):
        if number < 1:
            raise ValueError(f"{what} must be at least 1, got {number}")
    report = progress or (lambda what, fraction: None)
    with one_thread():  # as the workers compute: the same bits
        given = read_source(source, settings, labels, segmentation, ct, surface, meshes)
    manifest = _new_manifest(source, given, count, settings, shards, command)
    with _alone(output):
        if fresh:
            _clear(output)
        _check_same(output, manifest)
        write_model(output / MODEL, given.model)
        _write_manifest(output, manifest)
        starts = range(0, count, shards.shard_size)
        began, made = time.monotonic(), 0
        jobs = (
            (given.stage, settings, output, number, first, min(shards.shard_size, count - first))
            for number, first in enumerate(starts)
        )
        try:
            with Workers(shards.workers, shards.cluster) as workers:
                for shard, new in workers.stream(simulate_shard, jobs):
                    made += new * shard.samples
                    manifest["shards"].append(shard._asdict())
                    _write_manifest(output, manifest)
                    report(f"shard {shard.number + 1} of {len(starts)}", (shard.number + 1) / len(starts))
        except OSError as error:
            finished = len(list(output.glob("shard-*.tar")))
            raise OSError(
                f"{output}: {finished} of {len(starts)} shards are finished and stay, the next could not be "
                f"written ({error.strerror or error}); make room, and run the same again"
            ) from error
        finally:
            if not shards.cluster:  # its workers may still be writing
                _clear_partial(output)
        seconds = time.monotonic() - began
        manifest |= {
            "complete": True,
            "throughput": {
                "samples": made,
                "seconds": seconds,
                "samples_per_second": made / seconds,
                "workers": shards.workers if not shards.cluster else shards.cluster,
            },
        }
        _write_manifest(output, manifest)
    return manifest


def _new_manifest(
    source: str | Path,
    given: Source,
    count: int,
    settings: SimulateSettings,
    shards: ShardSettings,
    command: str,
) -> dict:
    model = given.model
    return {
        "schema_version": SCHEMA,
        "command": command,
        "versions": {name: version(name) for name in _LIBRARIES},
        "code": code_digest(*_CODE),
        "source": {
            "name": str(source),
            "kind": given.kind,
            "sha256": given.digest(),
            **{key: model.metadata.get(key, "") for key in ("id", "license", "source", "origin_in_file")},
        },
        "findings": given.findings,
        "structures": dict(zip(model.names, model.labels, strict=True)),
        "template": {
            "file": MODEL,
            "vertices": len(model.mean),
            "faces": len(model.faces),
            "modes": model.modes,
        },
        "settings": json.loads(json.dumps(asdict(settings))),
        "shard_size": shards.shard_size,
        "samples": count,
        "complete": False,
        "shards": [],
    }


def _check_same(output: Path, manifest: dict) -> None:
    """Raises ValueError if what lies in a folder would not go with what is to come."""
    if not (output / MANIFEST).exists():
        if list(output.glob("shard-*.tar")):
            raise ValueError(f"{output} holds shards of an unknown origin: choose another folder, or --fresh")
        return
    old = read_manifest(output)
    otherwise = [
        f"{name} {old['settings'].get(name)!r}, now {value!r}"
        for name, value in manifest["settings"].items()
        if old["settings"].get(name) != value
    ]
    if old["shard_size"] != manifest["shard_size"]:
        otherwise.append(f"{old['shard_size']} samples in a shard, now {manifest['shard_size']}")
    if old["source"]["sha256"] != manifest["source"]["sha256"]:
        otherwise.append(f"of {old['source']['name']}, now of {manifest['source']['name']}, which differs")
    otherwise += [
        f"{name} {old['versions'].get(name)}, now {number}"
        for name, number in manifest["versions"].items()
        if old["versions"].get(name) != number
    ]
    if not otherwise and old["code"] != manifest["code"]:
        otherwise.append("by other code of shapefit")
    if otherwise:
        raise ValueError(
            f"{output} holds X-rays that were simulated otherwise ({'; '.join(otherwise)}): choose another "
            "folder, or --fresh"
        )
    if old["samples"] > manifest["samples"]:
        raise ValueError(
            f"{output} is to hold {old['samples']} X-rays already, more than {manifest['samples']}: choose "
            "another folder, or --fresh"
        )


def _write_manifest(output: Path, manifest: dict) -> None:
    write_text(output / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _clear(output: Path) -> None:
    for file in (MANIFEST, MODEL):  # the manifest first: without it shards are of an unknown origin
        (output / file).unlink(missing_ok=True)
    for path in [*output.glob("shard-*.tar"), *output.glob("shard-*.json")]:
        path.unlink()


def _clear_partial(output: Path) -> None:
    """Remove what killed workers had begun."""
    for path in output.glob(".partial-*-shard-*"):
        path.unlink(missing_ok=True)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """The folder, made if it is absent, for this process alone. Raises ValueError if another one has it."""
    prepare_output_dir(output)
    path = output / ".simulating"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however that ends
        except OSError as error:
            raise ValueError(f"{output}: another process is simulating into this folder") from error
        _clear_partial(output)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
