import nibabel
import nrrd
import numpy as np
import pytest
import torch

from shapefit.io.volume import read_labels, read_volume, write_volume
from shapefit.volume import Volume


def oblique(flip: float = 1.0) -> torch.Tensor:
    """A turned, anisotropic and, for flip=-1, mirrored grid."""
    affine = torch.eye(4, dtype=torch.float64)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.3, 0.2], [0.3, 0, -0.5], [-0.2, 0.5, 0]]).double())
    affine[:3, :3] = turn @ torch.diag(torch.tensor([0.8 * flip, 1.1, 2.5]).double())
    affine[:3, 3] = torch.tensor([12.0, -340.0, -71.5])
    return affine


@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_a_volume_comes_back_where_it_was(tmp_path, suffix, flip):
    data = torch.randn(4, 5, 6)
    write_volume(tmp_path / f"ct{suffix}", Volume(data, oblique(flip)))
    back = read_volume(tmp_path / f"ct{suffix}")
    assert torch.equal(back.data, data)
    assert torch.allclose(back.world_from_voxel, oblique(flip), atol=1e-4)  # NIfTI keeps float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_length_are_written_as_float32(tmp_path, dtype):
    data = torch.randn(2, 3, 4).to(dtype)
    write_volume(tmp_path / "ct.nrrd", Volume(data, oblique()))
    assert torch.equal(read_volume(tmp_path / "ct.nrrd").data, data.float())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_labels_come_back_as_whole_numbers(tmp_path, suffix):
    for largest, kind in ((3, torch.uint8), (70000, torch.int32)):
        labels = torch.zeros(3, 4, 5, dtype=torch.int64)
        labels[1, 2, 3] = largest
        write_volume(tmp_path / f"seg{suffix}", Volume(labels, oblique()))
        back = read_labels(tmp_path / f"seg{suffix}")
        assert back.data.dtype == kind and torch.equal(back.data.long(), labels)


def test_labels_stored_as_floats_are_still_labels(tmp_path):
    write_volume(tmp_path / "seg.nii", Volume(torch.tensor([[[0.0, 2.0]]]), oblique()))
    assert read_labels(tmp_path / "seg.nii").data.tolist() == [[[0, 2]]]


