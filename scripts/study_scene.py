"""How well a scene network locates bones in X-rays: simulated ones of bones left out, and real fluoroscopy.

python scripts/study_scene.py simulated --left-out z036 z061 -o out/scene_simulated
python scripts/study_scene.py specific --network z001.safetensors --model z001.h5 -o out/scene_specific
python scripts/study_scene.py refined --left-out z036 z061 --runs 100 -o out/scene_refined
python scripts/study_scene.py registered --network z001.safetensors --model z001.h5 -o out/scene_registered
python scripts/study_scene.py fluoroscopy --data ../shared/data/fluoroscopy/specimen_18-2800.npz -o out/real

`simulated`: the registered shapes of subjects left out of the network's model (and their mirror images), in
turn, each X-ray with a pose, a body and a picture of its own from the prior of `shapefit simulate`; located
with the model of the others. `specific`: the same for a model without modes, of which the network knows the
one bone. `refined`: a fit starts from what was located, as in `shapefit fit --init`. `registered`: the one
bone is placed from there on, as in `shapefit register --init`. In all four, errors are those of the bone in
the camera's frame: `rotation` and `translation` are of the rigid motion between corresponding vertices, about
their centre. A run without an answer counts in every share and median.
`fluoroscopy`: 30 views of one specimen, without 3D truth: Dice of the hemipelves with masks drawn by hand;
even positions in the file were there to tune on, odd ones not. A study goes on where it was interrupted:
runs.jsonl has one line per run.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import scene_fluoroscopy
import scene_runs
import tyro
from scene_errors import calibration, summary
from scene_tables import curves, report

import shapefit as sf
from shapefit.io.atomic import prepare_output_dir, write_text
from shapefit.io.scene import read_scene
from shapefit.settings import FitSettings, LocateSettings, RegisterSettings, SimulateSettings
from shapefit.workers import Workers

BATCH = 25  # runs that a worker does at a time
LIMITS = {  # what is asked for of a run, by study
    "simulated": {"rotation_deg": 4.0, "translation_mm": 23.0},
    "specific": {"rotation_deg": 2.0, "translation_mm": 12.0},
    "refined": {"rotation_deg": 2.0, "similarity_assd_mm": 2.5},
    "registered": {"rotation_deg": 2.0, "translation_mm": 12.0},
}
LOCATED = {"refined": "simulated", "registered": "specific"}  # what these begin with, as that study has it
CAPTURED = {"rotation_deg": 10.0, "in_plane_mm": 10.0}  # beyond, a refined fit is somewhere else


@dataclass(frozen=True)
class Study:
    """What is measured."""

    runs: int = 2700
    """simulated X-rays that show the bone"""
    empty: int = 300
    """besides, X-rays of a body without it; none while poses are refined"""
    left_out: tuple[str, ...] = ()
    """subjects whose bones are shown, of the model; the network must not have seen them"""
    workers: int = 1
    """processes; the result is the same for any number"""


def seeds(simulate: SimulateSettings, empty: bool) -> SimulateSettings:
    """X-rays with the bone, or without; with another seed, so that one is not the other's body."""
    return replace(simulate, empty=1.0 if empty else 0.0, seed=simulate.seed + empty)


def runs(
    what: str, study: Study, work: scene_runs.Work, log: Path, done: list[dict]
) -> tuple[list[dict], list[dict]]:
    """The records of all runs, with and without the bone; those that are done are not done again."""
    had = {(r["kind"], r["number"]) for r in done}
    kinds = {"bone": study.runs, "empty": 0 if what in LOCATED else study.empty}
    plan: list[tuple[str, list[int]]] = []
    for kind, count in kinds.items():
        left = [n for n in range(count) if (kind, n) not in had]
        plan += [(kind, left[k : k + BATCH]) for k in range(0, len(left), BATCH)]

    def jobs() -> Iterator[tuple]:
        for kind, numbers in plan:
            yield replace(work, simulate=seeds(work.simulate, kind == "empty")), numbers

    total = len(done)
    with Workers(study.workers) as pool, log.open("a") as file:
        for (kind, _), records in zip(plan, pool.stream(scene_runs.batch, jobs()), strict=True):
            rows = [{"kind": kind, **record} for record in records]
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            done, total = done + rows, total + len(rows)
            print(
                f"{total} of {sum(kinds.values())} X-rays, {sum(r['found'] for r in done)} answers",
                flush=True,
            )
    kept = [r for r in done if r["number"] < kinds[r["kind"]]]
    return tuple([r for r in kept if r["kind"] == kind] for kind in kinds)  # type: ignore[return-value]


