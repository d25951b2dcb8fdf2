import base64
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from chromium import run_page
from skimage.color import rgb2lab
from small import small_model

from shapefit.pairs import vertex_normals
from shapefit.report import model_page, structure_colours
from shapefit.report.colours import DISTANCE_SCALE, even_steps, rgb, signed_steps
from shapefit.report.correspondence_tables import correspondence, coverage, registration, transfer
from shapefit.report.curves import Curve, chart, ticks
from shapefit.report.explorer import MODES_PACKED, pack_model, shown_mesh
from shapefit.report.model_tables import calibration
from shapefit.shape_model import ShapeModel

MOVED = [1.5, -2.25, 3.0]

# What a hand would do, and what the page then says of itself; `out` comes back as JSON.
DRIVE = """<script>window.addEventListener("load", async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  // virtual time passes without frames
  window.requestAnimationFrame = (act) => setTimeout(() => act(performance.now()), 100);
  while (document.documentElement.dataset.state !== "ready") await wait(50);
  const page = shapefit.explorer, find = (id) => document.getElementById(id), out = {};
  const press = (value) => document.querySelector(`.choice [value="${value}"]`).click();
  const vertices = () => NAMES.map((name) => page.vertices(name));
  const slide = async (values) => {
    values.forEach((value, k) => {
      find(`mode${k}`).value = value; find(`mode${k}`).dispatchEvent(new Event("input"));
    });
    const told = (k) => Number(find(`value${k}`).textContent.replace("\u2212", "-"));
    while (values.some((value, k) => Math.abs(told(k) - value) > 1e-6)) await wait(20);
    find("mode0").dispatchEvent(new Event("change"));
  };
  const inked = () => { // pixels that show a bone
    if (!page.view) return null;
    page.view.paint();
    const gl = find("shape").getContext("webgl2");
    const wide = gl.drawingBufferWidth, high = gl.drawingBufferHeight;
    const pixels = new Uint8Array(4 * wide * high);
    gl.readPixels(0, 0, wide, high, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    let count = 0;
    for (let n = 0; n < pixels.length; n += 4) if (Math.abs(pixels[n] - pixels[n + 2]) > 12) count++;
    return count;
  };
  try { STEPS } catch (error) { out.failed = String(error.stack); }
  out.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  const note = document.createElement("output");
  note.id = "measured";
  note.textContent = JSON.stringify(out);
  document.body.appendChild(note);
});</script>"""

STEPS = """
  press("front"); out.whole = inked();
  out.hidden = [];
  for (const name of NAMES) {
    const box = document.querySelector(`[data-structure="${name}"]`);
    box.click(); out.hidden.push([inked(), page.shown()]);
  }
  for (const name of NAMES) document.querySelector(`[data-structure="${name}"]`).click();
  out.again = inked();
  out.mean = vertices();
  await slide(MOVED); out.moved = vertices();
  document.querySelector(`[data-structure="${NAMES[1]}"]`).click();
  out.file = Array.from(new Uint8Array(await page.file().arrayBuffer()));
  document.querySelector(`[data-structure="${NAMES[1]}"]`).click(); out.landmarks = page.landmarks();
  press("distance"); out.distance = page.colours();
  await slide(MOVED.map((value) => 0.4 * value)); out.nearer = page.colours();
  press("signed"); out.signed = page.colours();
  press("spread"); out.spread = page.colours();
  find("spread").value = "1"; find("spread").dispatchEvent(new Event("change")); out.ofOne = page.colours();
  out.bar = document.querySelector(".colourbar").textContent;
  find("marks").click(); page.view.paint();
  out.labels = Array.from(document.querySelectorAll(".labels span")).map((span) => span.textContent);
  press("structure");
  document.querySelector('.dot[data-case="case5"]').dispatchEvent(new MouseEvent("click"));
  out.case = { vertices: vertices(), coefficients: page.coefficients(), name: find("shape-name").textContent,
    chosen: find("case").value };
  out.random = [];
  for (let n = 0; n < 200; n++) { find("random").click(); out.random.push(page.coefficients()); }
  find("mean").click(); out.back = page.coefficients();
  const plot = find("scatter"), box = plot.getBoundingClientRect();
  plot.setPointerCapture = () => {};
  find("up").value = 2; find("up").dispatchEvent(new Event("change"));
  const at = { clientX: box.x + 0.7 * box.width, clientY: box.y + 0.25 * box.height, bubbles: true };
  for (const kind of ["pointerdown", "pointerup"]) plot.dispatchEvent(new PointerEvent(kind, at));
  out.wandered = page.coefficients();
  find("mean").click();
  out.looks = {};
  for (const look of ["front", "back", "left", "right", "above"]) {
    press(look);
    out.looks[look] = page.view.project([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]);
  }
  press("oblique");
  const canvas = find("shape"), corner = canvas.getBoundingClientRect();
  const seen = () => page.view.project([[20, 5, 9]])[0];
  const [x, y] = seen(), pointer = { clientX: corner.x + x, clientY: corner.y + y, cancelable: true };
  out.closer = [page.view.pixels(), seen()];
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -200, ...pointer }));
  out.closer.push(page.view.pixels(), seen());
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "0" })); out.closer.push(page.view.pixels());
  const before = page.view.axes(); canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  out.turned = [before, page.view.axes()];
  document.querySelector('[data-play="1"]').click(); out.played = [];
  for (let n = 0; n < 60; n++) { await wait(100); out.played.push(page.coefficients()); }
  document.querySelector('[data-play="1"]').click();
  const rest = page.coefficients(); await wait(300); out.stopped = [rest, page.coefficients()];
"""


