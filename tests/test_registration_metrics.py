import math

import numpy as np
import pytest
import torch

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.registration_metrics import (
    MEASURES,
    capture_range,
    gross_failure_rate,
    mean_projection_error,
    mean_reprojection_distance,
    mtre,
    pose_errors,
    registration_errors,
    registration_table,
    rotation_error,
    success_rate,
    translation_error,
)

CAMERA = Camera(1000.0, 0.5, 0.8, 3.0, -7.0, 300, 400)
TRUTH = se3.inverse(world_from_view("ap", torch.tensor([5.0, -3.0, 9.0]).double(), 700.0))
POINTS = 60 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NAN = float("nan")


def moved(*twist: float) -> torch.Tensor:
    """The true pose, then a motion in the camera's frame (radians, mm)."""
    return se3.exp(torch.tensor(twist, dtype=torch.float64)) @ TRUTH


def test_a_shift_is_its_length_wherever_the_points_are():
    found = moved(0, 0, 0, 2.0, -3.0, 6.0)
    assert float(mtre(found, TRUTH, POINTS)) == pytest.approx(7)
    assert float(translation_error(found, TRUTH, POINTS[0])) == pytest.approx(7)
    assert float(rotation_error(found, TRUTH)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("degrees", [1e-3, 10.0, 90.0, 179.9])
def test_a_turn_about_a_point_leaves_it_and_moves_the_others_by_their_chord(degrees):
    angle = math.radians(degrees)
    center = torch.tensor([20.0, 30.0, -10.0], dtype=torch.float64)
    found = TRUTH @ about(center, angle)
    assert float(rotation_error(found, TRUTH)) == pytest.approx(degrees, rel=1e-6)
    assert float(translation_error(found, TRUTH, center)) == pytest.approx(0, abs=1e-9)
    away = center + torch.tensor([[40.0, 0.0, 13.0]], dtype=torch.float64)  # 40 mm from the axis
    assert float(mtre(found, TRUTH, away)) == pytest.approx(80 * math.sin(angle / 2))


def about(center: torch.Tensor, angle: float) -> torch.Tensor:
    """A turn about the line along z through a point."""
    there = torch.eye(4, dtype=torch.float64)
    there[:3, 3] = center
    turn = se3.exp(torch.tensor([0, 0, angle, 0, 0, 0], dtype=torch.float64))
    return there @ turn @ se3.inverse(there)


def test_mtre_is_that_of_either_space_and_of_whole_batches():
    found = moved(0.1, -0.2, 0.05, 3.0, 4.0, 5.0)
    elsewhere = se3.exp(torch.tensor([1.0, 2.0, -0.4, 100.0, 50.0, -20.0], dtype=torch.float64))
    expected = float(mtre(found, TRUTH, POINTS))
    assert float(mtre(elsewhere @ found, elsewhere @ TRUTH, POINTS)) == pytest.approx(expected)
    both = mtre(torch.stack([found, TRUTH]), TRUTH.expand(2, 4, 4), POINTS)
    assert both.tolist() == pytest.approx([expected, 0])
    batch = torch.stack([found, TRUTH])
    for measure in (mean_reprojection_distance, lambda *args: mean_projection_error(*args, CAMERA)):
        assert measure(batch, TRUTH.expand(2, 4, 4), POINTS)[0] == measure(found, TRUTH, POINTS)


def test_across_the_view_the_detector_shows_the_shift_magnified_and_the_patient_does_not():
    # all targets in one plane across the view, at half the distance of the detector
    flat = POINTS.clone()
    flat[:, 2] = 500.0
    world = se3.transform(se3.inverse(TRUTH), flat)
    found = moved(0, 0, 0, 3.0, 4.0, 0.0)
    assert float(mean_projection_error(found, TRUTH, world, CAMERA)) == pytest.approx(10)
    one = se3.transform(se3.inverse(TRUTH), torch.tensor([[-3.0, -4.0, 500.0]]).double())
    # moved onto the principal ray: 5 mm from it in the patient
    assert float(mean_reprojection_distance(found, TRUTH, one)) == pytest.approx(5)
    distances = float(mean_reprojection_distance(found, TRUTH, world))
    assert 4.8 < distances < 5  # rays are oblique elsewhere: their distance is less than the shift


def test_what_moves_along_its_ray_is_right_for_the_detector_and_wrong_in_space():
    one = se3.transform(se3.inverse(TRUTH), torch.tensor([[30.0, -40.0, 600.0]]).double())
    found = moved(0, 0, 0, *(0.1 * torch.tensor([30.0, -40.0, 600.0])).tolist())
    assert float(mtre(found, TRUTH, one)) == pytest.approx(0.1 * math.hypot(30, 40, 600))
    assert float(mean_projection_error(found, TRUTH, one, CAMERA)) == pytest.approx(0, abs=1e-9)
    assert float(mean_reprojection_distance(found, TRUTH, one)) == pytest.approx(0, abs=1e-9)


def test_the_projection_error_is_that_of_the_cameras_own_pixels():
    found = moved(0.02, -0.01, 0.03, 3.0, -2.0, 15.0)
    apart = CAMERA.project(found, POINTS) - CAMERA.project(TRUTH, POINTS)
    expected = (apart * torch.tensor([0.5, 0.8]).double()).norm(dim=1).mean()
    assert float(mean_projection_error(found, TRUTH, POINTS, CAMERA)) == pytest.approx(float(expected))


def test_a_pose_that_puts_the_patient_behind_the_source_is_infinitely_far_off():
    found = moved(0, 0, 0, 0.0, 0.0, -2000.0)
    assert float(mean_projection_error(found, TRUTH, POINTS, CAMERA)) == math.inf
    assert float(mean_reprojection_distance(found, TRUTH, POINTS)) == math.inf
    assert float(mtre(found, TRUTH, POINTS)) == pytest.approx(2000)


def test_a_run_has_every_measure_and_one_without_a_result_none():
    found = moved(0.02, -0.01, 0.03, 3.0, -2.0, 15.0)
    errors = registration_errors(found, TRUTH, POINTS, CAMERA)
    assert tuple(errors) == MEASURES
    assert errors.items() >= pose_errors(found, TRUTH, POINTS).items()
    assert errors["mpe_mm"] == float(mean_projection_error(found, TRUTH, POINTS, CAMERA))
    assert errors["mrpd_mm"] == float(mean_reprojection_distance(found, TRUTH, POINTS))
    for nothing in (None, TRUTH * NAN):
        failed = registration_errors(nothing, TRUTH, POINTS, CAMERA)
        assert tuple(failed) == MEASURES and all(math.isnan(value) for value in failed.values())


def test_runs_without_a_result_are_failures_in_every_rate():
    errors = np.array([0.2, 0.9, 1.0, 30.0, NAN, math.inf])
    assert success_rate(errors) == pytest.approx(2 / 6)
    assert gross_failure_rate(errors) == pytest.approx(3 / 6)
    stopped = np.array([False, True, True, True, True, True])  # the best one says that it did not converge
    assert success_rate(errors, converged=stopped) == pytest.approx(1 / 6)
    assert gross_failure_rate(errors, converged=stopped) == pytest.approx(4 / 6)
    for rate in (success_rate, gross_failure_rate):
        with pytest.raises(ValueError, match="at least one run"):
            rate(np.array([]))


def starts(*bins: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and errors of (good, bad) runs in successive bins of 1."""
    offsets = [n + (m + 0.5) / sum(runs) for n, runs in enumerate(bins) for m in range(sum(runs))]
    errors = [error for good, bad in bins for error in [0.1] * good + [50.0] * bad]
    return np.array(offsets), np.array(errors)


def test_the_capture_range_ends_before_the_first_bin_below_95_percent():
    assert capture_range(*starts((20, 0), (19, 1), (18, 2), (20, 0))) == 2.0
    assert capture_range(*starts((18, 2), (20, 0))) == 0.0
    assert capture_range(*starts((20, 0), (20, 0))) == 2.0
    assert capture_range(*starts((20, 0), (19, 1), (20, 0)), share=0.96) == 1.0


def test_bins_without_starts_say_nothing_and_do_not_extend_the_range():
    assert capture_range(*starts((0, 0), (20, 0), (0, 0), (20, 0), (0, 0), (0, 20))) == 4.0
    offsets, errors = starts((20, 0), (20, 0), (20, 0))
    assert capture_range(2 * offsets, errors, bin_width=2.0) == 6.0
    errors[45] = NAN
    assert capture_range(offsets, errors, share=0.96) == 2.0
    with pytest.raises(ValueError, match="offsets must be finite and 0 or more, in failed runs, too"):
        capture_range(np.array([NAN, 1.0]), np.array([0.1, 0.1]))


def test_a_table_leaves_no_run_out():
    offsets = np.array([0.0, 1.0, 4.9, 5.0, 7.0, 9.9])
    runs = [{"mtre_mm": value, "depth_mm": -value} for value in (0.5, 0.7, 20.0, 0.1, NAN)] + [None]
    first, second, third, everything = registration_table(offsets, runs, (0.0, 5.0, 10.0, 15.0))
    assert (first["from"], first["to"], first["runs"], first["without_result"]) == (0, 5, 3, 0)
    assert first["success_rate"] == pytest.approx(2 / 3) and first["gross_failure_rate"] == pytest.approx(
        1 / 3
    )
    assert (first["median_mtre_mm"], first["p95_mtre_mm"], first["median_depth_mm"]) == (0.7, 20.0, 0.7)
    assert second["without_result"] == 2 and second["median_mtre_mm"] == math.inf
    assert second["success_rate"] == pytest.approx(1 / 3)
    assert third["runs"] == 0 and math.isnan(third["success_rate"]) and math.isnan(third["median_mtre_mm"])
    assert (everything["from"], everything["to"], everything["runs"]) == (0, 15, 6)
    assert everything["success_rate"] == pytest.approx(0.5) and everything["median_mtre_mm"] == 0.7
    stopped = registration_table(offsets, runs, (0.0, 10.0), converged=np.zeros(6, bool))[0]
    assert stopped["gross_failure_rate"] == 1 and stopped["without_result"] == 6
    assert registration_table(np.array([1.0]), [None], (0.0, 2.0))[0]["median_mtre_mm"] == math.inf


@pytest.mark.parametrize(
    ("offsets", "edges", "message"),
    [
        ([1.0, 2.0], (0.0, 2.0), "no run may be left out"),
        ([1.0, NAN], (0.0, 2.0), "no run may be left out"),
        ([1.0], (0.0, 2.0), "2 runs need as many initial offsets, got 1"),
        ([1.0, 1.0], (0.0, 2.0, 2.0), "must rise"),
    ],
)
def test_a_table_that_would_leave_runs_out_is_an_error(offsets, edges, message):
    with pytest.raises(ValueError, match=message):
        registration_table(np.array(offsets), [None, None], edges)
