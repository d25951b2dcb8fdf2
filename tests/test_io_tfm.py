"""ITK's text transforms and pose files: which way they point, in which frame, and what is refused."""

import json
import math

import pytest
import torch

from shapefit import se3
from shapefit.io.pose import read_pose, write_pose
from shapefit.io.tfm import read_tfm, write_tfm

POSE = se3.exp(torch.tensor([0.3, -0.5, 0.2, 12.0, -34.0, 56.0], dtype=torch.float64))
LPS = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


def transform(path, kind: str, parameters, fixed=(0, 0, 0)):
    path.write_text(
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}\n"
        f"Parameters: {' '.join(map(repr, parameters))}\nFixedParameters: {' '.join(map(str, fixed))}\n"
    )
    return path


def test_what_is_written_is_read_to_the_last_bit_that_inversion_leaves(tmp_path):
    write_tfm(tmp_path / "pose.tfm", POSE)
    torch.testing.assert_close(read_tfm(tmp_path / "pose.tfm"), POSE, atol=1e-12, rtol=0)


def test_a_file_maps_world_points_in_lps_back_to_the_bone(tmp_path):
    # the resampling direction of ITK: from the fixed (world) to the moving (bone) space
    write_tfm(tmp_path / "pose.tfm", POSE)
    line = next(x for x in (tmp_path / "pose.tfm").read_text().splitlines() if x.startswith("Parameters"))
    numbers = torch.tensor([float(x) for x in line.split()[1:]], dtype=torch.float64)
    matrix, offset = numbers[:9].reshape(3, 3), numbers[9:]
    bone = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)  # RAS
    world = se3.transform(POSE, bone[None])[0]
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(matrix @ (flip * world) + offset, flip * bone, atol=1e-10, rtol=0)