def drive(path: Path, model: ShapeModel, steps: str, *flags: str) -> dict:
    text = path.read_text(encoding="utf-8")
    script = DRIVE.replace("STEPS", steps).replace("NAMES", json.dumps(model.names))
    path.write_text(text + script.replace("MOVED", json.dumps(MOVED)), encoding="utf-8")
    seen = run_page(path, *flags)
    found = re.search(r'<output id="measured">(.*?)</output>', seen.dom, re.DOTALL)
    assert found, f"the page did not finish: {seen.console}"
    out = json.loads(html.unescape(found[1])) | {"console": seen.console}
    assert "failed" not in out, out["failed"]
    return out


def parts(model: ShapeModel, vertices: torch.Tensor) -> list[np.ndarray]:
    return [np.asarray(mesh.vertices).ravel() for mesh in model.surfaces(vertices).values()]


def shape(model: ShapeModel, coefficients: list[float]) -> torch.Tensor:
    return model.instance(torch.tensor(coefficients, dtype=torch.float64))


def vertex_values(values: list[float], model: ShapeModel) -> np.ndarray:
    """Values per vertex as the page holds them, structure by structure, in the model's order."""
    order = [np.unique(model.faces[model.structure == n].numpy()) for n in range(len(model.names))]
    found = np.zeros(len(model.mean))
    found[np.concatenate(order)] = values
    return found


@pytest.fixture(scope="module")
def model() -> ShapeModel:
    return replace(small_model(), noise_variance=0.25)


