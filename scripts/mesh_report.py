"""What `benchmark_mesh.py` measured, as aligned Markdown and as a plot."""

from pathlib import Path

import numpy as np

OURS = "shapefit"
TITLES = {"faces": "faces", "pixels": "pixels", "batch": "views at once"}


def table(result: dict, asked: dict) -> str:
    """Times and errors of each scene, leaks over all of them, growth of time and memory."""
    renderers = result["renderers"]
    parts = [result["machine"]]
    if result["quick"]:
        parts.append("A quick run: everything once and small, so the times mean nothing.")
    for scene, about in asked.items():
        if about["timed"]:
            parts.append(f"## {scene} px\n\n{_scene_table(renderers, scene)}")
    parts.append(
        "x ours: of the float32 row. New vertices: taking changed ones before they can be seen, not in the "
        "times before it. Errors in mm against float64 on the same mesh; gradient: |g - exact| / |exact|, of "
        "a smooth weighted sum of the image in the vertices. The sphere's facets themselves are "
        f"{result['facets']['median']:.2f} mm (median; at most {result['facets']['max']:.1f}) from the "
        "chords of the ball of 80 mm."
    )
    parts.append(
        "## Leaks: pixels off by more than 10 mm, and pixels below zero\n\n" + _leak_table(renderers, asked)
    )
    parts.append(
        "The cube's vertices, edges and face diagonals lie exactly on the rays of pixel centres. A loop that "
        "goes on from a hit by a small step misses a surface that is nearer than the step, and sees "
        "an edge's two faces or none."
    )
    parts.append("## Growth of shapefit\n\n" + _growth(result["scaling"], result["memory"]))
    told = [f"- {r['title']} {r['version']}: {r['threads']}" for r in renderers.values() if "version" in r]
    parts.append("## Threads\n\n" + "\n".join(told))
    failed = [f"- {r['title']}: {r['failure']}" for r in renderers.values() if "failure" in r]
    parts.append("## Not measured, or not to the end\n\n" + ("\n".join(failed) or "- none"))
    return "\n\n".join(parts) + "\n"


