"""Bands are as wide as they say, and coverage counts what lies inside them."""

import pytest
import torch

from shapefit.calibration import LEVELS, calibration_table, coverage
from tests.small import small_model


def test_coverage_of_the_models_own_shapes_is_nominal():
    bones = small_model(8)
    wide = bones.truncate(3)
    drawn = wide.sample(400, seed=0, noise=True)
    inside = torch.tensor([coverage(wide, shape) for shape in drawn]).mean(0)
    assert torch.allclose(inside, torch.tensor(LEVELS), atol=0.03)


def test_coverage_counts_the_vertices_asked_for():
    bones = small_model(5).truncate(2)
    shape = bones.mean.clone()
    shape[:10] += 1e3
    assert coverage(bones, shape) == pytest.approx([1 - 10 / len(shape)] * 3)
    assert coverage(bones, shape, vertices=torch.arange(10)) == [0, 0, 0]
    assert coverage(bones, shape, (0.9,), torch.arange(10, 20)) == [1]


def test_what_is_seen_brings_the_rest_nearer():
    bones = small_model(6)
    table = calibration_table(bones, rank=10)
    assert table["levels"] == list(LEVELS) and table["cases"] == list(bones.cases)
    assert len(table["prior"]["cases"]) == 6 and len(table["prior"]["inside"]) == 3
    assert table["landmarks"]["error"] < table["prior"]["error"]
    assert table["structure"]["error"] < table["prior"]["error"]


def test_three_cases_cannot_be_calibrated():
    with pytest.raises(ValueError, match="at least 4 cases, got 3"):
        calibration_table(small_model(3))
