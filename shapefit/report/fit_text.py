"""What the page of a fit says in words and single figures."""

import numpy as np
import torch
import trimesh

from shapefit import se3
from shapefit.metrics import ALL
from shapefit.report.page import escape, facts, number, readable, section, verdict
from shapefit.surface_distance import join
from shapefit.view import View

Surfaces = dict[str, trimesh.Trimesh]
SIZE_SPREAD = 0.065  # standard deviation of pelvic size between adults, as a share of it


def fit_title(record: dict, views: int) -> str:
    model = readable(str(record.get("model", "model")))
    return f"{model[:1].upper()}{model[1:]} fitted to {views} X-ray{'s' if views != 1 else ''}"


def fit_verdict(record: dict, note: str) -> str:
    reason = escape(record.get("reason") or "no reason given").rstrip(".")
    if record.get("converged"):
        return verdict(True, f"<b>The fit converged:</b> {reason}", escape(note))
    return verdict(False, f"<b>The fit failed: {reason}.</b> Do not use its surface.", escape(note))


def start_in_words(start: dict) -> str:
    """Where a fit or a registration began, and what the network said that was asked; "" if none was."""
    network = start.get("network")
    if not network:
        return ""
    said = [text for text in (start.get("network_says"), start.get("doubt")) if text]
    if apart := start.get("apart"):
        said.append(f"a search over views ended {number(float(apart), 1)} standard deviations away")
    where = (
        f"where {network} saw the bone" if start.get("kind") == "scene" else f"elsewhere than {network} says"
    )
    return where + (f" ({'; '.join(said)})" if said else "")


def fit_facts(record: dict, unseen: float | None, metrics: dict | None) -> str:
    items = [("X-rays", str(len(record.get("views") or [])), "")]
    dice = [value for v in record.get("views") or [] for value in (v.get("dice") or {}).values()]
    if dice:
        items.append(("mean Dice with the masks", number(float(np.mean(dice)), 3), ""))
        items.append(("lowest Dice", number(float(np.min(dice)), 3), ""))
    if metrics and not metrics["metrics"]["absolute"][ALL]["failed"]:
        items.append(("ASSD as found", number(metrics["metrics"]["absolute"][ALL]["assd"]), "mm"))
        items.append(
            ("ASSD, similarity-aligned", number(metrics["metrics"]["similarity"][ALL]["assd"]), "mm")
        )
    if unseen is not None:
        items.append(("surface outside every view", f"{100 * unseen:.0f}", "%"))
    if record.get("scale") is not None:
        items.append(("scale", number(float(record["scale"]), 3), ""))
    if record.get("seconds") is not None:
        items.append(("time", number(float(record["seconds"]), 1), "s"))
    return facts(items)


def fit_caption(view: View, entry: dict) -> str:
    name = entry.get("name") or view.name
    lines = [f"<b>{escape(name)}</b>"]
    if entry.get("loss") is not None and np.isfinite(entry["loss"]):
        terms = ", ".join(
            f"{escape(readable(k))} {value:.4g}" for k, value in (entry.get("terms") or {}).items()
        )
        lines.append(f"loss {entry['loss']:.4g}" + (f" ({terms})" if terms else ""))
    if entry.get("dice"):
        lines.append("Dice " + ", ".join(f"{escape(readable(k))} {d:.3f}" for k, d in entry["dice"].items()))
    camera = view.camera
    lines.append(
        f"{camera.width} &times; {camera.height} px of {float(camera.delx):.4g} &times; "
        f"{float(camera.dely):.4g} mm, source to detector {float(camera.sdd):.4g} mm"
    )
    return "<br>".join(lines)


def fit_limits(record: dict, surfaces: Surfaces, known: list[View]) -> str:
    items = []
    views = len(record.get("views") or [])
    if views == 1:
        text = (
            "<strong>One view leaves depth and size nearly free.</strong> A larger bone further from the "
            "source casts the same shadow, and only the shape model&rsquo;s idea of usual sizes decides."
        )
        if surfaces and known:
            camera_from_world = se3.inverse(known[0].world_from_camera.double())
            centre = torch.as_tensor(join(list(surfaces.values())).vertices.mean(0))
            depth = float(se3.transform(camera_from_world, centre[None])[0, 2])
            text += (
                f" Here the bones lie {depth:.0f} mm from the source: the usual spread of pelvic size, "
                f"{100 * SIZE_SPREAD:.1f} %, is {SIZE_SPREAD * depth:.0f} mm of depth."
            )
        items.append(text + " Read lengths and positions along the beam with that in mind.")
    elif views > 1:
        items.append(
            f"<strong>{views} views fix size and depth as well as their geometry is known.</strong> An error "
            "in the cameras&rsquo; places relative to one another becomes an error of the shape."
        )
    items += [
        "<strong>Metric and aligned figures answer different questions.</strong> Positions, &ldquo;as "
        "found&rdquo; distances and landmarks are metric, in world mm. Similarity-aligned figures judge the "
        "shape alone, with the best position, rotation and size given for free.",
        "A shape model can only say what its training shapes span: fractures, implants, bone spurs and "
        "children are outside it. Small Dice or loss differences do not prove the hidden side right.",
        "Research software; not a medical device.",
    ]
    return section(
        "What this cannot know",
        '<ul class="plain">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>",
    )


def fit_details(record: dict) -> str:
    lines = [
        ("model", record.get("model")),
        ("begun", start_in_words(record.get("start") or {}) or None),
        ("seed", record.get("seed")),
        ("shapefit", record.get("package_version")),
    ]
    body = facts([(name, escape(value), "") for name, value in lines if value is not None])
    if record.get("command"):
        body += f"<h3>Command</h3><pre>{escape(record['command'])}</pre>"
    if record.get("landmarks"):
        rows = "".join(
            f"<tr><td>{escape(name)}</td>"
            + "".join(f"<td>{number(float(v), 1)}</td>" for v in place)
            + "</tr>"
            for name, place in record["landmarks"].items()
        )
        body += (
            "<h3>Landmarks</h3><table><thead><tr><th>world mm</th><th>x <small>right</small></th><th>y "
            f"<small>front</small></th><th>z <small>up</small></th></tr></thead><tbody>{rows}</tbody></table>"
        )
    return section("Details", body)
