import pytest
import torch
from torch.nn.functional import interpolate

from shapefit.losses import (
    LocalStatistics,
    box_mean,
    coefficient_prior,
    gradient_correlation,
    local_correlation,
    soft_dice,
)

ALL = torch.ones(1, 48, 56, dtype=torch.float64)
WINDOW = 9


def scene(seed: int) -> torch.Tensor:
    """A smooth random image (1, 48, 56)."""
    torch.manual_seed(seed)
    coarse = torch.rand(1, 1, 8, 9, dtype=torch.float64)
    return interpolate(coarse, size=(48, 56), mode="bicubic", align_corners=True)[0]


def lncc(moving, fixed, valid=ALL, window=WINDOW) -> torch.Tensor:
    return local_correlation(moving, LocalStatistics(fixed, valid, window))


def test_the_box_mean_is_the_mean_over_the_window():
    image = scene(0)
    mean = box_mean(image, 5)
    assert float(mean[0, 20, 30]) == pytest.approx(float(image[0, 18:23, 28:33].mean()))
    assert float(box_mean(ALL, 5)[0, 0, 0]) == pytest.approx(9 / 25)  # beyond the border counts as zero


def test_an_image_is_most_like_itself():
    image = scene(0)
    own = float(lncc(image, image))
    assert 0.9 < own <= 1.0
    for other in (scene(1), image.flip(2), image.roll(6, 2)):
        assert float(lncc(other, image)) < own - 0.2
    assert float(gradient_correlation(image, image, ALL)) == pytest.approx(1.0, abs=1e-6)
    assert float(gradient_correlation(scene(1), image, ALL)) < 0.5


def test_similarities_do_not_see_gain_and_offset_but_see_the_sign():
    moving, fixed = 20 * scene(0) + 5 * scene(2), scene(0)
    before = float(lncc(moving, fixed)), float(gradient_correlation(moving, fixed, ALL))
    after = float(lncc(moving, 3 * fixed + 7)), float(gradient_correlation(moving, 3 * fixed + 7, ALL))
    assert after == pytest.approx(before, abs=1e-3)
    turned = float(lncc(moving, -fixed)), float(gradient_correlation(moving, -fixed, ALL))
    assert turned == pytest.approx([-value for value in before], abs=1e-3)


def test_local_correlation_does_not_see_a_slow_background():
    moving, fixed = 20 * scene(0), scene(0)
    ramp = torch.linspace(0, 0.05, 56, dtype=torch.float64).expand_as(fixed)
    assert float(lncc(moving, fixed + ramp)) == pytest.approx(float(lncc(moving, fixed)), abs=0.02)


def test_unusable_pixels_do_not_count():
    moving, fixed = scene(0), scene(0) + 0.3 * scene(1)
    valid = ALL.clone()
    valid[:, 10:25, 10:30] = 0
    spoiled = torch.where(valid > 0, fixed, torch.full_like(fixed, 50.0))
    assert float(lncc(moving, spoiled, valid)) == pytest.approx(float(lncc(moving, fixed, valid)))
    rubbish = torch.where(valid > 0, moving, torch.full_like(moving, -9.0))
    assert float(lncc(rubbish, fixed, valid)) == pytest.approx(float(lncc(moving, fixed, valid)))
    values = [float(gradient_correlation(m, f, valid)) for m, f in ((moving, fixed), (rubbish, spoiled))]
    assert values[0] == pytest.approx(values[1])


def test_an_empty_rendering_is_worth_nothing():
    fixed = scene(0)
    assert float(lncc(torch.zeros_like(fixed), fixed)) == pytest.approx(0.0, abs=1e-6)
    assert float(gradient_correlation(torch.zeros_like(fixed), fixed, ALL)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("which", ["local", "gradient"])
def test_similarities_have_the_gradient_of_their_value(which):
    fixed = scene(0)[:, :14, :15]
    valid = torch.ones_like(fixed)
    valid[:, 3:6, 4:9] = 0
    moving = (5 * scene(3)[:, :14, :15]).contiguous().requires_grad_()
    if which == "local":
        statistics = LocalStatistics(fixed, valid, 5)
        assert torch.autograd.gradcheck(lambda m: local_correlation(m, statistics), (moving,))
    else:
        assert torch.autograd.gradcheck(lambda m: gradient_correlation(m, fixed, valid), (moving,))


def test_each_image_of_a_batch_is_judged_alone():
    moving, fixed = torch.cat([scene(0), scene(1)]), torch.cat([scene(2), scene(3)])
    valid = ALL.expand_as(fixed)
    together = lncc(moving, fixed, valid)
    for k in range(2):
        alone = lncc(moving[k : k + 1], fixed[k : k + 1])
        assert float(together[k]) == pytest.approx(float(alone))


def test_soft_dice_is_dice_for_hard_masks():
    a, b = torch.zeros(1, 2, 10, 10, dtype=torch.float64), torch.zeros(1, 2, 10, 10, dtype=torch.float64)
    a[0, 0, :4], b[0, 0, 2:6] = 1, 1  # two of four rows shared
    a[0, 1, :5], b[0, 1, 5:] = 1, 1  # apart
    ones = torch.ones_like(a)
    torch.testing.assert_close(
        soft_dice(a, b, ones), torch.tensor([[0.5, 0.0]], dtype=torch.float64), atol=1e-6, rtol=0
    )
    top = ones.clone()
    top[:, :, 4:] = 0
    # over the valid rows 0 to 3: two shared, four and two filled
    assert float(soft_dice(a, b, top)[0, 0]) == pytest.approx(2 * 2 / (4 + 2), abs=1e-6)


def test_the_prior_is_half_the_squared_distance_in_standard_deviations():
    coefficients = torch.tensor([[1.0, 2.0, -2.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(coefficient_prior(coefficients), torch.tensor([4.5, 0.0]))
