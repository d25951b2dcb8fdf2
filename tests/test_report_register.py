"""Pictures and pages of a registration: what they show, that they say every number and need no network."""

import io
import re

import numpy as np
import pytest
import registered
import torch
from chromium import run_page
from PIL import Image

from shapefit import se3
from shapefit.camera import Camera
from shapefit.fit.landscape import FREEDOMS, loss_landscape, offsets_of, poses_at
from shapefit.report.colours import ABOVE, BELOW, rgb, structure_colours
from shapefit.report.landscape import landscape_page
from shapefit.report.register import Drawn, moved, register_page
from shapefit.report.register_animation import LARGEST, Frame, animation, chosen
from shapefit.report.register_pictures import (
    difference,
    difference_picture,
    drawn_camera,
    drr_picture,
    edges,
    overlay,
    xray_picture,
)
from shapefit.settings import LandscapeSettings
from shapefit.view import View

SIZE = 96
CAMERA = Camera(sdd=1000.0, delx=1.0, dely=1.0, x0=0.0, y0=0.0, height=SIZE, width=SIZE)
COLOURS = structure_colours(["left", "right"])


def ball(column: float, radius: float = 14.0, row: float = 48.0) -> np.ndarray:
    """Line integrals of a ball, highest in the middle."""
    i, j = np.mgrid[:SIZE, :SIZE]
    return 0.05 * np.sqrt(np.maximum(radius**2 - (i - row) ** 2 - (j - column) ** 2, 0))


def view(line: np.ndarray, noise: float = 0.0) -> View:
    rng = np.random.default_rng(0)
    slope = np.linspace(0.2, 0.6, SIZE)[:, None]
    image = np.exp(-line - slope) + noise * rng.normal(size=line.shape)
    return View(torch.from_numpy(np.clip(image, 0, 1)).float(), CAMERA, name="ap")


def record(**changes) -> dict:
    camera = {"sdd": 1000.0, "delx": 1.0, "dely": 1.0, "x0": 0.0, "y0": 0.0, "height": SIZE, "width": SIZE}
    return {
        "schema_version": 1,
        "package_version": "0.1.0",
        "command": "shapefit register ct.nii.gz ap.png",
        "seed": 7,
        "bone": "data/ct.nii.gz",
        "structures": {"left": 1, "right": 2},
        "start": torch.eye(4).tolist(),
        "world_from_bone": registered.TRUTH.tolist(),
        "centre": [0.0, 0.0, 0.0],
        "views": [{"name": "ap", "camera": camera, "loss": 0.28125, "terms": {"agreement": 0.71875}}],
        "converged": True,
        "reason": "mean correlation 0.719, at least 0.5",
        "seconds": 12.5,
        "history": registered.found().history,
    } | changes


def drawn() -> list[Drawn]:
    parts = np.stack([ball(30.0), ball(66.0)])
    grey = xray_picture(view(parts.sum(0)), SIZE, SIZE)
    shown = overlay(grey, parts, list(COLOURS.values()))
    apart = difference_picture(view(parts.sum(0)), parts.sum(0), 1.0)
    return [Drawn("ap", grey, drr_picture(parts.sum(0)), shown, shown, apart, 700.0)]


def film(count: int = 5) -> bytes:
    frames = [
        Frame([np.stack([ball(30.0 + 4 * n), ball(66.0)])], "coarse", n or None, 0.9 - 0.1 * n)
        for n in range(count)
    ]
    return animation([xray_picture(view(ball(30.0)), SIZE, SIZE)], frames, list(COLOURS.values()), ["ap"])


def a_page(path, **changes):
    register_page(path, record(**changes), drawn(), COLOURS, film(), "landscape.html")
    return path


def bowl(poses: torch.Tensor) -> torch.Tensor:
    scale = torch.tensor([8.0, 8, 8, 10, 10, 30], dtype=torch.float64)
    offsets = offsets_of(poses, registered.TRUTH, torch.zeros(3).double(), torch.eye(3).double())
    return 1 - 0.75 * torch.exp(-(offsets / scale).square().sum(1) / 2)


