"""The explorer of a shape model: what a page needs to bend the mean by itself, packed, and its controls."""

from collections.abc import Mapping
from typing import NamedTuple

import fast_simplification
import numpy as np
from jaxtyping import Float, Int

from shapefit.mesh import closest_points
from shapefit.report.colours import DISTANCE_SCALE, even_steps, signed_steps
from shapefit.report.page import LOOK, base64_of, choice, escape, readable, section, structure_switches
from shapefit.shape_model import ShapeModel

MODES_PACKED = 30  # those of the largest variance; each has a slider
VERTICES_SHOWN = 15_000  # recomputed at every move of a slider; larger meshes are shown lighter
RANGE = 3.0  # std, ends of the sliders
DIGITS = 2**23 - 1  # largest of the 24-bit integers that hold a mode
COLOURINGS = [
    ("structure", "Structure"),
    ("spread", "Standard deviation"),
    ("distance", "Distance to the mean"),
    ("signed", "In or out"),
]


class Shown(NamedTuple):
    """The mesh of a page: the model's vertices structure by structure, or a lighter one, and its modes."""

    mean: Float[np.ndarray, "V 3"]  # mm
    faces: Int[np.ndarray, "F 3"]
    basis: Float[np.ndarray, "K V 3"]  # mm per standard deviation
    spans: list[tuple[int, int, int, int]]  # of each structure: first vertex, vertices, first face, faces


def shown_mesh(model: ShapeModel, vertices: int = VERTICES_SHOWN) -> Shown:
    """The model's mean and modes, structure by structure as in `ShapeModel.surfaces`.

    Over `vertices` vertices the mean is decimated (quadric), for display only; the lighter mesh takes its
    modes from where its vertices lie on the full one.
    """
    mean, faces = model.mean.numpy(), model.faces.numpy()
    basis = (model.components * model.std[:, None, None]).numpy()
    structure = model.structure.numpy()
    keep = min(1.0, vertices / len(mean))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for index in range(len(model.names)):
        used, local = np.unique(faces[structure == index], return_inverse=True)
        part = mean[used], local.reshape(-1, 3), basis[:, used]
        parts.append(part if keep == 1 else _lighter(*part, keep))
    spans, vertex, face = [], 0, 0
    for own, triangles, _ in parts:
        spans.append((vertex, len(own), face, len(triangles)))
        vertex, face = vertex + len(own), face + len(triangles)
    return Shown(
        np.concatenate([own for own, _, _ in parts]),
        np.concatenate([triangles + span[0] for (_, triangles, _), span in zip(parts, spans, strict=True)]),
        np.concatenate([moved for _, _, moved in parts], axis=1),
        spans,
    )


