import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from shapefit.io.volume import read_volume, write_volume
from shapefit.volume import Volume

SKEW = torch.tensor([[0, -0.3, 0.2], [0.3, 0, -0.5], [-0.2, 0.5, 0]], dtype=torch.float64)
TURN = torch.linalg.matrix_exp(SKEW).numpy()
START = np.array([10.0, -20.0, 30.0])
UID = generate_uid()


def stored(slices=5, rows=4, columns=6) -> np.ndarray:
    """Stored values (slices, rows, columns), a different one in every voxel."""
    return np.arange(slices * rows * columns).reshape(slices, rows, columns).astype(np.int16)


def dataset(path, array, kind=CTImageStorage) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.Modality, data.SeriesInstanceUID = "CT", UID
    data.Rows, data.Columns = array.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = array.astype(np.int16).tobytes()
    return data


def write_series(folder, array=None, names=None, step=None, turn=TURN, change=lambda n, data: None):
    """A series in LPS: columns 0.7 mm, rows 0.9 mm apart, slices 2.5 mm along their normal."""
    folder.mkdir(exist_ok=True)
    array = stored() if array is None else array
    step = 2.5 * turn[:, 2] if step is None else step
    for n, pixels in enumerate(array):
        path = folder / (names[n] if names else f"{n:03}.dcm")
        data = dataset(path, pixels)
        data.ImageOrientationPatient = np.round([*turn[:, 0], *turn[:, 1]], 8).tolist()
        data.ImagePositionPatient = np.round(START + n * step, 6).tolist()
        data.PixelSpacing = [0.9, 0.7]  # between rows first
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        change(n, data)
        data.save_as(path)
    return folder


def ras(array: np.ndarray, step=None, turn=TURN) -> tuple[torch.Tensor, torch.Tensor]:
    affine = np.eye(4)
    affine[:3, :3] = np.stack(
        [0.7 * turn[:, 0], 0.9 * turn[:, 1], 2.5 * turn[:, 2] if step is None else step], 1
    )
    affine[:3, 3] = START
    affine[:2] *= -1
    return torch.from_numpy(array.transpose(2, 1, 0).astype(np.float32)), torch.from_numpy(affine)


def same(volume: Volume, expected) -> bool:
    return torch.equal(volume.data, expected[0]) and torch.allclose(
        volume.world_from_voxel, expected[1], atol=1e-5
    )


def test_a_series_lands_in_ras_columns_first(tmp_path):
    volume = read_volume(write_series(tmp_path / "ct"))
    assert same(volume, ras(stored()))
    assert volume.data.is_contiguous() and volume.data.dtype == torch.float32
    assert same(Volume.from_file(tmp_path / "ct"), ras(stored()))


def test_slices_are_sorted_by_place_not_by_name(tmp_path):
    names = ["IM7", "a.dcm", "IM0", "zzz", "0001.dcm"]
    assert same(read_volume(write_series(tmp_path / "ct", names=names)), ras(stored()))
    for name in names:  # any file stands for its series
        assert same(read_volume(tmp_path / "ct" / name), ras(stored()))


def test_slices_against_their_normal_are_the_same_volume(tmp_path):
    up = read_volume(write_series(tmp_path / "up"))
    down = stored()[::-1]
    start = -4 * 2.5 * TURN[:, 2]

    def shift(n, data):
        data.ImagePositionPatient = np.round(START - start + n * start / 4, 6).tolist()

    found = read_volume(write_series(tmp_path / "down", down, change=shift))
    assert torch.equal(found.data, up.data)
    assert torch.allclose(found.world_from_voxel, up.world_from_voxel, atol=1e-4)


def test_the_same_scan_as_nifti_is_the_same_volume(tmp_path):
    volume = read_volume(write_series(tmp_path / "ct"))
    write_volume(tmp_path / "ct.nii.gz", volume)
    again = read_volume(tmp_path / "ct.nii.gz")
    assert torch.equal(again.data, volume.data)
    assert torch.allclose(again.world_from_voxel, volume.world_from_voxel, atol=1e-5)


