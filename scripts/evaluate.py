"""Results against references, through the Python API: what `shapefit evaluate` does, step by step.

python scripts/evaluate.py out/ap out/two --references truth_1 truth_2 -o out/figures
"""

import json
from pathlib import Path
from typing import Annotated

import tyro

import shapefit as sf


def main(
    results: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    references: tuple[Path, ...],
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    settings: Annotated[sf.EvaluateSettings, tyro.conf.arg(name="")] = sf.EvaluateSettings(),
) -> None:
    """Measure surfaces against their references.

    Args:
        results: folders of <structure>.ply in world mm
        references: folders of meshes, in the order of the results
        output: folder for metrics.json and report.html
    """
    # Meshes of both sides, in the same world; a structure that is missing is a failure that counts.
    pairs = [
        (sf.read_surfaces(result), sf.read_case(reference).surfaces)
        for result, reference in zip(results, references, strict=True)
    ]
    records = [
        sf.compare(result, reference, settings, list(reference), name=str(folder))
        for folder, (result, reference) in zip(results, pairs, strict=True)
    ]
    table = sf.tabulate(records)
    output.mkdir(parents=True, exist_ok=True)
    (output / "metrics.json").write_text(json.dumps({"records": records} | table, indent=2))
    sf.evaluation_page(output / "report.html", records, table, pairs)

    # As found, and with pose (rigid) or pose and size (similarity) taken out: three different questions.
    print(f"{'':12}{'structure':16}{'ASSD':>8}{'HD95':>8}{'HD':>8}   mm, mean over cases")
    for alignment, by_structure in table["table"].items():
        for structure, figures in by_structure.items():
            means = (figures.get(key, {}).get("mean") for key in ("assd", "hd95", "hausdorff"))
            numbers = "".join("       -" if mean is None else f"{mean:8.2f}" for mean in means)
            print(f"{alignment:12}{structure:16}{numbers}")
    for failure in table["failures"]:
        print(f"FAILED {failure['case']} {failure['structure']}: {failure['reason']}")
    print(output / "report.html")


if __name__ == "__main__":
    tyro.cli(main)
