import json
import math

import numpy as np
import pytest
import torch
import trimesh

from shapefit import metrics, se3
from shapefit.alignment import align, align_points
from shapefit.camera import Camera, world_from_view
from shapefit.metrics import compare, in_view, landmark_errors, mask_dice, pose_errors, tabulate
from shapefit.settings import EvaluateSettings
from shapefit.surface_distance import volume_dice, voxelise
from shapefit.view import View

QUICK = EvaluateSettings(samples=4000)


def sphere(radius: float, centre=(0.0, 0.0, 0.0), subdivisions: int = 4) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    mesh.apply_translation(centre)
    return mesh


def lumpy(seed: int, size: float = 60.0) -> trimesh.Trimesh:
    """A closed shape without symmetry, about `size` mm across."""
    mesh = trimesh.creation.icosphere(4, 1.0)
    waves = np.random.default_rng(seed).normal(size=(5, 3)) * 1.5
    radius = 1 + 0.12 * np.cos(mesh.vertices @ waves.T + np.arange(5)).sum(1)
    mesh.vertices *= radius[:, None] * size / 2 * np.array([1.0, 0.7, 1.3])
    return mesh


def moved(mesh: trimesh.Trimesh, twist, scale: float = 1.0) -> tuple[trimesh.Trimesh, np.ndarray]:
    matrix = se3.exp(torch.tensor(twist, dtype=torch.float64)).numpy()
    matrix[:3, :3] *= scale
    mesh = mesh.copy()
    mesh.apply_transform(matrix)
    return mesh, matrix


def figures(a, b, kind="absolute", structure="bone", settings=QUICK, **options):
    return compare({"bone": a}, {"bone": b}, settings, **options)["metrics"][kind][structure]


def test_concentric_spheres_are_apart_by_the_difference_of_their_radii():
    found = figures(sphere(50), sphere(53))
    for key in ("assd", "hd95", "hausdorff"):
        assert found[key] == pytest.approx(3.0, abs=0.08)  # the sagitta of the facets
    assert found["surface_dice_2mm"] == 0.0
    assert figures(sphere(50), sphere(51.5))["surface_dice_2mm"] == 1.0


def test_concentric_spheres_overlap_by_the_ratio_of_their_volumes():
    inner, outer = sphere(40), sphere(45)
    assert figures(inner, outer)["volume_dice"] == pytest.approx(
        2 * inner.volume / (inner.volume + outer.volume), abs=2e-3
    )


def test_a_surface_is_at_distance_nought_from_itself():
    found = figures(lumpy(0), lumpy(0))
    assert found["assd"] < 1e-9 and found["hausdorff"] < 1e-9
    assert found["volume_dice"] == found["surface_dice_1mm"] == 1.0


def test_a_box_moved_along_a_side_has_the_distances_of_its_geometry():
    box = trimesh.creation.box((20.0, 30.0, 40.0))
    shifted, _ = moved(box, (0, 0, 0, 2.0, 0, 0))
    found = figures(box, shifted, settings=EvaluateSettings(samples=60_000))
    assert found["hausdorff"] == pytest.approx(2.0, abs=1e-9)
    # Of the two ends, the one outside is 2 mm from its twin everywhere; the one inside is so too, save a rim
    # 2 mm wide that is nearer to the other box's sides. Of its own sides, a strip sticks out by 2 mm at most.
    outside = 2.0 * 30 * 40
    inside = 2.0 * 26 * 36 + sum(d * (2 * (30 + 40) - 8 * d) * 0.001 for d in np.arange(0.0005, 2, 0.001))
    strip = 1.0 * 2.0 * 2 * (30 + 40)
    assert found["assd"] == pytest.approx((outside + inside + strip) / box.area, rel=5e-3)


def test_the_voxelised_volume_is_the_volume():
    mesh = lumpy(1)
    origin = mesh.bounds[0] - 1.0
    shape = tuple(int(n) for n in np.ceil((mesh.bounds[1] - origin) / 0.5) + 2)
    inside = voxelise([mesh], origin, shape, 0.5)
    assert inside.sum() * 0.5**3 == pytest.approx(mesh.volume, rel=2e-3)
    i, j, k = (round(v) for v in (mesh.center_mass - origin) / 0.5)
    assert inside[i, j, k] and not inside[0].any() and not inside[..., -1].any()