@pytest.mark.parametrize(
    ("space", "sign"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_an_nrrd_in_any_space_lands_in_ras(tmp_path, space, sign):
    header = {
        "space": space,
        "space directions": oblique().numpy()[:3, :3].T,
        "space origin": [1.0, 2.0, 3.0],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), np.arange(24, dtype=np.int16).reshape(2, 3, 4), header)
    volume = read_volume(tmp_path / "a.nrrd")
    expected = oblique().clone()
    expected[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    expected[:3] *= torch.tensor(sign)[:, None]
    assert torch.allclose(volume.world_from_voxel, expected)
    assert volume.data[1, 2, 3] == 23


def test_the_same_scan_as_nifti_and_as_lps_nrrd_is_the_same_volume(tmp_path):
    data, affine = torch.arange(24).reshape(2, 3, 4).to(torch.int16), oblique()
    write_volume(tmp_path / "a.nii", Volume(data, affine))
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine.numpy()[:3]
    header = {"space": "left-posterior-superior", "space directions": lps[:, :3].T, "space origin": lps[:, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), data.numpy(), header)
    one, other = read_labels(tmp_path / "a.nii"), read_labels(tmp_path / "a.nrrd")
    assert torch.equal(one.data, other.data)
    assert torch.allclose(one.world_from_voxel, other.world_from_voxel, atol=1e-4)


def test_nifti_units_other_than_mm_are_converted(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.diag([0.002, 0.002, 0.003, 1.0]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    assert torch.allclose(read_volume(tmp_path / "a.nii").spacing, torch.tensor([2.0, 2.0, 3.0]).double())


def nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_a_last_axis_of_one_is_no_axis(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((2, 3, 4, 1), np.int16))
    assert read_volume(path).data.shape == (2, 3, 4)


def test_a_series_of_volumes_is_an_error(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((2, 3, 4, 5), np.int16))
    with pytest.raises(ValueError, match=r"a.nii has 4 axes .*expected one 3-D volume"):
        read_volume(path)


def test_nan_voxels_are_an_error_that_counts_them(tmp_path):
    array = np.zeros((2, 3, 4), np.float32)
    array[0, 0, :2] = np.nan, np.inf
    for read in (read_volume, read_labels):
        with pytest.raises(ValueError, match=r"a.nii: 2 voxels are NaN or infinite"):
            read(nifti(tmp_path / "a.nii", array))


def test_a_singular_affine_is_an_error(tmp_path):
    header = {"space": "RAS", "space directions": np.diag([1.0, 1.0, 0.0]), "space origin": [0.0, 0.0, 0.0]}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((2, 2, 2), np.uint8), header)
    with pytest.raises(ValueError, match=r"a.nrrd: world_from_voxel is singular"):
        read_volume(tmp_path / "a.nrrd")


def test_an_image_is_not_a_label_map(tmp_path):
    path = nifti(tmp_path / "ct.nii", np.full((2, 2, 2), 0.37, np.float32))
    with pytest.raises(ValueError, match=r"ct.nii is not a label map: it holds values such as 0.37"):
        read_labels(path)
    path = nifti(tmp_path / "hu.nii", np.full((2, 2, 2), -1000, np.int16))
    with pytest.raises(ValueError, match=r"hu.nii is not a label map: its values run from -1000"):
        read_labels(path)


def test_a_nifti_that_does_not_say_how_it_lies_is_an_error(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), None)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(ValueError, match="sform_code and qform_code are 0"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("missing", ["space", "space directions", "space origin"])
def test_an_nrrd_that_does_not_say_how_it_lies_is_an_error_that_names_the_field(tmp_path, missing):
    header = {"space": "RAS", "space directions": np.eye(3), "space origin": [0.0, 0.0, 0.0]}
    del header[missing]
    if missing == "space":
        header = {"space dimension": 3, **header}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((2, 2, 2), np.uint8), header)
    with pytest.raises(ValueError, match=f"a.nrrd has no field '{missing}'"):
        read_volume(tmp_path / "a.nrrd")


def test_an_nrrd_in_an_unknown_space_is_an_error(tmp_path):
    header = {"space": "scanner-xyz", "space directions": np.eye(3), "space origin": [0.0, 0.0, 0.0]}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((2, 2, 2), np.uint8), header)
    with pytest.raises(ValueError, match="in the space 'scanner-xyz'"):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("content", [b"", b"no volume " * 100])
def test_what_is_not_a_volume_is_an_error_that_names_the_file(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad{suffix} is not a readable"):
        read_volume(path)


def test_a_truncated_volume_is_an_error_that_names_the_file(tmp_path):
    volume = Volume(torch.randn(20, 20, 20), oblique())
    for suffix in (".nii", ".nii.gz", ".nrrd"):
        path = tmp_path / f"cut{suffix}"
        write_volume(path, volume)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"cut{suffix} is not a readable"):
            read_volume(path)


def test_unknown_formats_and_absent_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"expected \.nii"):
        write_volume(tmp_path / "a.mha", Volume(torch.zeros(1, 1, 1), oblique()))
    with pytest.raises(ValueError, match="is not a file"):
        read_volume(tmp_path / "a.nii")
    (tmp_path / "a.mha").write_text("x")
    with pytest.raises(ValueError, match=r"expected \.nii"):
        read_volume(tmp_path / "a.mha")


def test_the_real_scans_have_the_patient_the_right_way_round(data_dir):
    labels = read_labels(data_dir / "ct" / "pelvis_windowed_label.nii.gz")
    assert labels.data.unique().tolist() == [0, 1, 2, 3]
    volume = read_volume(data_dir / "ct" / "pelvis_bone.nii.gz")
    assert volume.data.shape == (256, 256, 175)
    assert torch.allclose(volume.spacing, torch.tensor([1.564, 1.564, 1.5979]).double(), atol=1e-3)
