import math

import numpy as np
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

from shapefit.camera import world_from_view
from shapefit.io.dicom import pose_of_positioner, read_dicom_camera
from shapefit.io.xray import read_image, read_view

GEOMETRY = {"DistanceSourceToDetector": "1020", "ImagerPixelSpacing": ["0.4", "0.5"]}
ANGLES = {"DistanceSourceToPatient": "700", "PositionerPrimaryAngle": "30", "PositionerSecondaryAngle": "-10"}


def write_dicom(path, array, **tags):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = XRayAngiographicImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality = "XA"
    if array is not None:
        if array.ndim == 3:
            data.NumberOfFrames = array.shape[0]
        data.Rows, data.Columns = array.shape[-2:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.PixelData = array.astype(np.uint16).tobytes()
    for tag, value in tags.items():
        setattr(data, tag, value)
    data.save_as(path)
    return path


def ramp() -> np.ndarray:
    return np.arange(1, 121).reshape(10, 12) * 8


def test_pixels_are_scaled_to_the_largest(tmp_path):
    image = read_image(write_dicom(tmp_path / "a.dcm", ramp()), "bone-dark")
    assert torch.allclose(image, torch.from_numpy(ramp() / 960).float())


def test_a_dicom_file_is_known_without_its_suffix(tmp_path):
    assert read_image(write_dicom(tmp_path / "IM0001", ramp()), "bone-dark").shape == (10, 12)


def test_monochrome1_is_shown_inverted(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", ramp(), PhotometricInterpretation="MONOCHROME1")
    shown = torch.from_numpy((ramp().max() + ramp().min() - ramp()) / 960).float()
    assert torch.allclose(read_image(path, "bone-dark"), shown)


def test_rescale_is_applied(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", ramp(), RescaleSlope="2", RescaleIntercept="40")
    assert torch.allclose(read_image(path, "bone-dark"), torch.from_numpy((2 * ramp() + 40) / 1960).float())


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tags_tell_the_polarity_whatever_the_display(tmp_path, kind, sign):
    tags = {"PhotometricInterpretation": kind, "PixelIntensityRelationshipSign": sign}
    image = read_image(write_dicom(tmp_path / "a.dcm", ramp(), **tags))
    # sign 1: low stored values mean few X-rays, hence bone
    assert bool(image[0, 0] < image[-1, -1]) == (sign == 1)


def test_several_frames_need_a_choice(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.stack([ramp(), ramp()[::-1]]))
    with pytest.raises(ValueError, match=r"a.dcm holds 2 frames; choose one"):
        read_image(path)
    assert torch.allclose(
        read_image(path, "bone-dark", frame=1)[0, 0], torch.tensor(ramp()[-1, 0] / 960).float()
    )
    with pytest.raises(ValueError, match="has no frame 7"):
        read_image(path, frame=7)


def test_geometry_comes_from_the_detector_pitch_not_the_pixel_spacing(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", ramp(), **GEOMETRY, PixelSpacing=["0.3", "0.3"])
    camera, pose = read_dicom_camera(path)
    assert (camera.sdd, camera.dely, camera.delx) == (1020.0, 0.4, 0.5)  # rows first in DICOM
    assert (camera.height, camera.width, camera.x0, camera.y0) == (10, 12, 0.0, 0.0)
    assert pose is None


@pytest.mark.parametrize("tag", GEOMETRY)
def test_a_missing_geometry_tag_is_an_error_that_names_it(tmp_path, tag):
    tags = {key: value for key, value in GEOMETRY.items() if key != tag}
    path = write_dicom(tmp_path / "a.dcm", ramp(), PixelSpacing=["0.3", "0.3"], **tags)
    with pytest.raises(ValueError, match=rf"a.dcm has no geometry: the tag {tag} is missing; give a camera"):
        read_view(path, polarity="bone-dark")


def test_a_geometry_of_zero_is_an_error(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", ramp(), **GEOMETRY | {"DistanceSourceToDetector": "0"})
    with pytest.raises(ValueError, match=r"a.dcm: camera sdd must be a positive length"):
        read_view(path, polarity="bone-dark")


def test_a_view_needs_no_camera_file_where_the_tags_give_it(tmp_path):
    view = read_view(write_dicom(tmp_path / "a.dcm", ramp(), **GEOMETRY, **ANGLES), polarity="bone-dark")
    assert view.camera.sdd == 1020.0
    expected = pose_of_positioner(math.radians(30), math.radians(-10), 700.0)
    assert torch.allclose(view.world_from_camera, expected)


def test_at_zero_angles_the_detector_is_in_front_of_the_patient():
    expected = world_from_view("pa", torch.zeros(3), 700.0)
    assert torch.allclose(pose_of_positioner(0.0, 0.0, 700.0), expected)


def test_lao_takes_the_detector_to_the_left_and_cranial_towards_the_head():
    lao = pose_of_positioner(math.radians(40), 0.0, 700.0)[:3, 2]
    cranial = pose_of_positioner(0.0, math.radians(25), 700.0)[:3, 2]
    assert lao[0] < -0.6 and lao[1] > 0.7  # RAS: left is -x, front is +y
    assert cranial[2] > 0.4 and cranial[1] > 0.9


@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.7, -0.3), (-2.0, 0.5), (math.pi / 2, 0.0)])
def test_a_positioner_pose_is_rigid_and_looks_at_the_isocentre(angles):
    pose = pose_of_positioner(*angles, 700.0)
    assert torch.allclose(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(pose[:3, :3]) > 0
    assert torch.allclose(pose[:3, 3] + 700 * pose[:3, 2], torch.zeros(3, dtype=torch.float64), atol=1e-9)


def test_dicom_without_a_grey_picture_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="the tag PixelData is missing"):
        read_image(write_dicom(tmp_path / "a.dcm", None))
    path = write_dicom(tmp_path / "b.dcm", ramp(), PhotometricInterpretation="RGB")
    with pytest.raises(ValueError, match="is a RGB image; expected MONOCHROME1 or MONOCHROME2"):
        read_image(path)


def test_truncated_dicom_is_an_error_that_names_the_file(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", ramp())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a.dcm"):
        read_image(path)