@pytest.fixture(scope="module")
def page(model, tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("explorer") / "model.html"
    model_page(path, model, {})
    return drive(path, model, STEPS)


def test_the_page_shows_the_mean_then_moves_vertices_by_coefficient_times_std_times_component(page, model):
    for found, expected in (
        (page["mean"], model.mean),
        (page["moved"], shape(model, MOVED)),
        (page["case"]["vertices"], shape(model, model.scores[5].tolist())),
    ):
        for own, true in zip(found, parts(model, expected), strict=True):
            assert own == pytest.approx(true, abs=1e-5)  # mm


def test_a_saved_shape_is_what_the_page_shows_in_ras_millimetres(page, model, tmp_path):
    (tmp_path / "shape.ply").write_bytes(bytes(page["file"]))
    header = bytes(page["file"]).split(b"end_header")[0].decode()
    assert "comment SPACE=RAS\ncomment units mm\n" in header
    assert "coefficients 1.5000 -2.2500 3.0000" in header
    mesh = trimesh.load(tmp_path / "shape.ply", process=False)
    surfaces = model.surfaces(shape(model, MOVED))
    del surfaces[model.names[1]]
    expected = trimesh.util.concatenate(list(surfaces.values()))
    assert mesh.vertices == pytest.approx(expected.vertices, abs=1e-5)
    assert np.array_equal(mesh.faces, expected.faces)


def test_landmarks_ride_on_the_surface(page, model):
    expected = model.landmark_positions(shape(model, MOVED))
    assert np.array(page["landmarks"]) == pytest.approx(expected.numpy(), abs=1e-5)
    assert page["labels"] == list(model.landmarks.names)


def test_a_case_that_is_clicked_is_shown_with_all_its_coefficients(page, model):
    assert page["case"]["coefficients"] == pytest.approx(model.scores[5].tolist())
    assert page["case"]["name"] == "Training case case5" and page["case"]["chosen"] == "case5"


def test_random_shapes_are_standard_normal_within_the_ends_of_the_sliders(page, model):
    drawn = np.array(page["random"])
    assert drawn.shape == (200, model.modes) and np.abs(drawn).max() <= 3
    assert abs(drawn.mean()) < 0.15 and drawn.std() == pytest.approx(0.987, abs=0.1)
    assert page["back"] == [0] * model.modes


def test_colour_by_distance_is_the_distance_to_the_mean_and_follows_the_sliders(page, model):
    offset = shape(model, MOVED) - model.mean
    for seen, scale in ((page["distance"], 1.0), (page["nearer"], 0.4)):
        expected = scale * offset.norm(dim=1).numpy()
        assert vertex_values(seen["values"], model) == pytest.approx(expected, abs=1e-4)
        assert expected.max() <= seen["top"] <= 2 * expected.max()
    normals = vertex_normals(model.mean.numpy(), model.faces.numpy())
    signed = 0.4 * (offset.numpy() * normals).sum(1)
    assert vertex_values(page["signed"]["values"], model) == pytest.approx(signed, abs=1e-4)
    assert signed.min() < 0 < signed.max()


def test_colour_by_standard_deviation_tells_the_model_with_its_noise_from_a_mode_alone(page, model):
    variance = (model.components * model.std[:, None, None]).square().sum(-1)
    whole = (variance.sum(0) + 3 * model.noise_variance).sqrt().numpy()
    assert vertex_values(page["spread"]["values"], model) == pytest.approx(whole, rel=1e-5)
    assert vertex_values(page["ofOne"]["values"], model) == pytest.approx(
        variance[1].sqrt().numpy(), rel=1e-4
    )
    assert f"mode 2 alone, mm; at most {float(variance[1].max()) ** 0.5:.2f}" in page["bar"]


def test_structures_leave_the_picture_and_come_back(page):
    counts = [count for count, _ in page["hidden"]]
    assert page["whole"] > counts[0] > counts[1] > counts[2] == 0
    assert [len(shown) for _, shown in page["hidden"]] == [2, 1, 0] and page["again"] == page["whole"]


def test_seen_from_the_front_the_left_of_the_body_is_on_the_right(page):
    towards = {}  # direction on the screen of the body's right, front and top, as (right, up)
    for look, points in page["looks"].items():
        origin, *ends = np.array(points)[:, :2]
        steps = (np.array(ends) - origin) * [1, -1]
        towards[look] = np.round(steps / np.abs(steps).max()).astype(int).tolist()
    assert towards == {
        "front": [[-1, 0], [0, 0], [0, 1]],
        "back": [[1, 0], [0, 0], [0, 1]],
        "left": [[0, 0], [-1, 0], [0, 1]],
        "right": [[0, 0], [1, 0], [0, 1]],
        "above": [[1, 0], [0, 1], [0, 0]],
    }


def test_the_wheel_brings_closer_what_lies_under_the_pointer_and_keys_turn_and_reset(page):
    scale, place, closer, still, reset = page["closer"]
    assert closer > 1.2 * scale and still == pytest.approx(place, abs=1.0) and reset == scale
    before, after = np.array(page["turned"])
    assert after @ after.T == pytest.approx(np.eye(3), abs=1e-12)
    assert before[0] @ after[0] == pytest.approx(np.cos(np.radians(10))) and after[1] @ [0, 0, 1] > 0.9


def test_a_drag_in_the_plot_sets_its_two_modes_alone(page):
    across, middle, up = page["wandered"]
    assert 0.5 < across < 3 and 0.5 < up < 3 and middle == 0


def test_a_mode_that_is_played_moves_by_itself_until_it_is_stopped(page):
    played = np.array(page["played"])
    assert played[:, 1].max() > 2.9 and played[:, 1].min() < -2.9 and np.abs(played).max() <= 3
    assert not np.delete(played, 1, axis=1).any()
    assert page["stopped"][0] == page["stopped"][1]


def test_the_page_asks_the_network_for_nothing_and_may_not(page, model, tmp_path):
    assert page["loaded"] == [] and page["console"] == []
    model_page(tmp_path / "model.html", model, {})
    text = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "connect-src" not in text and "http" not in policy(text)


def policy(text: str) -> str:
    return re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]


def test_without_webgl_a_page_says_so_and_still_counts(model, tmp_path):
    path = tmp_path / "model.html"
    model_page(path, model, {})
    steps = """await slide(MOVED); out.moved = vertices(); press("distance"); out.view = page.view;
      out.words = getComputedStyle(document.querySelector(".viewer"), "::after").content;"""
    out = drive(path, model, steps, "--disable-3d-apis")
    assert out["view"] is None and "no WebGL 2" in out["words"]
    assert out["moved"][2] == pytest.approx(parts(model, shape(model, MOVED))[2], abs=1e-5)


