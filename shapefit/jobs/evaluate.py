"""Results and their references -> figures and a report."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh

from shapefit.anatomy import TOTALSEGMENTATOR
from shapefit.io.atomic import atomic_folder, write_text
from shapefit.io.case import case_names, read_case
from shapefit.io.mesh import MESH_SUFFIXES, mesh_files, read_mesh
from shapefit.io.record import FILE, read_record, recorded_views
from shapefit.jobs.bone import read_bone
from shapefit.metrics import compare, landmark_errors, tabulate
from shapefit.report import evaluation_page
from shapefit.settings import EvaluateSettings, MeshSettings
from shapefit.surface import Surfaces
from shapefit.volume import Volume


def evaluate_job(
    results: Sequence[Path],
    references: Sequence[Path],
    output: Path,
    settings: EvaluateSettings,
    labels: Mapping[str, int | None] | None = None,
    structures: Sequence[str] = (),
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
    meshes: MeshSettings | None = None,
) -> dict:
    """Results of fit, locate, project, register and their references -> metrics.json, metrics.csv and report.

    Of a registration the meshes that were registered are measured, where they were found. Structure names
    and labels are those that a result's fit.json remembers, unless `labels` gives them; `structures` limits
    the comparison. A structure that the result lacks is a failure and counts. `meshes` says whether open
    references are repaired; results never are, but for meshes that were registered.
    """
    if not results:
        raise ValueError("no result was given; name at least one folder")
    if len(references) not in (1, len(results)):
        raise ValueError(
            f"{len(results)} results but {len(references)} references: give one per result, in their order, "
            "or one for all"
        )
    pairs = list(zip(results, list(references) * (len(results) if len(references) == 1 else 1), strict=True))
    records, found = [], []
    with atomic_folder(output) as folder:
        for n, ((result, reference), name) in enumerate(zip(pairs, case_names(results), strict=True)):
            if progress:
                progress(name, n / len(pairs))
            record, pair = _compare(result, reference, name, settings, labels, structures, meshes)
            records.append(record)
            found.append(pair)
        table = {"schema_version": 1, "command": command} | tabulate(records) | {"records": records}
        write_text(folder / "metrics.json", json.dumps(table, indent=2, allow_nan=False) + "\n")
        write_text(folder / "metrics.csv", _csv(records))
        evaluation_page(folder / "report.html", records, table, found)
    return table


def _compare(
    result: Path,
    reference: Path,
    name: str,
    settings: EvaluateSettings,
    labels: Mapping[str, int | None] | None,
    structures: Sequence[str],
    meshes: MeshSettings | None,
) -> tuple[dict, tuple[Surfaces, Surfaces]]:
    if not result.is_dir():
        raise ValueError(f"{result} is not a folder; expected the output of shapefit fit or project")
    fit = read_record(result) if (result / FILE).is_file() else {}
    files = mesh_files(result)
    if not fit and not files:
        raise ValueError(f"{result} holds neither {FILE} nor a mesh; expected the output of shapefit fit")
    known = dict(labels or fit.get("structures") or {})
    if TOTALSEGMENTATOR in known:
        known = dict.fromkeys(fit.get("structures") or files)
    names = list(structures or known or files)
    if missing := [s for s in structures if known and s not in known]:
        raise ValueError(f"{result} knows no structure {missing[0]!r}; its structures are {', '.join(known)}")
    wanted = {s: known[s] for s in names} if known else names
    case = read_case(reference, wanted, meshes=meshes)
    if "world_from_bone" in fit:
        placed = _registered(result, fit, meshes) if fit.get("converged") else {}
        made = {s: placed[s] for s in names if s in placed}
    else:
        made = {s: _read_any(files[s]) for s in names if s in files}
    views = recorded_views(fit) if made else []
    record = compare(made, case.surfaces, settings, names, views, name)
    if told := case.warnings():
        record["findings"] = told
    if fit and not fit.get("converged"):
        record["failed"] = f"the fit failed: {fit.get('reason') or 'no reason is given'}"
    if case.landmarks and fit.get("landmarks"):
        # readings that the model knows nothing of are no failure of the result
        means = {key: at.mean(0).tolist() for key, at in case.landmarks.items() if key in fit["landmarks"]}
        record["landmarks"] = landmark_errors(fit["landmarks"], means)
    return record, (made, dict(case.surfaces))


def _registered(result: Path, fit: dict, meshes: MeshSettings | None) -> Surfaces:
    """The meshes that were registered, in world mm. Raises ValueError where something else was."""
    bone = Path(str(fit.get("bone")))
    if bone.suffix.lower() not in MESH_SUFFIXES and not (bone.is_dir() and mesh_files(bone)):
        raise ValueError(
            f"{result} is the registration of {bone}, which is no mesh and no folder of meshes: there is no "
            "surface to be measured"
        )
    read = read_bone(bone, meshes=meshes).matter
    assert not isinstance(read, Volume)
    matrix = np.array(fit["world_from_bone"], dtype=np.float64)
    return {name: mesh.copy().apply_transform(matrix) for name, mesh in read.items()}


def _read_any(path: Path) -> trimesh.Trimesh:
    """A result's mesh, however broken: what is wrong with it is for the metrics to say and count."""
    try:
        return read_mesh(path, closed=False)
    except ValueError:
        return trimesh.Trimesh()


def _csv(records: Sequence[dict]) -> str:
    """One row per case, alignment and structure."""
    rows = []
    for record in records:
        for alignment, by_structure in record["metrics"].items():
            for structure, figures in by_structure.items():
                flat = {key: value for key, value in figures.items() if not isinstance(value, dict)}
                for part in ("in_view", "out_of_view"):
                    flat |= {f"{part}.{key}": value for key, value in (figures.get(part) or {}).items()}
                head = {"case": record["case"], "alignment": alignment, "structure": structure}
                rows.append(head | flat)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
