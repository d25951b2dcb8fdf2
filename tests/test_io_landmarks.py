"""Landmarks of our layout and of 3D Slicer's two land at the same place in RAS, or are refused by name."""

import json

import numpy as np
import pytest

from shapefit.io.landmarks import folder_landmarks, read_landmarks, write_landmarks

# the left side of the body has negative x in RAS
POINTS = {
    "Left ASIS": np.array([[-120.25, 60.5, 10.125]]),
    'Spina, "rechts"': np.array([[119.0 + 1 / 3, 58.0, -9.0]]),
}
OWN, MARKUPS, TABLE = "landmarks.json", "F.mrk.json", "F.fcsv"
FCSV = """# Markups fiducial file version = {version}
# CoordinateSystem = {frame}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtkMRMLMarkupsFiducialNode_0,{x},60.5,10.125,0,0,0,1,1,1,0,Left ASIS,,vtkMRMLScalarVolumeNode1
"""


def markups(**changes) -> dict:
    """A file as Slicer 5 writes it: LPS, one list, one defined point and one still unplaced."""
    point = {
        "id": "1", "label": "Left ASIS", "description": "", "associatedNodeID": "",
        "position": [120.25, -60.5, 10.125], "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
        "selected": True, "locked": False, "visibility": True, "positionStatus": "defined",
    }  # fmt: skip
    unplaced = point | {
        "id": "2",
        "label": "Right ASIS",
        "position": [0, 0, 0],
        "positionStatus": "undefined",
    }
    entry = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "locked": False}
    entry |= {"controlPoints": [point, unplaced]} | changes
    return {"@schema": "https://x/markups-schema-v1.0.3.json#", "markups": [entry]}


@pytest.mark.parametrize("name", [OWN, MARKUPS, TABLE])
def test_landmarks_come_back_bit_for_bit(tmp_path, name):
    write_landmarks(tmp_path / name, POINTS)
    found = read_landmarks(tmp_path / name)
    assert list(found) == list(POINTS)
    assert all(np.array_equal(found[key], POINTS[key]) for key in POINTS)


@pytest.mark.parametrize("name", [OWN, MARKUPS])
def test_readings_stay_apart(tmp_path, name):
    readings = {"tip": np.array([[1.0, 2.0, 3.0], [1.5, 2.0, 3.0]]), "notch": np.array([[4.0, 5.0, 6.0]])}
    write_landmarks(tmp_path / name, readings)
    found = read_landmarks(tmp_path / name)
    assert np.array_equal(found["tip"], readings["tip"]) and found["notch"].shape == (1, 3)
    with pytest.raises(ValueError, match="holds one reading and there are 2"):
        write_landmarks(tmp_path / TABLE, readings)


def test_written_files_state_their_frame(tmp_path):
    for name in (OWN, MARKUPS, TABLE):
        write_landmarks(tmp_path / name, POINTS)
    assert json.loads((tmp_path / OWN).read_text())["frame"] == "RAS"
    (entry,) = json.loads((tmp_path / MARKUPS).read_text())["markups"]
    assert (entry["type"], entry["coordinateSystem"]) == ("Fiducial", "RAS")
    assert entry["controlPoints"][0]["position"][0] < 0  # left in RAS
    head = (tmp_path / TABLE).read_text().splitlines()[:3]
    assert head[1] == "# CoordinateSystem = RAS" and head[2].startswith("# columns = id,x,y,z,")


def test_a_left_landmark_is_positive_in_slicers_lps_and_negative_here(tmp_path):
    (tmp_path / MARKUPS).write_text(json.dumps(markups()))
    found = read_landmarks(tmp_path / MARKUPS)
    assert list(found) == ["Left ASIS"]  # what has no position is not there
    assert np.array_equal(found["Left ASIS"], POINTS["Left ASIS"])


def test_markups_in_ras_stay_and_without_a_frame_are_lps(tmp_path):
    content = markups(coordinateSystem="RAS")
    (tmp_path / MARKUPS).write_text(json.dumps(content))
    assert read_landmarks(tmp_path / MARKUPS)["Left ASIS"].tolist() == [[120.25, -60.5, 10.125]]
    del content["markups"][0]["coordinateSystem"]
    (tmp_path / MARKUPS).write_text(json.dumps(content))
    assert np.array_equal(read_landmarks(tmp_path / MARKUPS)["Left ASIS"], POINTS["Left ASIS"])


