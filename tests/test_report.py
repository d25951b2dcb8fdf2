import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from chromium import run_page
from PIL import Image

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.metrics import compare, tabulate
from shapefit.render import render_mesh
from shapefit.report import evaluation_page, fit_page, model_page, structure_colours, write_overlays
from shapefit.report.colours import rgb
from shapefit.report.fit_text import start_in_words
from shapefit.report.overlay import outlines
from shapefit.report.page import number
from shapefit.report.scene_mesh import lighten, unseen_share
from shapefit.settings import EvaluateSettings
from shapefit.shape_model import ShapeModel, train
from shapefit.surface_distance import join
from shapefit.view import View

QUICK = EvaluateSettings(samples=500, voxel=3.0)
CAMERA = Camera(sdd=1000.0, delx=2.0, dely=2.0, x0=0.0, y0=0.0, height=64, width=64)
POSE = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 500.0)


def bones(size: float = 12.0, apart: float = 20.0) -> dict[str, trimesh.Trimesh]:
    found = {}
    for name, x in (("hip_left", -apart), ("hip_right", apart)):
        found[name] = trimesh.creation.icosphere(2, size)
        found[name].apply_translation((x, 0, 0))
    return found


def shadows(surfaces: dict[str, trimesh.Trimesh]) -> torch.Tensor:
    mesh = join(list(surfaces.values()))
    structure = np.concatenate([np.full(len(m.faces), n) for n, m in enumerate(surfaces.values())])
    return render_mesh(
        torch.tensor(np.asarray(mesh.vertices))[None],
        torch.tensor(np.asarray(mesh.faces)),
        se3.inverse(POSE)[None],
        CAMERA,
        torch.tensor(structure),
    )[0]


def view(masked: bool = True) -> View:
    paths = shadows(bones())
    mask = (paths[0] > 0).to(torch.uint8)
    mask[paths[1] > 0] = 2
    image = torch.exp(-0.05 * paths.sum(0)).float()
    return View(image, CAMERA, POSE, mask=mask if masked else None, name="ap.png")


def record(**changes) -> dict:
    return {
        "schema_version": 1,
        "package_version": "0.1.0",
        "command": "shapefit fit ap.png --camera ap.json",
        "seed": 7,
        "model": "pelvis",
        "coefficients": [0.5, -1.25, 3.5],
        "scale": 1.0624,
        "views": [
            {
                "name": "ap.png",
                "world_from_camera": POSE.tolist(),
                "loss": 0.28124,
                "terms": {"correlation": 0.21876},
                "dice": {"hip_left": 0.9375, "hip_right": 0.96875},
            }
        ],
        "converged": True,
        "reason": "the loss settled",
        "landmarks": {"Left ASIS": [-101.24, 33.5, 20.76]},
        "seconds": 12.5,
        "history": [
            {"stage": stage, "step": n, "loss": 1 / (n + k)}
            for k, stage in ((1, "64 px"), (3, "128 px"))
            for n in range(5)
        ],
    } | changes


def a_fit(path: Path, **options) -> Path:
    found, truth = bones(11.0), bones()
    metrics = compare(found, truth, QUICK, views=[view()])
    baselines = {"mean shape at the same pose": compare(bones(9.0), truth, QUICK)}
    fit_page(path, record(), found, [view()], [shadows(found)], None, truth, baselines, metrics, **options)
    return path


def an_evaluation(path: Path) -> Path:
    truth = bones()
    results = {"small": bones(10.0), "middling": bones(11.0), "half": {"hip_left": bones()["hip_left"]}}
    records = [compare(found, truth, QUICK, list(truth), name=name) for name, found in results.items()]
    evaluation_page(path, records, tabulate(records), [(found, truth) for found in results.values()])
    return path