def test_every_slice_has_its_own_rescale(tmp_path):
    def rescale(n, data):
        data.RescaleSlope, data.RescaleIntercept = 0.5 + n, -1024 + n

    factors = np.arange(5).reshape(5, 1, 1)
    expected = stored() * (0.5 + factors) - 1024 + factors
    assert same(read_volume(write_series(tmp_path / "ct", change=rescale)), ras(expected))


def test_a_tilted_gantry_shears_the_volume_and_leaves_every_slice_where_it_was(tmp_path):
    step = 2.5 * TURN[:, 2] + 0.6 * TURN[:, 1]
    volume = read_volume(write_series(tmp_path / "ct", step=step))
    assert same(volume, ras(stored(), step))
    assert volume.voxel_volume == pytest.approx(0.7 * 0.9 * 2.5, rel=1e-5)


def test_other_files_and_folders_beside_a_series_are_passed_over(tmp_path):
    folder = write_series(tmp_path / "ct")
    (folder / "notes.txt").write_text("seen")
    (folder / ".DS_Store").write_bytes(b"\0" * 200)
    write_series(folder / "other")
    report = dataset(folder / "report", stored()[0])
    for tag in ("Rows", "Columns", "PixelData"):
        delattr(report, tag)
    report.SeriesInstanceUID = generate_uid()
    report.save_as(folder / "report")
    assert same(read_volume(folder), ras(stored()))


def test_missing_slices_are_an_error_that_names_their_neighbours(tmp_path):
    folder = write_series(tmp_path / "ct", stored(slices=9))
    for name in ("003", "006", "007"):
        (folder / f"{name}.dcm").unlink()
    message = (
        r"slices are missing, 1 between 002.dcm and 004.dcm; 2 between 005.dcm and 008.dcm \(2.5 mm apart"
    )
    with pytest.raises(ValueError, match=message):
        read_volume(folder)


def test_unequal_distances_are_an_error_that_names_the_slices(tmp_path):
    def pushed(n, data):
        if n > 2:
            data.ImagePositionPatient = np.round(START + (2.5 * n + 0.9) * TURN[:, 2], 6).tolist()

    with pytest.raises(ValueError, match=r"far apart: 3.4 mm from 002.dcm to 003.dcm, elsewhere 2.5"):
        read_volume(write_series(tmp_path / "ct", change=pushed))


def test_rounded_places_are_no_unequal_distances(tmp_path):
    def rounded(n, data):
        data.ImagePositionPatient = [round(float(x), 2) for x in data.ImagePositionPatient]

    volume = read_volume(write_series(tmp_path / "ct", change=rounded))
    assert torch.allclose(volume.world_from_voxel, ras(stored())[1], atol=0.01)


def test_two_slices_at_one_place_are_an_error(tmp_path):
    def double(n, data):
        if n == 3:
            data.ImagePositionPatient = np.round(START + 5 * TURN[:, 2], 6).tolist()

    with pytest.raises(ValueError, match=r"002.dcm and 003.dcm lie at one place; are several scans"):
        read_volume(write_series(tmp_path / "ct", change=double))


def test_a_slice_off_the_line_is_an_error_that_names_it(tmp_path):
    def aside(n, data):
        if n == 2:
            there = START + 5 * TURN[:, 2] + 3 * TURN[:, 0]
            data.ImagePositionPatient = np.round(there, 6).tolist()

    with pytest.raises(ValueError, match=r"002.dcm lies 3 mm off the line of the other slices"):
        read_volume(write_series(tmp_path / "ct", change=aside))


