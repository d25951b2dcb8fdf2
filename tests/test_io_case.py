import json
from pathlib import Path

import nibabel
import nrrd
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


def write_bones(path: Path, labels: dict[str, int], extension: str = "") -> None:
    """Boxes side by side along x, one per name, 2 mm voxels; with the text of a header extension."""
    array = np.zeros((10 * len(labels) + 4, 14, 14), np.uint8)
    for n, label in enumerate(labels.values()):
        array[10 * n + 3 : 10 * n + 10, 4:10, 4:10] = label
    image = nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0]))
    if extension:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, extension.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


PELVIS = {"sacrum": 25, "hip_left": 77, "hip_right": 78}  # as TotalSegmentator numbers them


def caret(labels: dict[str, int]) -> str:
    """The extension that TotalSegmentator writes."""
    rows = "\n".join(
        f'<Label Key="{n}" Red="1.0" Green="0" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>'
        for name, n in labels.items()
    )
    table = f"<VolumeInformation><LabelTable>{rows}</LabelTable></VolumeInformation>"
    return f'<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>{table}</CaretExtension>'


def test_bones_of_totalsegmentator_are_known_by_name(tmp_path):
    write_bones(tmp_path / "ct.nii.gz", PELVIS | {"liver": 5})
    case = read_case(tmp_path / "ct.nii.gz", ["hip_right", "sacrum"])
    assert list(case.surfaces) == ["hip_right", "sacrum"]
    assert case.labels == {"hip_right": 78, "sacrum": 25}
    # sacrum comes first along x, hip_right last
    assert case.surfaces["sacrum"].centroid[0] < 20 < case.surfaces["hip_right"].centroid[0]


def test_totalsegmentator_stands_for_the_bones_that_occur(tmp_path):
    write_bones(tmp_path / "ct.nii.gz", PELVIS | {"liver": 5})
    assert read_case(tmp_path / "ct.nii.gz", ["totalsegmentator"]).labels == PELVIS


def test_a_number_goes_before_a_name_that_is_known(tmp_path):
    write_bones(tmp_path / "ct.nii.gz", {"sacrum": 1, "hip_left": 77})
    assert read_case(tmp_path / "ct.nii.gz", {"sacrum": 1, "hip_left": None}).labels["sacrum"] == 1


def test_a_known_bone_that_does_not_occur_is_an_error_that_names_its_number(tmp_path):
    write_bones(tmp_path / "ct.nii.gz", {"sacrum": 1})
    with pytest.raises(ValueError, match=r"has no label 25 \(sacrum\); its labels are 1"):
        read_case(tmp_path / "ct.nii.gz", ["sacrum"])


def test_a_name_that_nothing_knows_is_an_error_that_shows_how_to_say_it(tmp_path):
    write_bones(tmp_path / "ct.nii.gz", {"sacrum": 1})
    with pytest.raises(ValueError, match=r"does not say which label is femur, .* as in femur=1"):
        read_case(tmp_path / "ct.nii.gz", ["femur"])


def test_a_header_that_names_labels_goes_before_the_table(tmp_path):
    old = {"sacrum": 92, "hip_left": 90, "spleen": 1}  # as version 1 numbered them
    write_bones(tmp_path / "ct.nii.gz", old, caret(old | {"hip_right": 91}))
    case = read_case(tmp_path / "ct.nii.gz", ["hip_left", "sacrum"])
    assert case.labels == {"hip_left": 90, "sacrum": 92}
    assert read_case(tmp_path / "ct.nii.gz", ["totalsegmentator"]).labels == {"sacrum": 92, "hip_left": 90}
    assert set(read_case(tmp_path / "ct.nii.gz").surfaces) == {"sacrum", "hip_left", "spleen"}
    with pytest.raises(ValueError, match="has nothing called femur_left; it names sacrum, hip_left, spleen"):
        read_case(tmp_path / "ct.nii.gz", ["sacrum", "femur_left"])


