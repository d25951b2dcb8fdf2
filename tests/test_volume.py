import pytest
import torch

from shapefit.io.volume import read_labels
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


TURN = torch.linalg.matrix_exp(torch.tensor([[0, -0.3, 0.2], [0.3, 0, -0.5], [-0.2, 0.5, 0]]).double())


def oblique(spacing=(-0.8, 1.5, 3.0), shift=(5.0, -7.0, 11.0)) -> torch.Tensor:
    affine = EYE.clone()
    affine[:3, :3] = TURN @ torch.diag(torch.tensor(spacing).double())
    affine[:3, 3] = torch.tensor(shift)
    return affine


def mass_and_moment(volume: Volume) -> tuple[float, torch.Tensor]:
    """Integral of the volume's values, and their centre of mass in the world."""
    axes = [torch.arange(n, dtype=torch.float64) for n in volume.data.shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    world = index @ volume.world_from_voxel[:3, :3].T + volume.world_from_voxel[:3, 3]
    weights = volume.data.double()
    total = weights.sum()
    return float(total) * volume.voxel_volume, (world * weights[..., None]).sum((0, 1, 2)) / total


@pytest.mark.parametrize("factor", [1, 2, 3, (1, 2, 4)])
@pytest.mark.parametrize("shape", [(12, 12, 12), (13, 11, 10), (2, 1, 5)])
def test_downsampling_keeps_the_mass(factor, shape):
    torch.manual_seed(0)
    volume = Volume(torch.rand(shape, dtype=torch.float64), oblique())
    small = volume.downsampled(factor)
    assert mass_and_moment(small)[0] == pytest.approx(mass_and_moment(volume)[0], rel=1e-12)


@pytest.mark.parametrize("factor", [2, 3, (1, 2, 4)])
@pytest.mark.parametrize("shape", [(12, 24, 36), (11, 23, 35)])
def test_downsampling_keeps_the_mass_where_it_was(factor, shape):
    # where blocks are even inside, their centres of mass are their centres: nothing may move
    factors = (factor,) * 3 if isinstance(factor, int) else factor
    torch.manual_seed(1)
    data = torch.rand(tuple(-(-n // f) for n, f in zip(shape, factors, strict=True)), dtype=torch.float64)
    small = data.clone()
    for axis, (n, f) in enumerate(zip(shape, factors, strict=True)):
        data = data.repeat_interleave(f, axis)
        if n % f:  # the last blocks reach beyond the volume, where there is nothing
            data.narrow(axis, data.shape[axis] - f, f).zero_()
            small.narrow(axis, small.shape[axis] - 1, 1).zero_()
    volume = Volume(data[: shape[0], : shape[1], : shape[2]], oblique())
    coarse = volume.downsampled(factor)
    assert torch.allclose(coarse.data, small)
    (mass, centre), (coarse_mass, coarse_centre) = mass_and_moment(volume), mass_and_moment(coarse)
    assert coarse_mass == pytest.approx(mass, rel=1e-12)
    assert torch.allclose(coarse_centre, centre, atol=1e-9)


def test_a_smooth_blob_stays_where_it_was_when_downsampled():
    axes = [torch.arange(n, dtype=torch.float64) for n in (40, 48, 56)]
    i, j, k = torch.meshgrid(*axes, indexing="ij")
    blob = torch.exp(-((i - 18.3) ** 2 + (j - 25.9) ** 2 + (k - 27.1) ** 2) / (2 * 4.0**2))
    volume = Volume(blob, oblique())
    for factor in (2, 4):
        assert torch.allclose(
            mass_and_moment(volume.downsampled(factor))[1], mass_and_moment(volume)[1], atol=2e-3
        )


def test_downsampling_is_the_mean_of_any_type_and_passes_gradients():
    whole = Volume(torch.arange(64, dtype=torch.int16).reshape(4, 4, 4), EYE).downsampled(2)
    assert whole.data.dtype == torch.float32
    assert whole.data[0, 0, 0] == (0 + 1 + 4 + 5 + 16 + 17 + 20 + 21) / 8
    assert Volume(torch.ones(4, 4, 4, dtype=torch.float16), EYE).downsampled(4).data.item() == 1
    data, affine = torch.rand(4, 4, 4, requires_grad=True), EYE.clone().requires_grad_()
    small = Volume(data, affine).downsampled(2)
    (small.data.sum() + small.world_from_voxel.sum()).backward()
    assert torch.allclose(data.grad, torch.full((4, 4, 4), 1 / 8)) and affine.grad.abs().sum() > 0


def test_hu_beyond_the_last_voxels_are_what_the_caller_says():
    ct = Volume(torch.zeros(3, 2, 2), EYE)
    assert ct.downsampled(2, outside=-1000.0).data.flatten().tolist() == [0.0, -500.0]


def test_a_block_belongs_to_the_structure_of_most_of_its_voxels():
    structure = torch.full((4, 2, 2), 255, dtype=torch.uint8)
    structure[:2].flatten()[:5] = 1
    structure[2:] = 0
    volume = Volume(torch.ones(4, 2, 2), EYE, structure, ("a", "b"))
    small = volume.downsampled(2)
    assert small.structure.flatten().tolist() == [1, 0] and small.names == ("a", "b")


@pytest.mark.parametrize("factor", [0, -1, (2, 0, 1)])
def test_a_factor_below_one_is_an_error(factor):
    with pytest.raises(ValueError, match="factors are whole numbers of voxels from 1"):
        Volume(torch.ones(2, 2, 2), EYE).downsampled(factor)


def test_cropping_keeps_mass_and_place_in_the_smallest_box_with_a_margin():
    data = torch.zeros(20, 18, 16, dtype=torch.float64)
    data[5:9, 3:11, 15:] = torch.rand(4, 8, 1, dtype=torch.float64) + 0.1
    structure = (data == 0).to(torch.uint8) * 255
    volume = Volume(data, oblique(), structure, ("a",))
    part = volume.cropped()
    assert part.data.shape == (6, 10, 2)  # the volume ends before the margin does
    (mass, centre), (part_mass, part_centre) = mass_and_moment(volume), mass_and_moment(part)
    assert part_mass == pytest.approx(mass, rel=1e-12) and torch.allclose(part_centre, centre, atol=1e-9)
    assert torch.equal(part.structure == 0, part.data > 0)
    assert volume.cropped(margin=0).data.shape == (4, 8, 1)
    assert part.data.is_contiguous() and part.data.untyped_storage().nbytes() == part.data.numel() * 8


def test_cropping_to_given_voxels_takes_those():
    data = torch.arange(60.0).reshape(3, 4, 5)
    part = Volume(data, oblique()).cropped((1, 0, 2), (3, 2, 5))
    assert torch.equal(part.data, data[1:3, 0:2, 2:5])
    assert torch.allclose(part.world_from_voxel[:, 3], oblique() @ torch.tensor([1.0, 0, 2, 1]).double())
    half = Volume(data, oblique()).cropped(low=(0, 0, 2), threshold=30.0)
    assert half.data.shape == (3, 4, 3)


def test_cropping_to_nothing_is_an_error():
    with pytest.raises(ValueError, match="no voxel is above 2: the largest is 1"):
        Volume(torch.ones(2, 2, 2), EYE).cropped(threshold=2.0)
    for low, high in (((0, 0, 0), (2, 2, 3)), ((1, 1, 1), (1, 2, 2)), ((-1, 0, 0), (2, 2, 2))):
        with pytest.raises(ValueError, match="are no part of"):
            Volume(torch.ones(2, 2, 2), EYE).cropped(low, high)


def labelled() -> Volume:
    labels = torch.zeros(6, 5, 4, dtype=torch.uint8)
    labels[:2], labels[3:, :2], labels[3:, 3:] = 7, 2, 1
    return Volume(labels, oblique())


def test_a_label_map_divides_a_volume_into_named_structures():
    labels = labelled()
    volume = Volume(torch.rand(6, 5, 4), oblique()).with_structures(labels, {"left": 7, "right": 1})
    assert volume.names == ("left", "right")
    expected = torch.full((6, 5, 4), 255, dtype=torch.uint8)
    expected[labels.data == 7], expected[labels.data == 1] = 0, 1
    assert torch.equal(volume.structure, expected)


def test_a_label_map_on_another_grid_is_looked_up_where_the_voxels_lie():
    labels = labelled()
    # the same world, voxels half as long, mirrored and two voxels more on each side
    affine = oblique() @ torch.diag(torch.tensor([-0.5, 0.5, 0.5, 1.0]).double())
    affine[:3, 3] = (oblique() @ torch.tensor([6.25, -1.25, -1.25, 1.0]).double())[:3]
    volume = Volume(torch.ones(16, 14, 12), affine).with_structures(labels, {"a": 1, "b": 2, "c": 7})
    fine = labels.data.flip(0)
    for axis in range(3):
        fine = fine.repeat_interleave(2, axis)
    expected = torch.full((16, 14, 12), 255, dtype=torch.uint8)
    for number, label in enumerate((1, 2, 7)):
        expected[2:14, 2:12, 2:10][fine == label] = number
    assert torch.equal(volume.structure, expected)


def test_a_label_that_is_not_there_is_an_error_that_lists_those_that_are():
    ct = Volume(torch.ones(6, 5, 4), oblique())
    with pytest.raises(ValueError, match=r"label 3 \(femur\) is not in the label map, which holds 1, 2, 7"):
        ct.with_structures(labelled(), {"left": 7, "femur": 3})
    far = Volume(torch.ones(6, 5, 4), oblique(shift=(900.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match=r"label 7 \(left\) lies nowhere on the volume"):
        far.with_structures(labelled(), {"left": 7})
    for structures in ({}, {"a": 1, "b": 1}):
        with pytest.raises(ValueError, match="names with a label each"):
            ct.with_structures(labelled(), structures)
    with pytest.raises(ValueError, match=r"labels are whole numbers, got torch.float32"):
        ct.with_structures(ct, {"a": 1})


def test_pieces_make_no_difference(monkeypatch):
    import shapefit.grid

    volume = Volume(torch.rand(9, 5, 4), oblique())
    labels = labelled()

    def all_of_it():
        named = volume.with_structures(labels, {"a": 7})
        small = named.downsampled((2, 3, 1))
        return named.structure, small.data, small.structure, volume.cropped(threshold=0.9).data

    whole = all_of_it()
    monkeypatch.setattr(shapefit.grid, "PIECE", 30)
    assert all(torch.equal(a, b) for a, b in zip(whole, all_of_it(), strict=True))


def test_a_volume_moves_with_all_that_it_knows():
    structure = torch.zeros(2, 2, 2, dtype=torch.uint8)
    moved = Volume(torch.ones(2, 2, 2), EYE, structure, ("a",)).to("cpu")
    assert torch.equal(moved.structure, structure) and moved.names == ("a",)
    assert Volume(torch.ones(2, 2, 2), EYE).to("cpu").structure is None


def test_a_real_label_map_names_every_voxel_that_it_labels(data_dir):
    folder = data_dir / "ct"
    labels = read_labels(folder / "pelvis_windowed_label.nii.gz")
    ct = Volume.from_file(folder / "pelvis_windowed.nii.gz")
    named = ct.with_structures(labels, {"sacrum": 1, "hip_left": 2, "hip_right": 3})
    for number, label in enumerate((1, 2, 3)):
        assert torch.equal(named.structure == number, labels.data == label)
    # on a coarser grid the bones are as large, to within what a voxel cuts off
    coarse = ct.downsampled(2).with_structures(labels, {"sacrum": 1})
    assert int((coarse.structure == 0).sum()) * 8 == pytest.approx(int((labels.data == 1).sum()), rel=0.05)