def _aligned(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(2, *(len(row[k]) for row in [head, *rows])) for k in range(len(head))]
    rule = [":" + "-" * (widths[0] - 1)] + ["-" * (width - 1) + ":" for width in widths[1:]]
    cells = [
        [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        for row in [head, *rows]
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _scene_table(renderers: dict, scene: str) -> str:
    ours = renderers.get(OURS, {}).get("scenes", {}).get(scene, {})
    rows = []
    for record in renderers.values():
        got = record.get("scenes", {}).get(scene)
        if not got or "forward" not in got:
            continue
        row = [record["title"]]
        for key in ("forward", "both"):
            ratio = got[key] / ours[key] if got[key] and ours.get(key) else None
            row += [_number(got[key]), _number(ratio, 2)]
        error = got["errors"]
        row += [_number(got["place"], 2), f"{error['median']:.0e}", _number(error["max"], 2)]
        row += [str(error[key]) for key in ("above 0.1 mm", "above 10 mm", "negative")]
        rows.append([*row, f"{error['gradient']:.0e}" if "gradient" in error else ""])
    head = ["", "forward ms", "x ours", "forward + backward ms", "x ours", "new vertices ms"]
    head += ["median error", "max", "> 0.1 mm", "> 10 mm", "negative", "gradient error"]
    return _aligned(head, rows) + "\n\n" + _fastest(renderers, scene, ours)


def _fastest(renderers: dict, scene: str, ours: dict) -> str:
    said = []
    for key, what in (("forward", "forward"), ("both", "forward + backward")):
        peers = {
            record["title"]: record["scenes"][scene][key]
            for name, record in renderers.items()
            if not name.startswith(OURS) and record.get("scenes", {}).get(scene, {}).get(key)
        }
        if peers and ours.get(key):
            title = min(peers, key=peers.get)
            said.append(f"{what} {title}, {peers[title] / ours[key]:.1f} x ours")
    return f"The fastest peer: {'; '.join(said)}." if said else "No peer."


def _leak_table(renderers: dict, asked: dict) -> str:
    turns = [scene for scene in asked if scene.startswith("turn")]
    groups = {f"sphere, {len(turns)} views": turns}
    groups |= {scene: [scene] for scene, about in asked.items() if about["timed"]} | {"cube": ["box"]}
    rows = []
    for record in renderers.values():
        measured = record.get("scenes", {})
        row = [record["title"]]
        for group in groups.values():
            found = [measured[scene]["errors"] for scene in group if scene in measured]
            wrong, negative = (sum(e[key] for e in found) for key in ("above 10 mm", "negative"))
            row.append(f"{wrong} / {negative}" if found else "")
        if measured:
            rows.append(row)
    return _aligned(["", *groups], rows)


def _growth(scaling: dict, memory: dict) -> str:
    lines = []
    for axis, curve in scaling.items():
        if axis == "failure":
            continue
        forward, both = curve["exponents"]
        lines.append(
            f"- {TITLES[axis]}, {curve['n'][0]:,.0f} to {curve['n'][-1]:,.0f}: time grows as the power "
            f"{forward:.2f} forward, {both:.2f} forward + backward (upper half of the range)"
        )
    if "batch" in scaling:
        b = scaling["batch"]
        shares = [b[key][-1] / b[key][0] / b["n"][-1] for key in ("forward", "both")]
        lines.append(
            f"- a view in a batch of {b['n'][-1]:.0f} costs {shares[0]:.2f} of one alone forward, "
            f"{shares[1]:.2f} forward + backward"
        )
    if "forward" in memory:
        lines.append(
            f"- peak memory beyond inputs and results, {memory['faces']:,} faces, {memory['pixels']:,} "
            f"pixels: {memory['forward']:.0f} bytes per face forward, {memory['both']:.0f} forward + "
            "backward (of the resident set, so every temporary of every library counts)"
        )
    lines += [f"- not measured: {part['failure']}" for part in (scaling, memory) if "failure" in part]
    return "\n".join(lines)


def plot(result: dict, scene: str, path: Path) -> None:
    """Bars of the renderers' times on one scene, and our time against faces, pixels and views."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from shapefit.io.atomic import atomic_path

    light, dark, grey = "#7fb3d5", "#1f4e79", "#8a8a8a"
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    bars = left.subplots()
    rows = [r for r in result["renderers"].values() if "forward" in r.get("scenes", {}).get(scene, {})]
    rows = sorted(rows, key=lambda r: r["scenes"][scene]["forward"])
    for y, record in enumerate(rows):
        times = record["scenes"][scene]
        for shift, key, colour in ((-0.2, "forward", light), (0.2, "both", dark)):
            if times[key]:
                bars.barh(y + shift, times[key], 0.38, color=colour)
                bars.text(times[key] * 1.12, y + shift, _number(times[key], 2), va="center", fontsize=8.5)
    bars.set_yticks(range(len(rows)), [r["title"] for r in rows])
    for tick, record in zip(bars.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if record["title"].startswith("shapefit") else "normal")
    bars.invert_yaxis()
    bars.set_xscale("log")
    spent = [t for r in rows for t in (r["scenes"][scene]["forward"], r["scenes"][scene]["both"]) if t]
    bars.set_xlim(min(spent, default=1) / 3, 2.2 * max(spent, default=1))
    bars.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    bars.set_xlabel("ms (log scale)")
    bars.set_title(f"Path lengths, {scene} x {scene.split()[-1]} px", loc="left", fontsize=10.5)
    axes = right.subplots(1, 3, sharey=True)
    right.suptitle("shapefit: ms against ...", x=0.02, ha="left", fontsize=10.5)
    measured = [
        t
        for axis in TITLES
        for key in ("forward", "both")
        for t in result["scaling"].get(axis, {}).get(key, [])
    ]
    axes[0].set_ylim(min(measured, default=1) / 1.5, 1.5 * max(measured, default=1))
    for panel, (axis, title) in zip(axes, TITLES.items(), strict=True):
        curve = result["scaling"].get(axis)
        if not curve:
            continue
        n = np.array(curve["n"])
        for key, colour in (("forward", light), ("both", dark)):
            panel.loglog(n, curve[key], "o-", color=colour, ms=3.5, lw=1.6)
        panel.loglog(n, n / n[-1] * curve["both"][-1], ":", color=grey, lw=1.2)
        panel.set_xlabel(title)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        panel.xaxis.set_major_locator(LogLocator(numticks=4))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.25)
    left.legend(
        [Patch(color=light), Patch(color=dark)], ["forward", "forward + backward to the vertices"],
        loc="outside lower right", ncols=2, frameon=False, fontsize=9,
    )  # fmt: skip
    right.legend([Line2D([], [], ls=":", color=grey)], ["linear"], loc="outside lower right", frameon=False)
    with atomic_path(path) as made:
        figure.savefig(made, dpi=140)
    plt.close(figure)