def test_a_move_to_the_right_in_slicer_is_plus_x_in_its_file(tmp_path):
    """Slicer's own rule for a known case: 10 mm towards +R in its scene is written as +10 in LPS x."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = 10.0
    write_tfm(tmp_path / "pose.tfm", pose)
    # to LPS: -10; inverted for the file: +10
    assert (
        "Parameters: 1.0 0.0 0.0 0.0 1.0 0.0 0.0 0.0 1.0 10.0 0.0 0.0\n"
        in (tmp_path / "pose.tfm").read_text()
    )
    path = transform(tmp_path / "r.tfm", "AffineTransform_double_3_3", [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 7, 0])
    assert read_tfm(path)[:3, 3].tolist() == [0.0, 7.0, 0.0]


def test_a_centre_of_rotation_stays_where_it_is(tmp_path):
    turn = [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    path = transform(tmp_path / "c.tfm", "MatrixOffsetTransformBase_float_3_3", turn, (5, 6, 7))
    centre = torch.tensor([[-5.0, -6.0, 7.0]], dtype=torch.float64)  # RAS
    torch.testing.assert_close(se3.transform(read_tfm(path), centre), centre)


@pytest.mark.parametrize("order", [(), (0,), (1,)], ids=["unsaid", "zxy", "zyx"])
def test_euler_angles_are_composed_as_itk_composes_them(tmp_path, order):
    angles, shift, centre = (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0)
    path = transform(tmp_path / "e.tfm", "Euler3DTransform_double_3_3", angles + shift, centre + order)

    def about(axis: int, angle: float) -> torch.Tensor:
        twist = torch.zeros(6, dtype=torch.float64)
        twist[axis] = angle
        return se3.exp(twist)[:3, :3]

    x, y, z = (about(axis, angle) for axis, angle in enumerate(angles))
    matrix = z @ y @ x if order == (1,) else z @ x @ y
    stored = torch.eye(4, dtype=torch.float64)
    stored[:3, :3] = matrix
    c, t = (torch.tensor(v, dtype=torch.float64) for v in (centre, shift))
    stored[:3, 3] = t + c - matrix @ c
    torch.testing.assert_close(read_tfm(path), LPS @ torch.linalg.inv(stored) @ LPS)


def test_a_versor_is_the_vector_part_of_a_quaternion(tmp_path):
    axis, angle = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64), 0.7
    versor = (axis * math.sin(angle / 2)).tolist()
    path = transform(tmp_path / "v.tfm", "VersorRigid3DTransform_double_3_3", [*versor, 0.0, 0.0, 0.0])
    stored = se3.exp(torch.cat([axis * angle, torch.zeros(3, dtype=torch.float64)]))
    torch.testing.assert_close(read_tfm(path), LPS @ se3.inverse(stored) @ LPS)


def test_simpleitk_reads_ours_and_we_read_simpleitks(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed; files are not exchanged")
    write_tfm(tmp_path / "ours.tfm", POSE)
    theirs = sitk.ReadTransform(str(tmp_path / "ours.tfm"))
    world = torch.tensor([3.0, -4.0, 5.0], dtype=torch.float64)
    bone = se3.transform(se3.inverse(POSE), world[None])[0]
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    assert theirs.TransformPoint((flip * world).tolist()) == pytest.approx((flip * bone).tolist(), abs=1e-9)
    euler = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0))
    for zyx in (False, True):
        euler.SetComputeZYX(zyx)
        sitk.WriteTransform(euler, str(tmp_path / "euler.tfm"))
        found = read_tfm(tmp_path / "euler.tfm")
        moved = se3.transform(se3.inverse(found), world[None])[0]
        assert euler.TransformPoint((flip * world).tolist()) == pytest.approx(
            (flip * moved).tolist(), abs=1e-9
        )


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("not a transform", "first line is not"),
        ("", "first line is not"),
        ("#Insight Transform File V1.0\n", "0 transforms; expected one"),
        (
            "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
            "Transform: Euler3DTransform_double_3_3\n",
            "2 transforms; expected one",
        ),
        (
            "#Insight Transform File V1.0\nTransform: BSplineTransform_double_3_3\n",
            "holds a BSplineTransform",
        ),
        ("#Insight Transform File V1.0\nTransform: AffineTransform_double_2_2\n", "in 3D"),
        (
            "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\nParameters: 1 0 0\n"
            "FixedParameters: 0 0 0\n",
            "Parameters must be 12 finite numbers, got 3",
        ),
        (
            "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
            "Parameters: 1 0 0 0 1 0 0 0 nan 0 0 0\nFixedParameters: 0 0 0\n",
            "finite numbers",
        ),
        (
            "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
            "Parameters: 1 0 0 0 1 0 0 0 x 0 0 0\nFixedParameters: 0 0 0\n",
            "not all numbers",
        ),
        (
            "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
            "Parameters: 1 0 0 0 1 0 0 0 0 0 0 0\nFixedParameters: 0 0 0\n",
            "cannot be inverted",
        ),
    ],
)
def test_what_is_not_one_linear_transform_is_refused_by_name(tmp_path, text, sentence):
    path = tmp_path / "bad.tfm"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.tfm") as refused:
        read_tfm(path)
    assert sentence in str(refused.value)


def test_a_pose_is_read_from_whatever_says_it(tmp_path):
    write_tfm(tmp_path / "a.tfm", POSE)
    write_pose(tmp_path / "b.json", POSE, "ct.nii.gz", ("sacrum",))
    (tmp_path / "c.json").write_text(json.dumps(POSE.tolist()))
    (tmp_path / "d.json").write_text(json.dumps({"matrix": (LPS @ POSE @ LPS).tolist(), "frame": "LPS"}))
    (tmp_path / "fit.json").write_text(json.dumps({"schema_version": 1, "world_from_model": POSE.tolist()}))
    for name in ("a.tfm", "b.json", "c.json", "d.json", "fit.json", "."):
        torch.testing.assert_close(read_pose(tmp_path / name), POSE, atol=1e-10, rtol=0)
    content = json.loads((tmp_path / "b.json").read_text())
    assert (content["bone"], content["structures"]) == ("ct.nii.gz", ["sacrum"])
    assert (content["frame"], content["units"]) == ("RAS", "mm")


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("{", "not a readable pose"),
        ({"schema_version": 1}, "gives no pose"),
        ([[1, 0], [0, 1]], "must be 4x4"),
        ("[1, [2]]", "4 rows of 4 numbers"),
        ((2 * torch.eye(4)).tolist(), "not a rigid motion"),
        (torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])).tolist(), "determinant -1"),
        ({"matrix": torch.eye(4).tolist(), "frame": "RAI"}, "expected 'RAS' or 'LPS'"),
        ({"matrix": torch.eye(4).tolist(), "units": "cm"}, "expected 'mm'"),
    ],
)
def test_what_is_not_a_pose_is_refused_by_name(tmp_path, content, sentence):
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"bad\.json") as refused:
        read_pose(path)
    assert sentence in str(refused.value)