def begun(log: Path, about: dict) -> list[dict]:
    """The runs that a log holds already. Ends the program if they are of another study."""
    about = json.loads(json.dumps(about))
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    lines = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
    if not lines:
        write_text(log, json.dumps(about) + "\n")
        return []
    if json.loads(lines[0]) != about:
        sys.exit(f"{log} holds runs of another study or other settings; choose another folder or delete it")
    write_text(log, "".join(lines))
    return [json.loads(line) for line in lines[1:]]


def result_of(what: str, shown: list[dict], empty: list[dict], references: dict) -> dict:
    """All figures of a study of simulated X-rays."""
    result = {
        "located": summary(shown, LIMITS[LOCATED.get(what, what)]),
        "covariance": calibration(shown),
        "bones": {
            name: summary([r for r in shown if r["bone"] == name], LIMITS[what]) | references[name]
            for name in references
            if any(r["bone"] == name for r in shown)
        },
        "references": {
            key: sum(references[r["bone"]][key] for r in shown) / len(shown)
            for key in ("mean_shape", "models_best")
        },
        "cpu_seconds": sum(r["cpu_seconds"] for r in shown) / len(shown),
    }
    if empty:
        result["empty"] = {"runs": len(empty), "answers": sum(r["found"] for r in empty)}
    if what in LOCATED:
        fits = [r["refined"] for r in shown]
        lost = [
            f["errors"] is None or any(abs(f["errors"][k]) > most for k, most in CAPTURED.items())
            for f in fits
        ]
        result["refined"] = summary(fits, LIMITS[what]) | {
            "capture_failures": sum(lost) / len(fits),
            "captured": CAPTURED,
            "lost_and_yet_converged": sum(
                f["converged"] and gone for f, gone in zip(fits, lost, strict=True)
            ),
            "started_from_prior": sum(f["start"] == "prior" for f in fits),
            "cpu_seconds": sum(f["cpu_seconds"] for f in fits) / len(fits),
        }
        # those that the fit itself calls failed are no answers of the command
        answers = [f if f["converged"] else f | {"errors": None} for f in fits]
        result["believed"] = summary(answers, LIMITS[what])
    return result


def main(
    what: tyro.conf.Positional[Literal["simulated", "specific", "refined", "registered", "fluoroscopy"]],
    /,
    *,
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    network: str = "pelvis-scene",
    model: str = "pelvis",
    data: Path | None = None,
    study: Annotated[Study, tyro.conf.arg(name="")] = Study(),
    simulate: SimulateSettings = SimulateSettings(seed=2_000_000, deformation=0.0),
    locate: LocateSettings = LocateSettings(),
    fit: FitSettings = FitSettings(free_views=True),
    register: RegisterSettings = RegisterSettings(),
    init: Literal["auto", "scene", "prior", "none"] = "auto",
) -> None:
    """Measure what a scene network locates.

    Args:
        what: simulated X-rays of bones left out, of the one bone known, fits or registrations that start
            there, or real ones
        output: folder for runs.jsonl, scene.json, scene.md and scene.png
        network: a network's file, or the name of one that comes with shapefit
        model: the shape model with its training shapes, or, for one bone, a model without modes
        init: where fits and registrations begin: auto (the network, if it is believed), scene (only there),
            prior (a search), or none: real views are located and not fitted
        data: the archive of real views (image, segmentation, valid, view, pixel_spacing_mm, sdd_mm)
    """
    if what in LOCATED and init == "none":
        sys.exit("poses that are refined begin somewhere: --init auto, scene or prior")
    prepare_output_dir(output)
    seer, bones = read_scene(network), sf.read_model(model)
    about = {"what": what, "network": Path(network).name, "model": Path(model).name, "locate": asdict(locate)}
    if what == "fluoroscopy":
        if data is None:
            sys.exit("say where the real views are: --data FILE.npz")
        about |= {"data": data.name, "fit": asdict(fit), "init": init}
        done = begun(output / "runs.jsonl", about)
        scene_fluoroscopy.study(seer, bones, data, locate, fit, init, output, done)
        return
    about |= {"left_out": list(study.left_out), "simulate": asdict(simulate)}
    refine = {"refined": fit, "registered": register}.get(what)
    if refine is not None:
        about |= {"refine": asdict(refine), "init": init}
    try:
        if what in ("specific", "registered"):
            known = scene_runs.one_bone(seer, bones, simulate)
        else:
            known = scene_runs.left_out(seer, bones, study.left_out, simulate)
    except ValueError as error:
        sys.exit(f"error: {error}")
    done = begun(output / "runs.jsonl", about)
    work = scene_runs.Work(known, simulate, locate, refine, init)
    shown, empty = runs(what, study, work, output / "runs.jsonl", done)
    result = about | result_of(what, shown, empty, scene_runs.references(known, locate.modes))
    write_text(output / "scene.json", json.dumps(result, indent=1))
    write_text(output / "scene.md", report(result))
    curves(result, shown, output / "scene.png")
    print(report(result))


if __name__ == "__main__":
    tyro.cli(main)