def test_markups_under_the_name_of_ours_are_known_by_their_content(tmp_path):
    (tmp_path / OWN).write_text(json.dumps(markups()))
    assert np.array_equal(read_landmarks(tmp_path / OWN)["Left ASIS"], POINTS["Left ASIS"])


@pytest.mark.parametrize(
    ("version", "frame", "x"),
    [("4.10", "0", -120.25), ("4.10", "1", 120.25), ("5.6", "RAS", -120.25), ("5.6", "LPS", 120.25)],
)
def test_a_fiducial_table_names_or_numbers_its_frame(tmp_path, version, frame, x):
    y = "60.5" if x < 0 else "-60.5"
    (tmp_path / TABLE).write_text(FCSV.format(version=version, frame=frame, x=x).replace(",60.5,", f",{y},"))
    assert np.array_equal(read_landmarks(tmp_path / TABLE)["Left ASIS"], POINTS["Left ASIS"])


def test_a_folder_gives_ours_before_slicers_and_slicers_together(tmp_path):
    assert folder_landmarks(tmp_path) is None
    write_landmarks(tmp_path / "rater1.mrk.json", POINTS)
    write_landmarks(tmp_path / "rater2.fcsv", {"Left ASIS": POINTS["Left ASIS"] + 1})
    found = folder_landmarks(tmp_path)
    assert np.array_equal(found["Left ASIS"], np.concatenate([POINTS["Left ASIS"], POINTS["Left ASIS"] + 1]))
    (tmp_path / "cut.mrk.json").write_text(json.dumps(markups(type="Plane")))
    assert len(folder_landmarks(tmp_path)["Left ASIS"]) == 2
    (tmp_path / "torn.mrk.json").write_text("{")
    with pytest.raises(ValueError, match=r"torn\.mrk\.json is not a readable JSON"):
        folder_landmarks(tmp_path)
    write_landmarks(tmp_path / OWN, {"only": np.zeros((1, 3))})
    assert list(folder_landmarks(tmp_path)) == ["only"]


BAD_POINT = {"label": "a", "position": [1, 2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"markups": []}, "no point list"),
        ({"points": []}, "no list of markups"),
        ([1], "no list of markups"),
        (markups(type="Line"), r"no point list \(type Fiducial\); it holds Line"),
        (markups(coordinateSystem="IJK"), "frame 'IJK'"),
        (markups(coordinateUnits="um"), "units 'um'"),
        (markups(controlPoints=[BAD_POINT]), "a is at .1, 2.; expected 3 finite numbers"),
        (markups(controlPoints=[{"label": "a"}]), "a is at None"),
        (markups(controlPoints=[{"label": "", "position": [1, 2, 3]}]), "point 0 has no label"),
        (markups(controlPoints=[{"label": "a", "position": [1, 2, 3]}] * 2), "two points named a"),
        (markups(controlPoints=[7]), "control point 0 is not an object"),
    ],
)
def test_malformed_markups_are_refused_with_the_file_and_the_reason(tmp_path, content, message):
    (tmp_path / MARKUPS).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"F\.mrk\.json.*{message}"):
        read_landmarks(tmp_path / MARKUPS)


GOOD = FCSV.format(version="5.6", frame="LPS", x="1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "states no version or frame"),
        ("x,y,z\n1,2,3\n", "states no version or frame"),
        (GOOD.replace("LPS", "2"), "has frame 2"),
        (GOOD.replace(",label", ",name"), "no column label"),
        (GOOD.replace(",60.5", ",sixty"), "Left ASIS is at 1, sixty, 10.125"),
        (GOOD.replace(",60.5", ",inf"), "expected 3 finite numbers"),
        (GOOD.replace("Left ASIS", ""), "point 0 has no label"),
        (GOOD + GOOD.splitlines()[-1] + "\n", "two points named Left ASIS"),
    ],
)
def test_malformed_tables_are_refused_with_the_file_and_the_reason(tmp_path, text, message):
    (tmp_path / TABLE).write_text(text)
    with pytest.raises(ValueError, match=rf"F\.fcsv.*{message}"):
        read_landmarks(tmp_path / TABLE)


def test_what_is_not_text_is_refused(tmp_path):
    for name in (MARKUPS, TABLE, OWN):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x81")
        with pytest.raises(ValueError, match="not a readable"):
            read_landmarks(tmp_path / name)


def test_points_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="landmark a is not finite"):
        write_landmarks(tmp_path / TABLE, {"a": np.array([[1.0, np.nan, 0.0]])})
    assert list(tmp_path.iterdir()) == []