def test_a_grid_through_vertices_and_edges_fills_a_box_exactly():
    box = trimesh.creation.box(bounds=[[0, 0, 0], [10, 10, 10]])
    for corner in (-3.5, -3.0):  # the second puts the box's faces, edges and diagonals onto voxel centres
        assert voxelise([box], np.full(3, corner), (18, 18, 18), 1.0).sum() == 1000


def test_bodies_that_do_not_touch_do_not_overlap_however_far_apart():
    assert volume_dice([sphere(5)], [sphere(5, (1e6, 0, 0))], 1.0) == 0.0


def test_structures_that_overlap_fill_their_union_once():
    two = [sphere(10), sphere(10, (5.0, 0, 0))]
    assert volume_dice(two, two, 0.5) == 1.0


def test_swapping_result_and_reference_changes_no_absolute_figure():
    a, b = lumpy(1), lumpy(2)
    assert figures(a, b) == pytest.approx(figures(b, a), nan_ok=False)


def test_figures_do_not_depend_on_how_finely_a_part_of_the_surface_is_divided():
    even, dense_at_the_poles = sphere(50), trimesh.creation.uv_sphere(50, count=[60, 60])
    assert dense_at_the_poles.is_watertight
    reference = sphere(50, (0, 0, 10.0))  # 10 mm off at the poles, nought at the equator
    a, b = figures(even, reference), figures(dense_at_the_poles, reference)
    for key in ("assd", "hd95", "surface_dice_3mm", "volume_dice"):
        assert a[key] == pytest.approx(b[key], rel=0.02)


def test_the_hausdorff_distance_sees_a_single_tip():
    spiked = sphere(50)
    tip = int(np.argmax(spiked.vertices[:, 2]))
    spiked.vertices[tip] *= 1.4
    assert figures(spiked, sphere(50))["hausdorff"] == pytest.approx(20.0, abs=0.05)
    assert figures(sphere(50), spiked)["hausdorff"] == pytest.approx(20.0, abs=0.05)


def test_rigid_alignment_takes_the_pose_out_and_similarity_also_the_size():
    a = lumpy(3)
    b, _ = moved(a, (0.2, -0.1, 0.15, 8.0, -5.0, 6.0), scale=1.05)
    record = compare({"bone": a}, {"bone": b}, QUICK)
    assert record["alignment"]["similarity"]["method"] == "correspondence"
    assert record["alignment"]["similarity"]["scale"] == pytest.approx(1.05, abs=1e-6)
    assert record["alignment"]["rigid"]["scale"] == pytest.approx(1.0)
    absolute, rigid, similar = (record["metrics"][kind]["all"]["assd"] for kind in metrics.ALIGNMENTS)
    assert absolute > 3 > rigid > 0.5 > 1e-6 > similar


def test_alignment_without_correspondence_finds_the_same_motion():
    a = lumpy(3)
    b, _ = moved(a, (0.2, -0.1, 0.15, 8.0, -5.0, 6.0), scale=1.05)
    remeshed = b.subdivide()
    found = align(a, remeshed, scale=True)
    assert found.method == "closest points"
    assert np.abs(trimesh.transform_points(a.vertices, found.matrix) - b.vertices).max() < 0.05


def test_a_similarity_by_closest_points_does_not_collapse():
    found = align(sphere(40), lumpy(2), scale=True)
    assert 0.4 < found.scale < 1.0
    assert align(sphere(40), sphere(30, (5, 5, 5), 3), scale=True).scale == pytest.approx(0.75, abs=2e-3)


def test_alignment_is_never_a_reflection():
    points = np.random.default_rng(0).normal(size=(50, 3))
    matrix = align_points(points, points * [-1.0, 1.0, 1.0])
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)


def test_bones_misplaced_against_each_other_stay_an_error_after_alignment():
    left, right = sphere(20, (-40, 0, 0)), sphere(20, (40, 0, 0))
    apart = sphere(20, (46, 0, 0))
    record = compare({"left": left, "right": apart}, {"left": left, "right": right}, QUICK)
    assert record["metrics"]["rigid"]["right"]["hausdorff"] == pytest.approx(3.0, abs=0.2)
    assert record["metrics"]["absolute"]["left"]["assd"] < 1e-6