def test_a_model_of_two_shapes_without_landmarks_has_a_page(tmp_path):
    bare = replace(small_model(2), scores=torch.zeros(0, 1, dtype=torch.float64), cases=())
    path = tmp_path / "model.html"
    model_page(path, bare, {})
    out = drive(path, bare, "find('random').click(); out.random = page.coefficients();")
    assert len(out["random"]) == 1 and out["console"] == []


def test_packed_modes_are_exact_to_a_millionth(model):
    packed = pack_model(model, structure_colours(model.names))
    shown = shown_mesh(model)
    for mode, entry in zip(shown.basis, packed["modes"], strict=True):
        digits = np.frombuffer(base64.b64decode(entry["digits"]), np.uint8).reshape(-1, 3)
        whole = np.pad(digits, ((0, 0), (1, 0))).view("<i4")[:, 0] >> 8
        assert np.abs(entry["scale"] * whole - mode.ravel()).max() < 1e-6 * np.abs(mode).max()


def many_modes(model: ShapeModel, count: int) -> ShapeModel:
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(model.mean.numel(), count, generator=generator, dtype=torch.float64)
    components = torch.linalg.qr(random).Q.T.reshape(count, -1, 3)
    std = torch.linspace(9.0, 1.0, count, dtype=torch.float64)
    scores = torch.randn(len(model.cases), count, generator=generator, dtype=torch.float64)
    return replace(model, components=components, std=std, scores=scores)


def test_a_page_that_holds_part_of_the_modes_says_which(model, tmp_path):
    large = many_modes(model, 45)
    model_page(tmp_path / "model.html", large, {})
    text = (tmp_path / "model.html").read_text(encoding="utf-8")
    share = float((large.std[:MODES_PACKED] ** 2).sum() / (large.std**2).sum())
    assert f"the first {MODES_PACKED} of 45 modes, {100 * share:.1f} % of the variance" in text
    packed = pack_model(large, structure_colours(large.names))
    assert len(packed["modes"]) == MODES_PACKED == len(packed["cases"][0]["coefficients"])


def test_a_lighter_mesh_takes_its_modes_from_where_it_lies_on_the_full_one(model):
    growth = model.mean / model.mean.norm()  # linear in position, so carried exactly
    grown = replace(model, components=growth[None], std=model.std[:1], scores=model.scores[:, :1])
    light = shown_mesh(grown, vertices=350)
    assert [span[1] for span in light.spans] == pytest.approx([117] * 3, abs=8)
    expected = light.mean * float(grown.std[0] / model.mean.norm())
    assert light.basis[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "scale", [even_steps(DISTANCE_SCALE[:-1]), signed_steps()], ids=["distance", "signed"]
)
def test_equal_differences_look_equal_on_a_colour_scale(scale):
    lab = rgb2lab(np.array([[rgb(colour) for colour in scale]]) / 255)[0]
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps == pytest.approx(np.full(len(steps), steps.mean()), rel=0.2)
    light = lab[:, 0] if scale[0] == DISTANCE_SCALE[0] else np.r_[lab[:17, 0][::-1], lab[17:, 0]]
    for arm in (light[:17], light[17:]):
        assert (np.diff(arm) < 0).all()  # darker is further, for eyes without colour too