def a_landscape(path, losses=bowl):
    place = registered.TRUTH, torch.zeros(3).double(), torch.eye(3).double()
    slices = loss_landscape(losses, *place, LandscapeSettings(samples=15, grid=9))
    way = poses_at(torch.tensor([[6.0, -4, 3, 8, -5, 9], [2.0, -1, 1, 3, -2, 4]]).double(), *place)
    landscape_page(path, slices, torch.eye(4).double(), way, 48, ["ap", "lateral"], "ct.nii.gz")
    return path


def text_of(path) -> str:
    content = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    words = re.sub(r"<[^>]+>", " ", content).replace("&minus;", "-").replace("&ge;", "≥")
    return re.sub(r"\s+", " ", words)


def test_edges_lie_on_the_outline_of_a_shadow():
    found = edges(ball(48.0, 20.0)) > 0.4
    i, j = np.nonzero(found)
    radius = np.hypot(i - 48, j - 48)
    assert len(i) > 80 and abs(np.median(radius) - 20) < 1.5 and np.ptp(np.arctan2(i - 48, j - 48)) > 6


def test_a_shadow_that_fills_the_picture_has_no_edge_at_its_border():
    assert not edges(np.full((SIZE, SIZE), 0.7)).any() and not edges(np.zeros((SIZE, SIZE))).any()


def test_each_part_of_the_bone_is_drawn_in_its_colour_where_it_is():
    parts = np.stack([ball(30.0), ball(66.0)])
    grey = np.full((SIZE, SIZE), 128, dtype=np.uint8)
    picture = overlay(grey, parts, list(COLOURS.values())).astype(float)
    for place, colour in zip((slice(0, 48), slice(48, 96)), COLOURS.values(), strict=True):
        near = np.abs(picture[:, place] - rgb(colour)).sum(-1) < 60
        others = [other for other in COLOURS.values() if other != colour]
        strange = np.abs(picture[:, place] - rgb(others[0])).sum(-1) < 60
        assert near.sum() > 30 and strange.sum() == 0


def test_the_difference_is_nothing_where_bone_and_x_ray_agree_and_signed_where_they_do_not():
    line = ball(48.0, 20.0)
    alike, near = difference(view(line), line, 1.0)
    moved_on, _ = difference(view(ball(52.0, 20.0)), line, 1.0)
    assert np.abs(alike * near).mean() < 0.2 * np.abs(moved_on * near).mean()
    # the X-ray's ball lies to the right of the bone's: denser there, less dense on the left
    assert moved_on[48, 70] > 0.5 and moved_on[48, 30] < -0.5
    picture = difference_picture(view(ball(52.0, 20.0)), line, 1.0).astype(int)
    red, blue = picture[48, 70], picture[48, 30]
    assert red[0] > red[2] and blue[2] > blue[0]
    assert np.abs(picture[2, 2] - rgb(ABOVE[0])).max() <= 2 and ABOVE[0] == BELOW[0]


def test_exposure_and_smooth_tissue_do_not_make_a_difference():
    line = ball(48.0, 20.0)
    bright = view(line)
    dark = View(0.6 * bright.image, CAMERA, name="ap")
    values = [difference(v, line, 1.0)[0][30:66, 30:66] for v in (bright, dark)]
    np.testing.assert_allclose(values[0], values[1], atol=0.02)


def test_a_drr_is_dark_where_the_bone_is_dense():
    picture = drr_picture(ball(48.0, 20.0)).astype(int)
    assert picture[48, 48] < 60 and picture[2, 2] > 240


def test_a_drawn_camera_sees_the_same_detector():
    camera = drawn_camera(CAMERA)
    assert max(camera.height, camera.width) == 288  # three times its own
    assert camera.delx * camera.width == pytest.approx(CAMERA.delx * CAMERA.width)