def test_a_missing_structure_is_a_counted_failure_and_not_a_number():
    both = {"left": sphere(20), "right": sphere(20, (50, 0, 0))}
    whole = compare(both, both, QUICK, name="whole")
    half = compare({"left": both["left"]}, both, QUICK, name="half")
    assert whole["failed"] is None
    assert half["failed"] == "right is missing from the result"
    assert half["metrics"]["absolute"]["right"] == {"failed": "right is missing from the result"}
    assert "right" in half["metrics"]["absolute"]["all"]["failed"]
    assert half["metrics"]["absolute"]["left"]["assd"] < 1e-9
    table = tabulate([whole, half])
    assert table["failures"] == [{"case": "half", "structure": "right", "reason": half["failed"]}]
    assert table["table"]["absolute"]["right"]["assd"]["failed"] == 1
    assert table["table"]["absolute"]["right"]["assd"]["measured"] == 1
    assert table["table"]["absolute"]["left"]["assd"]["measured"] == 2


@pytest.mark.parametrize("damage", ["empty", "open", "nan", "nothing at all"])
def test_a_broken_result_is_a_failure_with_its_reason_and_valid_json(damage):
    bad = sphere(20, subdivisions=2)
    if damage == "empty":
        bad = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int))
    elif damage == "open":
        bad.update_faces(np.arange(len(bad.faces)) > 3)
    elif damage == "nan":
        bad.vertices[0] = math.nan
    result = {} if damage == "nothing at all" else {"bone": bad}
    record = compare(result, {"bone": sphere(20)}, QUICK)
    expected = {"empty": "empty", "open": "not closed", "nan": "not finite", "nothing at all": "missing"}[
        damage
    ]
    assert expected in record["failed"]
    table = tabulate([record])
    assert table["table"]["absolute"]["all"]["assd"] == {
        "mean": None, "median": None, "worst": None, "worst_case": None, "measured": 0, "failed": 1,
    }  # fmt: skip
    json.dumps([record, table], allow_nan=False)


def test_the_table_names_the_worst_case_and_refuses_two_of_one_name():
    reference = {"bone": sphere(50)}
    records = [compare({"bone": sphere(r)}, reference, QUICK, name=f"r{r}") for r in (51, 54, 52)]
    assd = tabulate(records)["table"]["absolute"]["bone"]["assd"]
    assert assd["worst_case"] == "r54" and assd["worst"] == pytest.approx(4, abs=0.1)
    assert assd["median"] == pytest.approx(2, abs=0.1) and assd["mean"] == pytest.approx(7 / 3, abs=0.1)
    assert tabulate(records)["table"]["absolute"]["bone"]["volume_dice"]["worst_case"] == "r54"
    with pytest.raises(ValueError, match="r51"):
        tabulate([records[0], records[0]])


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare({}, {}, QUICK)
    with pytest.raises(ValueError, match="'all'"):
        compare({"all": sphere(1)}, {"all": sphere(1)}, QUICK)


def view(width: int = 100) -> View:
    camera = Camera(sdd=1000.0, delx=1.0, dely=1.0, x0=0.0, y0=0.0, height=100, width=width)
    pose = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 500.0)
    return View(torch.ones(100, width), camera, pose)


def test_a_point_is_in_view_when_it_projects_inside_the_detector():
    # Twofold magnification: the 100 mm detector covers +-25 mm at the isocentre.
    points = np.array([[0.0, 0, 0], [24.9, 0, 0], [25.1, 0, 0], [0, 0, 24.9], [0, 0, -25.1], [0, 600.0, 0]])
    assert in_view(points, [view()]).tolist() == [True, True, False, True, False, False]
    assert in_view(points, [view(), view(200)])[2]
    with pytest.raises(ValueError, match="no pose"):
        in_view(points, [view().posed(None)])


def test_an_error_outside_the_field_counts_out_of_view_only():
    whole = sphere(1.0)
    whole.vertices *= [15.0, 15.0, 100.0]  # both tips lie outside the field
    bent = whole.copy()
    far = np.clip(np.abs(bent.vertices[:, 2]) - 40, 0, None)
    bent.vertices[:, 0] += 0.2 * far
    found = figures(bent, whole, views=[view()])
    assert found["in_view"]["assd"] < 0.1 < 2.0 < found["out_of_view"]["assd"]
    assert found["in_view"]["area_share"] + found["out_of_view"]["area_share"] == pytest.approx(1.0)
    shares = [found[part]["area_share"] * found[part]["assd"] for part in ("in_view", "out_of_view")]
    assert sum(shares) == pytest.approx(found["assd"])