def test_both_arms_of_the_signed_scale_differ_for_eyes_without_red_or_green():
    ends = np.array([rgb(signed_steps()[n]) for n in (4, -5)]) / 255
    linear = ends**2.2
    for matrix in (  # Vienot, Brettel and Mollon 1999: protanopia, deuteranopia
        [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    ):
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        low, high = rgb2lab(seen[None])[0]
        assert np.linalg.norm(low - high) > 40


def test_a_chart_draws_points_and_bands_where_they_belong():
    band = [(1.0, 3.0), (0.5, 2.0), (0.0, 1.0)]
    drawn = chart([Curve("error", [(0.0, 2.0), (5.0, 1.0), (10.0, 0.5)], band, "#1c1c1e")], "modes", "mm")
    line = np.array(
        [float(v) for v in re.findall(r"[\d.]+", re.search(r'd="(M[^"]*)" fill="none"', drawn)[1])]
    )
    area = np.array([float(v) for v in re.findall(r"[\d.]+", re.search(r'd="(M[^"]*)Z"', drawn)[1])])
    line, area = line.reshape(-1, 2), area.reshape(-1, 2)
    per_mm = (line[1, 1] - line[0, 1]) / (2.0 - 1.0)
    assert per_mm > 0 and np.diff(line[:, 0]) == pytest.approx([line[1, 0] - line[0, 0]] * 2)
    assert area[:3, 1] - line[:, 1] == pytest.approx(-per_mm * np.array([1.0, 1.0, 0.5]), abs=0.11)
    assert area[:2:-1, 1] - line[:, 1] == pytest.approx(per_mm * np.array([1.0, 0.5, 0.5]), abs=0.11)
    assert "95 % between 0.5 and 2" in drawn
    with pytest.raises(ValueError, match="band of error has 1 entries for 2 points"):
        chart([Curve("error", [(0.0, 1.0), (1.0, 1.0)], band[:1], "#1c1c1e")], "modes", "mm")
    with pytest.raises(ValueError, match="at least 1 point"):
        chart([], "modes", "mm")


@pytest.mark.parametrize("largest", [0.0, 0.013, 0.9, 1.0, 6.9, 29.0, 4321.0])
def test_ticks_are_round_and_reach_the_largest_value(largest):
    found = ticks(largest)
    steps = np.diff(found)
    assert found[0] == 0 and found[-1] >= largest and steps == pytest.approx([steps[0]] * len(steps))
    assert f"{steps[0]:e}"[0] in "125"


def test_bands_of_a_card_are_drawn_and_told(model, tmp_path):
    curve = {"modes": [0, 2], "vertex": [4.0, 3.0], "surface": [2.0, 1.0]}
    card = {
        "compactness": [0.5, 0.75],
        "compactness_band": [[0.4, 0.625], [0.7, 0.8]],
        "generalisation": curve
        | {"band": {"vertex": [[3.5, 4.5], [2.5, 3.25]], "surface": [[1.5, 2.5]] * 2}},
        "specificity": {"modes": [0, 2], "vertex": [5.0, 5.5]},
    }
    model_page(tmp_path / "model.html", model, card)
    text = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert text.count('fill-opacity="0.16"') == 3
    for words in ("2.50 to 3.25", "1.50 to 2.50", "0.700 to 0.800", "Bands: 95 %"):
        assert words in text, words


def test_tables_of_correspondence_and_calibration_take_what_a_card_holds():
    assert correspondence({}) == "" == calibration({})
    places = [{"place": "left ASIS", "mean": 0.25, "worst_case": "a<b"}, {"place": "tip", "mean": 1.5}]
    text = correspondence({"correspondence": {"place_radius": 10.0, "places": places, "note": "w" * 50}})
    for words in ("left ASIS", "0.25", "a&lt;b", "1.50", "place radius", "10.00", "w" * 50):
        assert words in text, words
    bands = {"levels": [0.5, 0.95], "prior": {"inside": [0.48, 0.9375], "cases": [[0.4, 0.9]], "error": 3.25}}
    text = calibration({"calibration": bands})
    for words in ("50 % band", "95 % band", "48.0", "93.8", "40 to 40", "3.25", "before anything is seen"):
        assert words in text, words
    text = calibration(
        {"calibration": {"pca": {"50": 0.48, "95": None}, "residual": {"50": 0.51, "95": 0.95}}}
    )
    assert "0.48" in text and "0.95" in text and "&ndash;" in text


def test_tables_tell_how_cases_are_registered_where_it_is_hard_and_how_landmarks_are_carried():
    spread = {"mean": 0.125, "p95": 0.5, "max": 2.75}
    row = {key: spread for key in ("model_to_segmentation", "segmentation_to_model", "normals")}
    card = {
        "registration": {"anna": row | {"thin": {"share": 0.0}, "flipped_faces": 7}},
        "registration_mean": row,
        "coverage": {
            "thin_radius": 3.0,
            "place_radius": 10.0,
            "places": [{"place": "hip_left, upper end"} | spread | {"worst_case": "bert"}],
        },
        "landmark_transfer": {
            "registration": spread | {"median": 0.1},
            "readers": spread | {"median": 0.1},
            "landmarks": [
                {"name": "ASIS", "cases": 4}
                | {way: spread | {"worst_case": "carl"} for way in ("registration", "readers")}
            ],
        },
    }
    text = registration(card) + coverage(card) + transfer(card)
    for words in (
        "anna",
        ">7<",
        "a ball of 3 mm",
        "hip left, upper end",
        "bert",
        "within 10 mm",
        "ASIS",
        "carl",
    ):
        assert words in text, words
    assert "by the fit" not in transfer(card).split("</table>")[0]
    assert registration({}) == coverage({}) == transfer({}) == ""