def _lighter(
    mean: np.ndarray, faces: np.ndarray, basis: np.ndarray, keep: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vertices, triangles = fast_simplification.simplify(
        mean.astype(np.float32), faces.astype(np.int32), target_count=max(200, round(keep * len(faces)))
    )
    place = closest_points(vertices, mean, faces)
    weights = place.barycentric[None, :, :, None]
    return place.point, triangles, (basis[:, faces[place.face]] * weights).sum(2)


def pack_model(model: ShapeModel, colours: Mapping[str, str], modes: int = MODES_PACKED) -> dict:
    """What explorer_shape.js takes: mesh, modes, landmarks and the training cases' coefficients.

    A mode is held in 24-bit integers and a scale: at 3 std its error is below a millionth of its largest
    displacement.
    """
    shown = shown_mesh(model)
    variance = (model.std**2).numpy()
    whole = np.sqrt((shown.basis**2).sum((0, 2)) + 3 * model.noise_variance)
    points = model.landmark_positions(model.mean).numpy()
    marks = {"names": list(model.landmarks.names), "corners": [], "weights": []}
    if len(points):
        found = closest_points(points, shown.mean, shown.faces)
        marks |= {"corners": shown.faces[found.face].tolist(), "weights": found.barycentric.tolist()}
    scores = model.scores[:, :modes].tolist() if len(model.scores) == len(model.cases) else []
    return {
        "mean": base64_of(shown.mean.astype(np.float32)),
        "faces": base64_of(shown.faces.astype(np.uint32)),
        "modes": [_digits(mode) for mode in shown.basis[:modes]],
        "share": (variance / max(variance.sum(), 1e-300))[:modes].tolist(),
        "modes_in_all": model.modes,
        "spread": base64_of(whole.astype(np.float32)),
        "structures": [
            {"name": name, "label": readable(name), "colour": colours[name], "span": span}
            for name, span in zip(model.names, shown.spans, strict=True)
        ],
        "landmarks": marks,
        "cases": [
            {"name": name, "coefficients": own}
            for name, own in zip(model.cases if scores else (), scores, strict=True)
        ],
        "range": RANGE,
        "scales": {"distance": even_steps(DISTANCE_SCALE[:-1]), "signed": signed_steps()},
    }


def _digits(mode: Float[np.ndarray, "V 3"]) -> dict:
    """A mode as little-endian 24-bit integers times a scale in mm."""
    scale = max(float(np.abs(mode).max()), 1e-12) / DIGITS
    whole = np.round(mode / scale).astype("<i4")
    return {"scale": scale, "digits": base64_of(whole.reshape(-1, 1).view(np.uint8)[:, :3])}


def explorer_section(model: ShapeModel, colours: dict[str, str], modes: int = MODES_PACKED) -> str:
    """HTML of the viewer, the sliders and the scatter plot; model.js brings them to life."""
    modes = min(modes, model.modes)
    share = (model.std**2).numpy() / max(float((model.std**2).sum()), 1e-300)
    noise = f" and noise of {model.noise_variance**0.5:.2f} mm" if model.noise_variance > 0 else ""
    spreads = f'<option value="all">the whole model ({model.modes} modes{noise})</option>'
    if modes < model.modes:
        spreads += f'<option value="packed">modes 1 to {modes}</option>'
    spreads += "".join(f'<option value="{k}">mode {k + 1} alone</option>' for k in range(modes))
    marks = (
        '<label><input type="checkbox" id="marks">landmarks</label>'
        '<label><input type="checkbox" id="names" checked>their names</label>'
        if model.landmarks.names
        else ""
    )
    controls = (
        f'<div class="controls">{LOOK}{structure_switches(colours)}{marks}</div>'
        f'<div class="controls"><span class="about">Colour</span>{choice("colour", COLOURINGS, "structure")}'
        f'<label id="spread-of" hidden>of <select id="spread">{spreads}</select></label>'
        '<button type="button" class="plain" id="save" title="as PLY, mm, RAS">Save this shape</button>'
        "</div>"
    )
    viewer = (
        '<div class="viewer"><canvas id="shape" tabindex="0" role="img" aria-label="The shape in 3D; arrow '
        'keys turn it, plus and minus bring it closer or further, 0 shows all of it"></canvas>'
        '<div class="labels" aria-hidden="true"></div>'
        '<div class="hud"><strong id="shape-name">Mean shape</strong><span id="shape-facts"></span></div>'
        '<div class="scalebar"><i></i><span></span></div>'
        '<svg class="compass" viewBox="-40 -40 80 80" aria-hidden="true"></svg>'
        '<div class="colourbar" hidden><div class="title"></div><div class="ramp"></div>'
        '<div class="ticks"></div></div></div>'
    )
    sliders = "".join(_slider(k, float(share[k])) for k in range(modes))
    side = (
        '<div class="side"><div class="buttons">'
        '<button type="button" class="plain" id="mean">Mean</button>'
        '<button type="button" class="plain" id="random">Random shape</button>'
        '<select id="case" aria-label="show a training case"></select></div>'
        '<figure class="scatter"><svg id="scatter" role="img" aria-label="Training cases in two modes; the '
        'list above shows them too"></svg>'
        '<div class="axes"><label>across <select id="across"></select></label>'
        '<label>up <select id="up"></select></label></div></figure>'
        f'<div class="sliders" role="group" aria-label="modes, in standard deviations">{sliders}</div></div>'
    )
    part = ""
    if modes < model.modes:
        part = (
            f" The page holds the first {modes} of {model.modes} modes, {100 * share[:modes].sum():.1f} % of "
            "the variance: cases and random shapes are drawn from these."
        )
    if len(model.mean) > VERTICES_SHOWN:
        part += f" A lighter mesh stands for the model&rsquo;s {len(model.mean)} vertices."
    note = (
        "Drag to turn, scroll or pinch to come closer, drag with Shift or two fingers to move, double-click "
        "to see all. A dot of the plot is a training case (a ring, its mirror image): click it to see it; "
        "drag elsewhere in the plot to wander through the shapes. Coefficients are in standard deviations of "
        "the training shapes, distances from each vertex to its own place on the mean; a vertex&rsquo;s "
        "standard deviation is the root of its variances along x, y and z together." + part
    )
    return section(
        "Mean and modes",
        f'{controls}<div class="explorer">{viewer}{side}</div><p class="note hint">{note}</p>',
        name="explorer",
    )


def _slider(mode: int, share: float) -> str:
    name = f"mode {mode + 1}, {100 * share:.1f} % of the variance"
    return (
        f'<div class="slider-row" title="{escape(name)}"><button type="button" class="play" '
        f'data-play="{mode}" aria-label="play mode {mode + 1}" aria-pressed="false"></button>'
        f'<label for="mode{mode}">{mode + 1}</label>'
        f'<input type="range" id="mode{mode}" min="{-RANGE:g}" max="{RANGE:g}" step="0.05" value="0" '
        f'aria-label="{escape(name)}"><output id="value{mode}" for="mode{mode}">0.00</output>'
        f"<small>{100 * share:.1f} %</small></div>"
    )
