import pytest
import torch

from shapefit.volume import Volume

EYE = torch.eye(4, dtype=torch.float64)


def test_spacing_and_voxel_volume_follow_the_affine_through_turns_and_flips():
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.3, 0.2], [0.3, 0, -0.5], [-0.2, 0.5, 0]]).double())
    affine = EYE.clone()
    affine[:3, :3] = turn @ torch.diag(torch.tensor([-0.8, 1.5, 3.0]).double())
    volume = Volume(torch.zeros(2, 3, 4), affine)
    assert torch.allclose(volume.spacing, torch.tensor([0.8, 1.5, 3.0]).double())
    assert volume.voxel_volume == pytest.approx(0.8 * 1.5 * 3.0)


def test_whole_numbers_are_welcome():
    assert Volume(torch.ones(2, 2, 2, dtype=torch.uint8), EYE).data.dtype == torch.uint8


@pytest.mark.parametrize(
    ("data", "affine", "message"),
    [
        (torch.zeros(2, 2), EYE, "3 axes, got 2"),
        (torch.zeros(2, 2, 2, 2), EYE, "3 axes, got 4"),
        (torch.zeros(2, 0, 2), EYE, "at least one voxel"),
        (torch.full((2, 2, 2), float("nan")), EYE, "8 voxels are NaN"),
        (torch.zeros(2, 2, 2), EYE[:3], "must be 4x4"),
        (torch.zeros(2, 2, 2), torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0]).double()), "singular"),
        (torch.zeros(2, 2, 2), EYE * float("nan"), "NaN"),
        (torch.zeros(2, 2, 2), 2 * EYE, "last row"),
    ],
)
def test_what_is_not_a_volume_is_an_error_that_says_why(data, affine, message):
    volume = object.__new__(Volume)  # past the shape annotations, which only the tests check
    object.__setattr__(volume, "data", data)
    object.__setattr__(volume, "world_from_voxel", affine)
    with pytest.raises(ValueError, match=message):
        volume.__post_init__()


def test_small_voxels_are_not_taken_for_singular():
    affine = torch.diag(torch.tensor([1e-3, 1e-3, 1e-3, 1.0]).double())
    assert Volume(torch.zeros(1, 1, 1), affine).voxel_volume == pytest.approx(1e-9)
