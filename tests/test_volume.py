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
    with pytest.raises(ValueError, match=message):
        unchecked(data, affine).__post_init__()


def unchecked(data, affine=EYE, structure=None, names=()) -> Volume:
    """A volume past the shape annotations, which only the tests check."""
    volume = object.__new__(Volume)
    values = {"data": data, "world_from_voxel": affine, "structure": structure, "names": names}
    for name, value in values.items():
        object.__setattr__(volume, name, value)
    return volume


@pytest.mark.parametrize(
    ("structure", "names", "message"),
    [
        (None, ("a", "b"), "2 names .a, b. but no structure"),
        (torch.zeros(2, 2, 3, dtype=torch.uint8), ("a",), r"\(2, 2, 3\) on cpu do not fit data \(2, 2, 2\)"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8, device="meta"), ("a",), "on meta do not fit"),
        (torch.zeros(2, 2, 2, dtype=torch.int16), ("a",), "numbered in uint8, got torch.int16"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), (), "need 1 to 255 names"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), ("a", "a"), "names that differ"),
        (torch.full((2, 2, 2), 2, dtype=torch.uint8), ("a", "b"), "in structure 2, but there are 2 names"),
        (torch.full((2, 2, 2), 254, dtype=torch.uint8), ("a", "b"), "in structure 254"),
    ],
)
def test_structures_that_do_not_fit_are_an_error_that_says_why(structure, names, message):
    with pytest.raises(ValueError, match=message):
        unchecked(torch.zeros(2, 2, 2), EYE, structure, names).__post_init__()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int16])
def test_values_of_any_kind_with_structures_are_a_volume(dtype):
    structure = torch.full((2, 2, 2), 255, dtype=torch.uint8)
    structure[0, 0] = torch.tensor([0, 1])
    volume = Volume(torch.ones(2, 2, 2, dtype=dtype), EYE, structure, ("a", "b"))
    assert volume.data.dtype == dtype and volume.names == ("a", "b")
    assert Volume(torch.ones(2, 2, 2), EYE, torch.full((2, 2, 2), 255, dtype=torch.uint8), ("a",)).names
    assert Volume(torch.ones(2, 2, 2), EYE, names=("only",)).structure is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found_in_any_float(value):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        data = torch.zeros(3, 4, 5, dtype=dtype)
        data[2, 1, 3] = value
        with pytest.raises(ValueError, match="1 voxels are NaN or infinite"):
            Volume(data, EYE)


def test_small_voxels_are_not_taken_for_singular():
    affine = torch.diag(torch.tensor([1e-3, 1e-3, 1e-3, 1.0]).double())
    assert Volume(torch.zeros(1, 1, 1), affine).voxel_volume == pytest.approx(1e-9)
