"""What `study_scene.py` measured, as Markdown and as curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shapefit.io.atomic import atomic_path

NAMES = {
    "rotation_deg": "rotation, deg",
    "translation_mm": "centre in space, mm",
    "in_plane_mm": "centre in the image's plane, mm",
    "depth_mm": "centre in depth, mm",
    "mpe_mm": "vertices on the detector, mm",
    "mtre_mm": "vertices in space, mm",
    "similarity_assd_mm": "similarity-aligned ASSD, mm",
    "rigid_assd_mm": "rigidly aligned ASSD, mm",
    "absolute_assd_mm": "ASSD, mm",
}


def report(result: dict) -> str:
    """All tables of a study of simulated X-rays."""
    parts = ["# What a scene network locates", _measures("Located", result["located"])]
    known = result["references"]
    parts.append(
        f"Similarity-aligned ASSD of the mean shape {known['mean_shape']:.2f} mm, of the model's best shape "
        f"in as many modes {known['models_best']:.2f} mm. {result['cpu_seconds']:.2f} s of CPU per X-ray."
    )
    if "refined" in result:
        part = result["refined"]
        parts.append(_measures("Refined", part))
        parts.append(
            f"Capture failures ({_limits(part['captured'], 'or', 'above')}): "
            f"{100 * part['capture_failures']:.1f} %, of which believed: {part['lost_and_yet_converged']}. "
            f"Began at the prior, with or without an answer: {part['started_from_prior']}. "
            f"{part['cpu_seconds']:.1f} s of CPU per fit."
        )
        parts.append(_measures("Refined and believed", result["believed"]))
    if "empty" in result:
        empty = result["empty"]
        parts.append(f"Of {empty['runs']} X-rays without the bone, {empty['answers']} got an answer.")
    if result["covariance"]:
        parts.append(_calibration(result["covariance"]))
    if len(result["bones"]) > 1:
        parts.append(_bones(result["bones"]))
    return "\n\n".join(parts) + "\n"


def _limits(limits: dict[str, float], word: str, side: str) -> str:
    parts = [(*NAMES[name].rsplit(", ", 1), most) for name, most in limits.items()]
    return f" {word} ".join(f"{what} {side} {most:g} {unit}" for what, unit, most in parts)


def _cell(value: float | None) -> str:
    return "no answer" if value is None else f"{value:.2f}"


def _measures(title: str, part: dict) -> str:
    lines = [
        f"## {title}: {part['runs']} X-rays\n",
        "| error | mean +- std of the answers | median | 90 % | 95 % | largest |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in part["measures"].items():
        cells = [_cell(row[key]) for key in ("median", "p90", "p95", "largest")]
        lines.append(f"| {NAMES[name]} | {row['mean']:.2f} +- {row['std']:.2f} | " + " | ".join(cells) + " |")
    reasons = "; ".join(f"{count} {reason}" for reason, count in part["reasons"].items())
    lines.append(
        f"\nWithout an answer: {100 * part['without_answer']:.1f} %{': ' * bool(reasons)}{reasons}. They "
        f"count as infinitely far off in the median and the percentiles.\n\nTogether: "
        f"{_limits(part['limits'], 'and', 'at most')}: {100 * part['within']:.1f} % of all."
    )
    return "\n".join(lines)


def _calibration(kinds: dict[str, dict]) -> str:
    lines = ["## Are the stated deviations right?\n"]
    levels = next(iter(kinds.values()))["levels"]
    lines.append(
        "| | " + " | ".join(f"{level:.0%} bands hold" for level in levels) + " | errors over stated |"
    )
    lines.append("|---" * (len(levels) + 2) + "|")
    for kind, row in kinds.items():
        held = " | ".join(f"{share:.0%}" for share in row["inside"])
        lines.append(f"| {kind} | {held} | {row['median_over_expected']:.2f} |")
    return "\n".join(lines)


def _bones(bones: dict[str, dict]) -> str:
    lines = [
        "## Bone by bone\n",
        "| bone | X-rays | without an answer | rotation, deg | translation, mm | ASSD, mm | mean shape's "
        "| model's best |",
        "|---" * 8 + "|",
    ]
    for name, part in bones.items():
        found = [
            part["measures"].get(key) for key in ("rotation_deg", "translation_mm", "similarity_assd_mm")
        ]
        cells = " | ".join("none" if row is None else f"{row['mean']:.2f}" for row in found)
        lines.append(
            f"| {name} | {part['runs']} | {100 * part['without_answer']:.1f} % | {cells} | "
            f"{part['mean_shape']:.2f} | {part['models_best']:.2f} |"
        )
    return "\n".join(lines) + "\n\nMeans over the answers."


def curves(result: dict, records: Sequence[dict], path: Path) -> None:
    """Share of all runs within each error; what has no answer keeps the curves below 1."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {"located": [r["errors"] for r in records]}
    if "refined" in result:
        kinds["refined"] = [r["refined"]["errors"] for r in records]
    panels = (
        ("rotation_deg", "rotation, deg", 10.0),
        ("in_plane_mm", "centre in the image's plane, mm", 15.0),
        ("depth_mm", "centre in depth, mm", 60.0),
        ("similarity_assd_mm", "similarity-aligned ASSD, mm", 6.0),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.2), sharey=True)
    for axis, (name, label, most) in zip(axes, panels, strict=True):
        for (kind, errors), ink in zip(kinds.items(), ("#1f77b4", "#2ca02c"), strict=False):
            values = np.sort([abs(e[name]) for e in errors if e is not None])
            share = np.arange(1, len(values) + 1) / len(errors)
            across = np.concatenate([[0.0], values, [max(most, *values, 0)]])
            up = np.concatenate([[0.0], share, share[-1:] if len(share) else [0.0]])
            axis.step(across, up, where="post", color=ink, label=kind)
        if name == "similarity_assd_mm":
            for key, dash in (("mean_shape", ":"), ("models_best", "--")):
                axis.axvline(
                    result["references"][key], color="0.4", ls=dash, lw=1, label=key.replace("_", " ")
                )
        axis.set(xlim=(0, most), ylim=(0, 1), xlabel=label)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=7, loc="lower right")
    axes[0].set_ylabel("share of all X-rays")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)