def test_an_animation_shows_the_steps_and_stays_small():
    content = film(6)
    with Image.open(io.BytesIO(content)) as moving:
        assert moving.n_frames == 6
        first = np.asarray(moving.convert("RGB"))
        moving.seek(5)
        last = np.asarray(moving.convert("RGB"))
    assert np.abs(first.astype(int) - last).max() > 50 and len(content) < LARGEST
    assert chosen(100, 10)[0] == 0 and chosen(100, 10)[-1] == 99 and len(chosen(100, 10)) == 10
    assert chosen(3) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1 frame"):
        animation([], [], [], [])


def test_a_page_says_every_number_and_loads_nothing(tmp_path):
    path = a_page(tmp_path / "report.html")
    text = text_of(path)
    turn, shift = moved(record())
    numbers = ("0.281", "0.719", "12.5", "0.1.0", "700 mm", f"{turn:.1f}", f"{shift:.1f}")
    words = ("The bone was found", "shapefit register ct.nii.gz ap.png", "One view says little of depth")
    for said in (*numbers, *words):
        assert said in text, said
    for row in registered.TRUTH.tolist():
        for k, value in enumerate(row):
            assert f"{abs(value):.{6 if k < 3 else 3}f}" in text
    content = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r'(?:src|href)="([^"]{1,40})', content))
    assert {a for a in addresses if not a.startswith("data:")} == {"landscape.html"}
    assert path.stat().st_size < 2e6


def test_a_page_of_a_failure_says_why_and_gives_no_pose(tmp_path):
    text = text_of(
        a_page(tmp_path / "report.html", converged=False, reason="mean correlation 0.1, below 0.5")
    )
    assert (
        "The registration failed: mean correlation 0.1, below 0.5." in text and "Do not use its pose" in text
    )
    assert "pose.tfm" not in text


def test_how_far_the_bone_moved_is_told_at_its_centre():
    turn, shift = moved(record(centre=[10.0, 0.0, 0.0]))
    rotation = se3.rotation_angle(registered.TRUTH[:3, :3])
    assert turn == pytest.approx(float(torch.rad2deg(rotation)))
    centre = torch.tensor([[10.0, 0.0, 0.0]], dtype=torch.float64)
    assert shift == pytest.approx(float((se3.transform(registered.TRUTH, centre) - centre).norm()))


def test_a_landscape_says_that_the_answer_is_at_the_bottom(tmp_path):
    path = a_landscape(tmp_path / "landscape.html")
    text = text_of(path)
    assert "The answer is at the bottom." in text and "within 0.0° and 0.0 mm" in text
    assert "No slice has a second minimum" in text and "2 views together, on images of 48 px" in text
    assert path.stat().st_size < 6e6


def test_a_landscape_says_where_the_loss_is_lower_and_where_a_second_minimum_is(tmp_path):
    place = registered.TRUTH, torch.zeros(3).double(), torch.eye(3).double()

    def lower_beside(poses):
        offsets = offsets_of(poses, *place)
        beside = offsets.clone()
        beside[:, FREEDOMS.index("tx")] -= 20.0
        return (
            1
            - 0.5 * torch.exp(-(offsets / 6).square().sum(1))
            - 0.7 * torch.exp(-(beside / 6).square().sum(1))
        )

    text = text_of(a_landscape(tmp_path / "landscape.html", lower_beside))
    assert "The loss is lower beside the answer:" in text
    assert re.search(r"along shift to the right by 0\.\d\d\d at (1[6-9]|2[0-4])\.\d mm", text)


@pytest.mark.parametrize("make", [a_page, a_landscape], ids=["report", "landscape"])
def test_a_page_runs_in_a_browser_without_complaint(make, tmp_path):
    seen = run_page(make(tmp_path / "page.html"))
    assert 'data-state="ready"' in seen.dom
    assert not seen.console
    if make is a_landscape:
        assert seen.dom.count('class="heatmaplayer') >= 3