def test_several_series_in_a_folder_are_an_error_that_says_how_to_choose(tmp_path):
    folder = write_series(tmp_path / "ct", names=[f"bone{n}" for n in range(5)])
    other = generate_uid()

    def soft(n, data):
        data.SeriesInstanceUID, data.SeriesDescription = other, "soft kernel"

    write_series(folder, -stored(), names=[f"soft{n}" for n in range(5)], change=soft)
    with pytest.raises(ValueError) as error:
        read_volume(folder)
    message = (
        "holds 2 series: 5 files like bone0, ''; 5 files like soft0, 'soft kernel'; choose one by naming a"
    )
    assert message in str(error.value)
    assert same(read_volume(folder / "bone3"), ras(stored()))
    assert same(read_volume(folder / "soft1"), ras(-stored()))


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (
            "PixelSpacing",
            [0.9, 0.8],
            "differ in size: 000.dcm 0.9 x 0.7 mm, 002.dcm 0.9 x 0.8",
        ),
        ("ImageOrientationPatient", [1, 0, 0, 0, 1, 0], "turned against each other: 000.dcm .* 002.dcm"),
        ("Rows", 3, "differ in size: 000.dcm has 4 rows and 6 columns, 002.dcm has 3 rows"),
        (
            "ImagePositionPatient",
            None,
            "002.dcm does not say .* the tag ImagePositionPatient is missing",
        ),
        ("ImagePositionPatient", [1, 2], "002.dcm: the tag ImagePositionPatient holds .* expected 3 numbers"),
        ("SamplesPerPixel", 3, "002.dcm is a MONOCHROME2 image; expected grey slices"),
    ],
)
def test_a_slice_unlike_the_others_is_an_error_that_names_it(tmp_path, tag, value, message):
    def change(n, data):
        if n == 2:
            setattr(data, tag, value)

    with pytest.raises(ValueError, match=message):
        read_volume(write_series(tmp_path / "ct", change=change))


def test_an_orientation_that_is_none_is_an_error(tmp_path):
    def flat(n, data):
        data.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]

    with pytest.raises(ValueError, match="not of two perpendicular unit vectors"):
        read_volume(write_series(tmp_path / "ct", change=flat))


def test_too_little_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="one holds one slice; a volume needs at least 2"):
        read_volume(write_series(tmp_path / "one", stored(1)))
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(ValueError, match="empty holds no DICOM image; its folders: inner"):
        read_volume(tmp_path / "empty")


def test_broken_files_are_errors_that_name_them(tmp_path):
    folder = write_series(tmp_path / "ct")
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"003.dcm: its pixels \(Explicit VR .* cannot be decoded"):
        read_volume(folder)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"003.dcm is not a readable DICOM file"):
        read_volume(folder)


def test_compressed_slices_are_read_where_there_is_a_decoder_and_else_are_an_error(tmp_path):
    def rle(n, data):
        data.compress(RLELossless)

    assert same(read_volume(write_series(tmp_path / "rle", change=rle)), ras(stored()))

    def broken(n, data):
        data.compress(RLELossless)
        data.file_meta.TransferSyntaxUID = JPEGLosslessSV1

    with pytest.raises(ValueError, match=r"000.dcm: its pixels \(JPEG Lossless.*pip install python-gdcm"):
        read_volume(write_series(tmp_path / "jpeg", change=broken))


def group(name: str, **tags) -> Dataset:
    """A functional group of an enhanced file."""
    inner, outer = Dataset(), Dataset()
    for tag, value in tags.items():
        setattr(inner, tag, value)
    setattr(outer, name, Sequence([inner]))
    return outer


def test_an_enhanced_multi_frame_file_is_the_same_volume(tmp_path):
    order = [3, 0, 4, 1, 2]  # frames come in any order
    data = dataset(tmp_path / "ct.dcm", stored()[order], EnhancedCTImageStorage)
    data.NumberOfFrames = 5
    shared = group("PixelMeasuresSequence", PixelSpacing=[0.9, 0.7])
    orientation = np.round([*TURN[:, 0], *TURN[:, 1]], 8).tolist()
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=orientation))
    shared.update(group("PixelValueTransformationSequence", RescaleSlope=2, RescaleIntercept=-1024))
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    places = [np.round(START + 2.5 * n * TURN[:, 2], 6).tolist() for n in order]
    frames = [group("PlanePositionSequence", ImagePositionPatient=place) for place in places]
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.save_as(tmp_path / "ct.dcm")
    assert same(read_volume(tmp_path / "ct.dcm"), ras(2 * stored() - 1024))
    data.PerFrameFunctionalGroupsSequence = Sequence(frames[:3] + frames[4:])
    data.NumberOfFrames = 4
    data.PixelData = stored()[[3, 0, 4, 2]].tobytes()
    data.save_as(tmp_path / "ct.dcm")
    with pytest.raises(ValueError, match=r"1 between ct.dcm \(frame 1\) and ct.dcm \(frame 3\)"):
        read_volume(tmp_path / "ct.dcm")