def a_model() -> ShapeModel:
    mesh = join(list(bones().values()))
    structure = torch.arange(2).repeat_interleave(len(mesh.faces) // 2)
    vertices = torch.tensor(np.asarray(mesh.vertices))
    stretch = torch.tensor([[1.0, 1, 1], [1.2, 1, 1], [1, 1.3, 1], [1, 1, 0.8]], dtype=torch.float64)
    return train(
        vertices * stretch[:, None],
        torch.tensor(np.asarray(mesh.faces)),
        structure,
        ["hip_left", "hip_right"],
        [1, 2],
        cases=("a", "b", "c", "d"),
        metadata={"id": "spheres"},
    )


def a_model_page(path: Path) -> Path:
    figures = {"assd": 1.0625, "hd95": 3.25, "hausdorff": 7.75}
    row = {"structures": {"hip_left": figures, "hip_right": figures}, "mean_shape": figures} | figures
    card = {
        "source": "made-up spheres",
        "license": "CC BY-NC-SA 4.0",
        "subjects": ["anna", "bert"],
        "compactness": [0.625, 0.875, 1.0],
        "generalisation": {"modes": [0, 1], "vertex": [4.5, 3.75], "surface": [2.25, 1.5]},
        "specificity": {"modes": [0, 1], "vertex": [5.5, 6.25]},
        "leave_one_out": {"cases": [{"case": "anna"} | row], "mean": figures, "mean_shape": figures},
    }
    model_page(path, a_model(), card)
    return path


PAGES = {"fit": a_fit, "evaluation": an_evaluation, "model": a_model_page}


class Links(HTMLParser):
    """All addresses that a page would load or lead to, and its text outside scripts and styles."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags, self.text, self._silent = [], [], "", False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._silent = tag in ("script", "style")
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data", "poster")]

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.text += data


def parsed(path: Path) -> Links:
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def text_of(path: Path) -> str:
    return re.sub(r"\s+", " ", parsed(path).text).replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_one_file_that_loads_nothing(kind, tmp_path):
    path = PAGES[kind](tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    links = parsed(path)
    assert links.addresses and all(address.startswith("data:") for address in links.addresses)
    style = re.search(r"<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert not {"iframe", "object", "embed"} & set(links.tags)
    assert path.stat().st_size < 7e6


def test_every_number_of_a_fit_appears_on_its_page(tmp_path):
    text = text_of(a_fit(tmp_path / "report.html"))
    values = "0.938 0.969 0.2812 0.2188 1.062 12.5 -101.2 33.5 20.8 0.1.0 7"
    for value in values.split():
        assert value in text, value
    metrics = compare(bones(11.0), bones(), QUICK, views=[view()])["metrics"]
    for figures in (
        metrics["absolute"]["all"],
        metrics["absolute"]["hip_left"],
        metrics["similarity"]["all"],
    ):
        assert number(figures["assd"]) in text and number(figures["hd95"]) in text
    baseline = compare(bones(9.0), bones(), QUICK)["metrics"]["absolute"]["all"]
    assert number(baseline["assd"]) in text and "mean shape at the same pose" in text
    assert "The fit converged: the loss settled" in text
    assert "shapefit fit ap.png --camera ap.json" in text


def test_a_page_of_one_view_says_that_depth_and_size_are_nearly_free(tmp_path):
    text = text_of(a_fit(tmp_path / "report.html", note="Simulated, so the truth is known."))
    assert "One view leaves depth and size nearly free" in text
    assert "500 mm from the source" in text and "32 mm of depth" in text
    assert "Simulated, so the truth is known." in text


def test_a_failed_fit_says_so_first_and_shows_no_surface(tmp_path):
    path = tmp_path / "report.html"
    failed = record(converged=False, reason="no start found any <bone>", coefficients=None, landmarks=None)
    fit_page(path, failed, {}, [view(masked=False)], [], [])
    text = text_of(path)
    assert text.index("The fit failed: no start found any <bone>.") < text.index("On the images")
    assert (
        "In space" not in text and 'id="result"' not in path.read_text(encoding="utf-8").split("<script")[0]
    )


def test_text_from_outside_cannot_become_code(tmp_path):
    path = tmp_path / "report.html"
    nasty = "</script><script>alert(1)</script>"
    history = [{"stage": nasty, "step": 0, "loss": 1.0}]
    fit_page(path, record(reason=nasty, command=nasty), bones(), [view()], [shadows(bones())], history)
    assert "<script>alert(1)" not in path.read_text(encoding="utf-8")


def test_an_evaluation_lists_failures_before_figures_and_every_case(tmp_path):
    path = an_evaluation(tmp_path / "report.html")
    text = text_of(path)
    assert "1 of 3 cases failed." in text
    assert text.index("hip_right is missing from the result") < text.index("Over all cases")
    truth = bones()
    for name, found in (("small", bones(10.0)), ("middling", bones(11.0))):
        figures = compare(found, truth, QUICK, name=name)["metrics"]
        for kind in figures:
            for structure in figures[kind]:
                for key in ("assd", "hd95", "hausdorff"):
                    assert number(figures[kind][structure][key]) in text
    assert "middling, the median case" in text and "small, the worst case" in text


def test_an_evaluation_of_nothing_but_failures_has_a_page(tmp_path):
    records = [compare({}, bones(), QUICK, name="empty")]
    evaluation_page(tmp_path / "report.html", records, pairs=[({}, bones())])
    assert "1 of 1 case failed." in text_of(tmp_path / "report.html")
    with pytest.raises(ValueError, match="at least 1 case"):
        evaluation_page(tmp_path / "report.html", [])


def test_every_number_of_a_models_card_appears_on_its_page(tmp_path):
    text = text_of(a_model_page(tmp_path / "report.html"))
    for value in ("4.50", "3.75", "2.25", "1.50", "5.50", "6.25", "0.625", "1.06", "3.25", "7.75"):
        assert value in text, value
    for words in ("CC BY-NC-SA 4.0", "made-up spheres", "anna, bert", "mode 3 alone"):
        assert words in text, words


def test_structures_have_one_colour_each_the_same_everywhere(tmp_path):
    names = [f"bone_{n}" for n in range(7)]
    colours = structure_colours(names)
    assert len(set(colours.values())) == 7
    assert structure_colours(names[:3]) == {name: colours[name] for name in names[:3]}
    expected = structure_colours(["hip_left", "hip_right"])
    for page in PAGES.values():
        text = page(tmp_path / "report.html").read_text(encoding="utf-8")
        for name, colour in expected.items():
            assert f'data-structure="{name}"><span class="swatch" style="background:{colour}"' in text


def test_an_outline_follows_the_edge_of_a_shadow_pixel_by_pixel():
    row, column = np.mgrid[:64, :64]
    (curve,) = outlines(np.hypot(row - 30, column - 34) < 15, 64, 64, closed=False)
    radius = np.hypot(curve[:, 0] - 34, curve[:, 1] - 30)
    assert np.abs(radius - 15).max() < 0.6 and abs(radius.mean() - 15) < 0.25


def test_an_outline_in_finer_paths_lies_at_the_same_place():
    row, column = np.mgrid[:128, :128]
    (curve,) = outlines(np.hypot(row / 2 - 30.25, column / 2 - 34.25) < 15, 64, 64, closed=False)
    centre = (curve.max(0) + curve.min(0)) / 2
    assert centre == pytest.approx([34.0, 30.0], abs=0.1)


def test_a_bone_that_leaves_the_image_has_no_outline_along_the_border():
    inside = np.zeros((64, 64), bool)
    inside[:40, :30] = True
    (drawn,) = outlines(inside, 64, 64, closed=False)
    assert drawn[:, 0].max() == pytest.approx(29.5, abs=0.3) and len(drawn) < 90
    assert not ((drawn[:, 0] < 5) & (drawn[:, 1] < 30)).any()  # nothing on the left border
    (filled,) = outlines(inside, 64, 64, closed=True)
    assert ((filled[:, 0] < 0) & (filled[:, 1] < 30)).any()
    everywhere = np.ones((64, 64), bool)
    assert outlines(everywhere, 64, 64, closed=False) == []


def test_overlays_show_the_xray_with_coloured_outlines(tmp_path):
    found = bones()
    (path,) = write_overlays(tmp_path, [view()], [shadows(found)], list(found))
    assert path.name == "overlay_0.png"
    picture = np.asarray(Image.open(path)).astype(int)
    assert picture.shape == (1024, 1024, 3)
    for name, sign in (("hip_left", 1), ("hip_right", -1)):  # seen from the front, the left is on the right
        near = np.abs(picture - rgb(structure_colours(list(found))[name])).sum(2) < 60
        columns = np.flatnonzero(near.any(0)) / 16 - 0.5
        expected = 31.5 + sign * 20 * 500 * 2 / 500 / 2  # 20 mm aside, magnified twice, 2 mm pixels
        assert (columns.min() + columns.max()) / 2 == pytest.approx(expected, abs=0.5)


def test_what_no_view_shows_is_counted():
    far = {"near": trimesh.creation.icosphere(3, 10.0), "far": trimesh.creation.icosphere(3, 10.0)}
    far["far"].apply_translation((200.0, 0, 0))
    assert unseen_share(far, [view()]) == pytest.approx(0.5, abs=0.02)


def test_display_meshes_are_light_and_keep_their_place():
    heavy = {"bone": trimesh.creation.icosphere(6, 50.0)}
    light = lighten(heavy, 5000)
    assert len(light["bone"].faces) < 6000
    assert light["bone"].bounds == pytest.approx(heavy["bone"].bounds, abs=0.5)
    assert lighten(light, 6000) is light


CLICK_EVERYTHING = """<script>window.addEventListener("load", async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  while (document.documentElement.dataset.state !== "ready") await wait(50);
  HTMLAnchorElement.prototype.click = () => {}; // without a window, a download never ends
  for (const one of document.querySelectorAll("button, input[type=checkbox], table[data-sortable] th")) {
    one.click(); await wait(20);
  }
  for (const slider of document.querySelectorAll("input[type=range]")) {
    slider.value = 1; slider.dispatchEvent(new Event("input")); await wait(20);
  }
  await wait(500);
  document.documentElement.dataset.clicked = "all";
});</script>"""


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_and_all_its_switches_run_in_a_browser_without_an_error(kind, tmp_path):
    path = PAGES[kind](tmp_path / "report.html")
    path.write_text(path.read_text(encoding="utf-8") + CLICK_EVERYTHING, encoding="utf-8")
    seen = run_page(path)
    assert 'data-state="ready"' in seen.dom and 'data-clicked="all"' in seen.dom
    assert not seen.console


def test_where_a_fit_began_is_told_in_words():
    assert start_in_words({"kind": "prior"}) == ""
    seen = {"kind": "scene", "network": "net", "network_says": "90 % agree", "doubt": ""}
    assert start_in_words(seen) == "where net saw the bone (90 % agree)"
    refused = seen | {"doubt": "mean overlap 0.1, below 0.8", "apart": 31.26}
    assert start_in_words(refused) == (
        "where net saw the bone (90 % agree; mean overlap 0.1, below 0.8; "
        "a search over views ended 31.3 standard deviations away)"
    )
    replaced = start_in_words(refused | {"kind": "prior", "apart": 6.0})
    assert replaced.startswith("elsewhere than net says (") and "6.0 standard deviations" in replaced
