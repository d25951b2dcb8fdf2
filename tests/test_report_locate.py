"""The page of a location and the pictures of what the network saw."""

import html
import re

import located
import numpy as np
import pytest
import torch
from chromium import run_page

from shapefit.jobs.fit import read_views
from shapefit.jobs.locate import draw_maps, write_located
from shapefit.report.locate_pictures import MAPS, TOP_STD, coordinate_maps
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.locate import locate_views
from shapefit.settings import LocateSettings

BOX = np.array([[-50.0, -40.0, -30.0], [50.0, 40.0, 30.0]])
COLOURS = ["#E69F00", "#56B4E9"]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr("shapefit.report.register_pictures.SHORTEST", 96)
    monkeypatch.setattr("shapefit.report.register_pictures.LONGEST", 96)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> located.World:
    return located.write_world(tmp_path_factory.mktemp("world"))


def page(world: located.World, folder, network=None, count: int = 2):
    views = read_views(world.images[:count], world.cameras[:count])
    network = network or located.knowing_network(world, located.VIEWS[:count])
    found = locate_views(network, world.model, views, LocateSettings())
    record = write_located(
        folder, world.model, network, views, world.images[:count], found, LocateSettings(), "pelvis-scene",
        "shapefit locate ap.png", 1.25, "a simulated X-ray",
    )  # fmt: skip
    return record, folder / "report.html"


def text_of(path) -> str:
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<(script|style).*?</\1>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def seen(points: torch.Tensor, covered: torch.Tensor, std: float = 5.0) -> Coordinates:
    """Entries `points` (3, H, W), exits 10 mm further to the front, and one structure of two."""
    spread = torch.full((1, *points.shape[1:]), std)
    exits = points + torch.tensor([0.0, 10.0, 0.0])[:, None, None]
    structures = torch.stack([covered, torch.zeros_like(covered)]).float()
    return Coordinates(points[None], exits[None], spread, spread, structures[None])


def test_a_place_keeps_its_colour_wherever_it_is_seen():
    points = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 15
    grey = np.full((8, 8), 120, np.uint8)
    covered = torch.ones(8, 8)
    one = coordinate_maps(seen(points, covered), grey, BOX, COLOURS)
    other = coordinate_maps(seen(points.flip(1, 2), covered), grey // 2, BOX, COLOURS)
    for name in ("entry", "exit"):
        np.testing.assert_array_equal(one[name], other[name][::-1, ::-1])


def test_red_grows_to_the_right_green_to_the_front_and_blue_to_the_head():
    for axis in range(3):
        points = torch.zeros(3, 1, 9)
        points[axis] = torch.linspace(float(BOX[0, axis]), float(BOX[1, axis]), 9)
        maps = coordinate_maps(seen(points, torch.ones(1, 9)), np.zeros((1, 9), np.uint8), BOX, COLOURS)
        steps = np.diff(maps["entry"][0].astype(int), axis=0)
        assert (steps[:, axis] > 20).all() and (np.delete(steps, axis, 1) == 0).all()


def test_where_the_network_sees_no_bone_the_x_ray_remains():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    maps = coordinate_maps(seen(torch.full((3, 8, 8), torch.nan), torch.zeros(8, 8)), grey, BOX, COLOURS)
    assert tuple(maps) == MAPS
    np.testing.assert_array_equal(maps["structures"], np.repeat(grey[..., None], 3, 2))
    for name in ("entry", "exit", "std"):
        assert (maps[name][..., 0] == maps[name][..., 2]).all()
        assert (np.diff(maps[name][..., 0].astype(int).ravel()) >= 0).all()  # paler, in the same order


def test_a_wider_spread_is_darker_up_to_the_end_of_the_scale():
    covered, grey = torch.ones(4, 4), np.zeros((4, 4), np.uint8)
    light = [
        float(coordinate_maps(seen(torch.zeros(3, 4, 4), covered, std), grey, BOX, COLOURS)["std"].mean())
        for std in (0.5, 2.0, 5.0, 10.0, TOP_STD, 2 * TOP_STD)
    ]
    assert all(np.diff(light[:-1]) < 0) and light[-1] == light[-2]


def test_a_set_of_several_images_is_refused():
    one = seen(torch.zeros(3, 4, 4), torch.ones(4, 4))
    two = Coordinates(*(torch.cat([part, part]) for part in one))
    with pytest.raises(ValueError, match="one image at a time, got 2"):
        coordinate_maps(two, np.zeros((4, 4), np.uint8), BOX, COLOURS)


def test_the_page_is_one_file_that_says_what_was_found_and_how_surely(world, tmp_path):
    record, path = page(world, tmp_path / "out")
    source, text = path.read_text(encoding="utf-8"), text_of(path)
    without = re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", without)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert path.stat().st_size < 7e6
    assert "The pelvis was found" in text and "Pelvis located in 2 X-rays" in text
    for value in (record["uncertainty"], record["reason"], "pelvis-scene", "a simulated X-ray", "1.2 s"):
        assert value in text, value
    for view in record["views"]:
        for value in view["std"]["rotation_deg"] + view["std"]["translation_mm"]:
            assert f"{value:.2f}" in text
    assert source.count("data:image/webp") == 2 * len(MAPS)


def test_a_page_without_an_answer_says_so_and_still_shows_what_the_network_saw(world, tmp_path):
    _, path = page(world, tmp_path / "out", located.blind_network(world), 1)
    text = text_of(path)
    assert "Nothing was located: no pelvis in this image." in text and "Pelvis looked for in 1 X-ray" in text
    assert "How sure" not in text and "In space" not in text
    assert path.read_text(encoding="utf-8").count("data:image/webp") == len(MAPS)


def test_a_view_without_a_bone_beside_one_with_it_has_no_share(world, tmp_path):
    network = located.knowing_network(world)
    network.forward.answers[1][:, 8:] = -12.0
    record, path = page(world, tmp_path / "out", network)
    assert record["converged"], record["reason"]
    assert [view["inlier_share"] for view in record["views"]] == [1.0, 0.0]
    assert "The pelvis was found" in text_of(path)


def test_the_maps_have_the_shape_of_the_drawn_x_ray(world):
    views = read_views(world.images, world.cameras)
    network = located.knowing_network(world)
    found = locate_views(network, world.model, views, LocateSettings())
    for of_view in draw_maps(network, views, found):
        assert {pixels.shape for pixels in of_view.values()} == {(85, 96, 3)}


@pytest.mark.parametrize("bone", [True, False])
def test_the_page_runs_in_a_browser_without_a_complaint(world, tmp_path, bone):
    _, path = page(world, tmp_path / "out", None if bone else located.blind_network(world))
    seen = run_page(path)
    assert 'data-state="ready"' in seen.dom and not seen.console
    if bone:
        assert 'class="errorbar' in seen.dom  # whiskers on the coefficients
