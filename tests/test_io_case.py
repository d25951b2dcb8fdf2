import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from shapefit.io.case import case_names, read_case
from shapefit.io.landmarks import read_landmarks
from shapefit.io.mesh import write_surfaces
from shapefit.io.volume import write_volume
from shapefit.volume import Volume

STRUCTURES = {"femur": 1, "patella": 2}
READINGS = {
    "frame": "RAS",
    "units": "mm",
    "readings": [
        {"rater": 1, "trial": 1, "points": {"tip": [1.0, 2.0, 3.0], "notch": [4.0, 5.0, 6.0]}},
        {"rater": 1, "trial": 2, "points": {"tip": [1.5, 2.0, 3.0]}},
    ],
}


def write_labels(path: Path) -> None:
    labels = torch.zeros(14, 14, 24, dtype=torch.uint8)
    labels[3:11, 3:11, 3:11] = 1
    labels[3:11, 3:11, 14:19] = 2
    write_volume(path, Volume(labels, torch.diag(torch.tensor([-1.0, -1.0, 2.0, 1.0]).double())))


def write_meshes(folder: Path) -> None:
    write_surfaces(folder, {name: trimesh.creation.icosphere(2, radius=5) for name in STRUCTURES})


def test_a_folder_of_meshes_is_a_case_with_its_landmarks(tmp_path):
    write_meshes(tmp_path / "p7")
    (tmp_path / "p7" / "landmarks.json").write_text(json.dumps(READINGS))
    case = read_case(tmp_path / "p7", ["patella", "femur"])
    assert case.name == "p7" and list(case.surfaces) == ["patella", "femur"]
    assert case.landmarks["tip"].tolist() == [[1.0, 2.0, 3.0], [1.5, 2.0, 3.0]]
    assert case.landmarks["notch"].shape == (1, 3)
    assert case.findings is None
    assert list(read_case(tmp_path / "p7").surfaces) == ["femur", "patella"]


def test_a_label_map_is_a_case_whether_given_as_file_or_as_folder(tmp_path):
    write_labels(tmp_path / "p8" / "seg.nii.gz")
    (tmp_path / "p8" / "landmarks.json").write_text(json.dumps(READINGS))
    of_file = read_case(tmp_path / "p8" / "seg.nii.gz", STRUCTURES)
    of_folder = read_case(tmp_path / "p8", STRUCTURES)
    assert (of_file.name, of_folder.name) == ("seg", "p8")
    for name in STRUCTURES:
        assert np.array_equal(of_file.surfaces[name].vertices, of_folder.surfaces[name].vertices)
    assert set(of_file.landmarks) == set(of_folder.landmarks) == {"tip", "notch"}
    assert of_file.findings["femur"].label_volume == 8**3 * 2.0


def test_landmarks_beside_several_label_maps_belong_to_none_of_them(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name)
    (tmp_path / "landmarks.json").write_text(json.dumps(READINGS))
    assert read_case(tmp_path / "a.nii.gz", STRUCTURES).landmarks is None


def test_meshes_come_before_a_label_map_unless_told_otherwise(tmp_path):
    write_meshes(tmp_path)
    write_labels(tmp_path / "seg.nrrd")
    assert read_case(tmp_path, STRUCTURES).findings is None
    assert read_case(tmp_path, STRUCTURES, source="labels").findings is not None


def test_a_label_map_without_a_label_is_an_error_that_names_label_file_and_what_is_there(tmp_path):
    write_labels(tmp_path / "seg.nii.gz")
    with pytest.raises(ValueError, match=r"seg.nii.gz has no label 4 \(tibia\); its labels are 1, 2"):
        read_case(tmp_path / "seg.nii.gz", {"femur": 1, "tibia": 4})


def test_what_is_not_a_case_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_case(tmp_path / "absent")
    with pytest.raises(ValueError, match="has no mesh, so one label map is needed"):
        read_case(tmp_path, STRUCTURES)
    write_labels(tmp_path / "seg.nii.gz")
    with pytest.raises(ValueError, match="say which label is what"):
        read_case(tmp_path)
    with pytest.raises(ValueError, match="say which label is what"):
        read_case(tmp_path / "seg.nii.gz", ["femur"])
    with pytest.raises(ValueError, match="give their folder"):
        read_case(tmp_path / "seg.nii.gz", STRUCTURES, source="meshes")
    write_labels(tmp_path / "other.nii.gz")
    with pytest.raises(ValueError, match=r"found other.nii.gz, seg.nii.gz"):
        read_case(tmp_path, STRUCTURES)
    with pytest.raises(ValueError, match="expected one of auto, meshes, labels"):
        read_case(tmp_path, STRUCTURES, source="voxels")


def test_names_tell_cases_apart(tmp_path):
    assert case_names(["x/a.nii.gz", "x/b.nrrd", "x/c"]) == ("a", "b", "c")
    assert case_names(["x/z1/seg.nii.gz", "x/z2/seg.nii.gz"]) == ("z1", "z2")
    assert case_names(["x/z1/seg.nii.gz", "y/z1/seg.nii.gz"]) == ("x/z1/seg", "y/z1/seg")
    with pytest.raises(ValueError, match="given twice"):
        case_names(["x/a", "x/../x/a"])


def test_landmarks_in_lps_land_in_ras(tmp_path):
    (tmp_path / "l.json").write_text(json.dumps(READINGS | {"frame": "LPS"}))
    assert read_landmarks(tmp_path / "l.json")["notch"].tolist() == [[-4.0, -5.0, 6.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "not a readable JSON"),
        ("[1]", "not a landmark file"),
        (json.dumps(READINGS | {"units": "cm"}), "expected RAS or LPS, and mm"),
        (json.dumps(READINGS | {"frame": "xyz"}), "expected RAS or LPS, and mm"),
        (json.dumps({"frame": "RAS", "units": "mm"}), "readings"),
        (json.dumps(READINGS | {"readings": [{"points": {"tip": [1, 2]}}]}), "tip is at"),
        (json.dumps(READINGS | {"readings": [{"points": {"tip": [1, 2, float("nan")]}}]}), "tip is at"),
    ],
)
def test_landmark_files_of_another_layout_are_errors_that_name_the_file(tmp_path, content, message):
    (tmp_path / "landmarks.json").write_text(content)
    with pytest.raises(ValueError, match=rf"landmarks.json.*{message}"):
        read_landmarks(tmp_path / "landmarks.json")


def test_real_landmarks_lie_on_the_real_bones(data_dir):
    case = read_case(data_dir / "vsd" / "z001", {"hip_left": 2})
    assert len(case.landmarks) == 14
    mean = case.landmarks["Left ASIS"].mean(0)
    # raters pick it on the surface, within a few mm
    assert np.linalg.norm(case.surfaces["hip_left"].vertices - mean, axis=1).min() < 10