def test_a_part_without_surface_has_no_figures_and_is_no_failure():
    found = figures(sphere(10), sphere(11), views=[view()])
    assert found["out_of_view"] is None and found["in_view"]["area_share"] == pytest.approx(1.0)
    assert (
        "out_of_view.assd"
        not in tabulate([compare({"bone": sphere(10)}, {"bone": sphere(11)}, QUICK, views=[view()])])[
            "table"
        ]["absolute"]["bone"]
    )


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    predicted = torch.zeros(3, 10, 10, dtype=torch.bool)
    predicted[0, :, :5] = True
    predicted[1, :, 4:] = True
    mask = torch.zeros(10, 10, dtype=torch.uint8)
    mask[:, :5], mask[:, 5:] = 1, 2
    return predicted, mask


def test_mask_dice_counts_pixels_of_each_structure():
    predicted, mask = masks()
    dice = mask_dice(predicted, mask, ("left", "right", "sacrum"))
    assert dice == {"left": 1.0, "right": pytest.approx(2 * 50 / (60 + 50))}


def test_mask_dice_ignores_invalid_and_unlabelled_pixels():
    predicted, mask = masks()
    mask[:, 4] = 255
    valid = torch.ones(10, 10, dtype=torch.bool)
    valid[0] = False
    predicted[1, 0] = False
    assert mask_dice(predicted, mask, ("left", "right", "sacrum"), valid) == {"left": 1.0, "right": 1.0}


def test_mask_dice_can_take_a_pixel_behind_another_bone_as_unknown():
    predicted, mask = masks()
    assert mask_dice(predicted, mask, ("left", "right", "sacrum"), hidden="ignore")["right"] == 1.0
    with pytest.raises(ValueError, match="'count' or 'ignore'"):
        mask_dice(predicted, mask, ("left", "right", "sacrum"), hidden="guess")


def test_a_shadow_that_was_not_predicted_scores_nought_and_an_absent_one_is_not_compared():
    predicted, mask = masks()
    dice = mask_dice(torch.zeros_like(predicted), mask, ("left", "right", "sacrum"))
    assert dice == {"left": 0.0, "right": 0.0}
    predicted[2, 0, 0] = True
    assert "sacrum" not in mask_dice(predicted, mask, ("left", "right", "sacrum"))
    assert mask_dice(predicted, mask, ("left", "right", "sacrum"), compared=("sacrum",))["sacrum"] == 0.0


def test_pose_errors_tell_depth_from_the_rest():
    truth = se3.inverse(world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0))
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 50
    pushed = truth.clone()
    pushed[:3, 3] += torch.tensor([3.0, 4.0, 12.0])
    found = pose_errors(pushed, truth, points)
    assert found["depth_mm"] == pytest.approx(12) and found["in_plane_mm"] == pytest.approx(5)
    assert found["translation_mm"] == pytest.approx(13) and found["mtre_mm"] == pytest.approx(13)
    assert found["rotation_deg"] == pytest.approx(0, abs=1e-6)
    turned = se3.exp(torch.tensor([0, 0, math.radians(10), 0, 0, 0], dtype=torch.float64)) @ truth
    assert pose_errors(turned, truth, points)["rotation_deg"] == pytest.approx(10)


def test_landmarks_that_are_missing_have_failed():
    found = landmark_errors({"a": [0, 0, 0]}, {"a": [3, 4, 0], "b": [1, 1, 1]})
    assert found["a"] == {"failed": None, "distance": 5.0} and "missing" in found["b"]["failed"]


def test_two_real_hips_are_millimetres_apart_after_alignment(data_dir):
    a, b = (
        trimesh.load(data_dir / "vsd" / case / "hip_left.ply", process=False) for case in ("z013", "z019")
    )
    record = compare({"hip_left": a}, {"hip_left": b}, QUICK)
    rigid, similar = (record["metrics"][kind]["hip_left"]["assd"] for kind in ("rigid", "similarity"))
    assert 1.0 < similar < rigid < 5.0
    assert record["alignment"]["rigid"]["method"] == "closest points"