def test_a_folder_of_masks_is_a_case_and_what_is_beside_them_does_not_matter(tmp_path):
    for n, name in enumerate(PELVIS):
        write_bones(tmp_path / "p9" / f"{name}.nii.gz", {"": 0} | {f"{k}": k == n for k in range(3)})
    write_bones(tmp_path / "p9" / "femur_left.nii.gz", {"": 0})  # empty: it was not found
    write_bones(tmp_path / "p9" / "liver.nii.gz", {"liver": 1})
    write_bones(tmp_path / "p9" / "ct.nii.gz", {"ct": 200})
    case = read_case(tmp_path / "p9", ["hip_left", "sacrum"])
    assert list(case.surfaces) == ["hip_left", "sacrum"]
    assert case.surfaces["hip_left"].centroid[0] - case.surfaces["sacrum"].centroid[0] == pytest.approx(20)
    assert list(read_case(tmp_path / "p9", ["totalsegmentator"]).surfaces) == list(PELVIS)
    assert list(read_case(tmp_path / "p9").surfaces) == list(PELVIS)
    # numbers, as a model remembers them, are of no use here and do no harm
    assert list(read_case(tmp_path / "p9", PELVIS).surfaces) == list(PELVIS)
    with pytest.raises(ValueError, match=r"p9 has nothing called patella; it names sacrum, hip_left"):
        read_case(tmp_path / "p9", ["sacrum", "hip_left", "patella"])
    with pytest.raises(ValueError, match=r"femur_left.nii.gz has no label 1 \(femur_left\)"):
        read_case(tmp_path / "p9", ["femur_left"])


def write_segments(path: Path, layered: bool) -> None:
    """What 3D Slicer writes: LPS, segments with names, in one layer or (because they overlap) in two."""
    first = np.zeros((20, 14, 14), np.uint8)
    first[3:9, 4:10, 4:10] = 2
    second = np.zeros_like(first)
    second[9:16, 4:10, 4:10] = 1 if layered else 3
    header = {
        "space": "left-posterior-superior",
        "kinds": ["domain"] * 3,
        "space directions": [[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]],
        "space origin": [0.0, 0, 0],
        "Segment0_ID": "Segment_1", "Segment0_Name": "Left Hip", "Segment0_LabelValue": "2",
        "Segment0_Layer": "0", "Segment1_ID": "Segment_2", "Segment1_Name": "sacrum",
        "Segment1_LabelValue": "1" if layered else "3",
        "Segment1_Layer": "1" if layered else "0",
    }  # fmt: skip
    data = first + second
    if layered:
        data = np.stack([first, second])
        header["kinds"] = ["list", *header["kinds"]]
        header["space directions"] = [[np.nan] * 3, *header["space directions"]]
    nrrd.write(str(path), data, header)


@pytest.mark.parametrize("layered", [False, True])
def test_segments_of_slicer_are_known_by_their_names(tmp_path, layered):
    write_segments(tmp_path / "p.seg.nrrd", layered)
    case = read_case(tmp_path / "p.seg.nrrd", ["sacrum", "left_hip"])
    assert list(case.surfaces) == ["sacrum", "left_hip"]
    assert case.labels == {"sacrum": 1 if layered else 3, "left_hip": 2}
    assert set(read_case(tmp_path / "p.seg.nrrd").surfaces) == {"Left Hip", "sacrum"}
    # LPS in the file: voxel 12 of 2 mm lies 24 mm to the left
    assert case.surfaces["sacrum"].centroid == pytest.approx([-24, -13, 13], abs=0.1)
    assert case.surfaces["sacrum"].volume == pytest.approx(7 * 6 * 6 * 8, rel=0.1)


def test_a_number_that_two_layers_have_must_be_a_name(tmp_path):
    write_segments(tmp_path / "p.seg.nrrd", layered=True)
    array, header = nrrd.read(str(tmp_path / "p.seg.nrrd"))
    array[1] *= 2
    nrrd.write(str(tmp_path / "p.seg.nrrd"), array, header)
    with pytest.raises(
        ValueError, match=r"has label 2 \(sacrum\) in 2 layers; ask for it by the segment's name"
    ):
        read_case(tmp_path / "p.seg.nrrd", {"sacrum": 2})


def test_a_folder_of_meshes_is_read_by_the_same_names(tmp_path):
    sphere = trimesh.creation.icosphere(2, radius=5)
    write_surfaces(tmp_path, {name: sphere for name in ("hip_left", "screw", "sacrum")})
    assert set(read_case(tmp_path, ["totalsegmentator"]).surfaces) == {"hip_left", "sacrum"}
    assert list(read_case(tmp_path, {"screw": None}).surfaces) == ["screw"]


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
