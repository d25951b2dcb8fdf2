"""`shapefit register` from outside: what it writes, what it says of bad input, with which status it ends."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pydicom
import pytest
import registered
import small
import torch

from shapefit import cli
from shapefit.io.mesh import write_surfaces
from shapefit.io.tfm import read_tfm, write_tfm
from shapefit.io.xray import write_camera


class Ended(NamedTuple):
    """How a command ended."""

    status: int | None
    out: str
    err: str


@pytest.fixture
def shapefit(monkeypatch, capsys):
    def run(*arguments) -> Ended:
        monkeypatch.setattr(sys, "argv", ["shapefit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        text = capsys.readouterr()
        return Ended(end.value.code, text.out, text.err)

    return run


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr("shapefit.report.register_pictures.SHORTEST", 96)
    monkeypatch.setattr("shapefit.report.register_pictures.LONGEST", 96)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> registered.World:
    return registered.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(shared, tmp_path) -> registered.World:
    """Copies that a test may spoil."""

    def copied(path: Path) -> Path:
        (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path / path.name

    return registered.World(
        copied(shared.ct),
        copied(shared.labels),
        [*map(copied, shared.images)],
        [*map(copied, shared.cameras)],
    )


@pytest.fixture
def pretend(monkeypatch):
    """A registration that knows the answer at once, or is told that it has none."""
    seen = {}

    def answer(**changes):
        def register_views(matter, views, settings, progress=None, init=None, belief=None):
            seen.update(matter=matter, views=views, settings=settings, init=init)
            return registered.found(count=len(views), **changes)

        monkeypatch.setattr("shapefit.jobs.register.register_views", register_views)
        return seen

    return answer


def arguments(world: registered.World, out: Path, bone: Path | None = None) -> list:
    return ["register", bone or world.ct, *world.images, "--camera", *world.cameras, "-o", out]


def affine_of(path: Path) -> np.ndarray:
    return nibabel.load(path).affine


def rewritten(
    path: Path, data: np.ndarray | None = None, affine: np.ndarray | None = None, code: int = 1
) -> Path:
    """The CT with other voxels, or with another place in its header's bytes."""
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj, dtype=np.float32) if data is None else data
    spoilt = path.parent / "spoilt.nii"
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), spoilt)
    content = bytearray(spoilt.read_bytes())
    content[252:256] = np.array([0, code], "<i2").tobytes()  # qform_code, sform_code
    if affine is not None:
        content[280:328] = affine[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    spoilt.write_bytes(content)
    return spoilt


def test_register_writes_the_pose_and_its_pictures(shapefit, world, pretend, tmp_path):
    seen = pretend()
    out = tmp_path / "out"
    ended = shapefit(*arguments(world, out), "--threshold", 150, "--seed", 7, "--landscape.grid", 5,
                     "--landscape.samples", 5, "--landscape.image", 24)  # fmt: skip
    assert ended.status == 0, ended.err
    assert {path.name for path in out.iterdir()} == {
        "pose.tfm", "pose.json", "fit.json", "report.html", "landscape.html", "convergence.gif",
        "overlay_0.png", "overlay_1.png", "difference_0.png", "difference_1.png",
    }  # fmt: skip
    record = json.loads((out / "fit.json").read_text())
    assert record["command"].startswith("shapefit register ") and record["seed"] == 7
    assert seen["settings"].seed == 7 and len(seen["views"]) == 2
    torch.testing.assert_close(read_tfm(out / "pose.tfm"), registered.TRUTH, atol=1e-9, rtol=0)
    assert str(out / "pose.tfm") in ended.out and "agreement 0.750" in ended.out


def test_no_landscape_is_drawn_if_none_is_wanted(shapefit, world, pretend, tmp_path):
    pretend()
    assert shapefit(*arguments(world, tmp_path / "out"), "--no-landscape").status == 0
    assert not (tmp_path / "out" / "landscape.html").exists()


def test_a_bone_that_was_not_found_ends_with_3_and_without_a_pose(shapefit, world, pretend, tmp_path):
    out = tmp_path / "out"
    pretend()
    assert shapefit(*arguments(world, out), "--no-landscape").status == 0
    pretend(converged=False, reason="mean correlation 0.100, below 0.5")
    ended = shapefit(*arguments(world, out))
    assert ended.status == 3
    assert {path.name for path in out.iterdir()} == {"fit.json", "report.html"}
    assert "the bone was not found: mean correlation 0.100, below 0.5; no pose was written" in ended.err


def test_the_start_may_be_the_pose_of_an_earlier_registration(shapefit, world, pretend, tmp_path):
    seen = pretend()
    write_tfm(tmp_path / "before.tfm", registered.TRUTH)
    out = tmp_path / "out"
    ended = shapefit(*arguments(world, out), "--init", tmp_path / "before.tfm", "--no-landscape")
    assert ended.status == 0, ended.err
    torch.testing.assert_close(seen["init"], registered.TRUTH, atol=1e-9, rtol=0)
    for start in (out / "fit.json", out / "pose.json", out):
        again = shapefit(*arguments(world, tmp_path / "again"), "--init", start, "--no-landscape")
        assert again.status == 0, again.err
        torch.testing.assert_close(seen["init"], registered.TRUTH, atol=1e-9, rtol=0)


def test_a_whole_ct_is_known_to_no_network_and_its_start_is_the_prior(shapefit, world, pretend, tmp_path):
    seen = pretend()
    out = tmp_path / "out"
    ended = shapefit(*arguments(world, out), "--no-landscape")
    assert ended.status == 0 and "begun" not in ended.out, ended.err
    begun = json.loads((out / "fit.json").read_text())["init"]
    assert begun["kind"] == "prior" and begun["network"] == "" and begun["network_says"]
    assert torch.equal(seen["init"], torch.eye(4, dtype=torch.float64))
    assert shapefit(*arguments(world, out), "--init", "prior", "--no-landscape").status == 0
    assert json.loads((out / "fit.json").read_text())["init"] == {"kind": "prior"}
    ended = shapefit(*arguments(world, tmp_path / "none"), "--init", "scene")
    assert ended.status == 2 and "pelvis-scene" in ended.err and not (tmp_path / "none").exists()


def test_one_bone_of_a_ct_and_the_meshes_of_a_folder_are_registered(shapefit, world, pretend, tmp_path):
    seen = pretend()
    one = ("--segmentation", world.labels, "--labels", "sacrum=1")
    ended = shapefit(*arguments(world, tmp_path / "a"), *one, "--no-landscape")
    assert ended.status == 0, ended.err
    assert seen["matter"].names == ("sacrum",)
    assert json.loads((tmp_path / "a" / "fit.json").read_text())["structures"] == {"sacrum": 1}
    write_surfaces(tmp_path / "meshes", small.case_surfaces(0))
    ended = shapefit(*arguments(world, tmp_path / "b", tmp_path / "meshes"), "--no-landscape")
    assert ended.status == 0, ended.err
    assert set(seen["matter"]) == set(small.LABELS)


def test_a_folder_of_dicom_slices_is_a_ct(shapefit, world, pretend, tmp_path):
    seen = pretend()
    image = nibabel.load(world.ct)
    voxels, spacing = np.asarray(image.dataobj).astype(np.int16), 3.2
    folder = tmp_path / "dicom"
    folder.mkdir()
    uid = pydicom.uid.generate_uid()
    for k in range(voxels.shape[2]):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data = pydicom.Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = uid, "CT", k + 1
        data.Rows, data.Columns = voxels.shape[1], voxels.shape[0]
        data.PixelSpacing, data.SliceThickness = [spacing, spacing], spacing
        data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        data.ImagePositionPatient = [49.6, 36.8, -43.2 + spacing * k]
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
        data.PixelData = np.ascontiguousarray(voxels[:, :, k].T).tobytes()
        data.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)
    ended = shapefit(*arguments(world, tmp_path / "out", folder), "--threshold", 150, "--no-landscape")
    assert ended.status == 0, ended.err
    assert (seen["matter"].data > 0).sum() == (voxels >= 150).sum()
    torch.testing.assert_close(seen["matter"].spacing, torch.full((3,), 3.2, dtype=torch.float64))


def bad_ct(kind: str, world: registered.World) -> Path:
    voxels = np.asarray(nibabel.load(world.ct).dataobj, dtype=np.float32)
    affine = affine_of(world.ct).copy()
    if kind == "no affine":
        return rewritten(world.ct, code=0)
    if kind == "singular affine":
        affine[:, 2] = affine[:, 1]
        return rewritten(world.ct, affine=affine)
    if kind == "NaN":
        voxels[3, 4, 5] = np.nan
    if kind == "empty":
        voxels[:] = -1000.0
    if kind == "HU too high":
        voxels[3, 4, 5] = 60000.0
    if kind == "HU too low":
        voxels[0] = -3024.0
    if kind == "no voxels":
        world.ct.write_bytes(b"")
        return world.ct
    return rewritten(world.ct, voxels)


@pytest.mark.parametrize(
    "kind, sentence",
    [
        ("no affine", "does not say how its voxels lie in space"),
        ("singular affine", "singular"),
        ("NaN", "1 voxels are NaN or infinite"),
        ("empty", "is empty: no voxel is above air"),
        ("HU too high", "60000"),
        ("HU too low", "-3024"),
        ("no voxels", "not a readable NIfTI file"),
    ],
)
def test_a_ct_that_cannot_be_used_ends_with_2_and_says_why(shapefit, world, tmp_path, kind, sentence):
    path = bad_ct(kind, world)
    ended = shapefit(*arguments(world, tmp_path / "out", path))
    assert ended.status == 2
    assert sentence in ended.err and path.name in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_padding_outside_the_scanners_field_may_be_named(shapefit, world, pretend, tmp_path):
    pretend()
    path = bad_ct("HU too low", world)
    ended = shapefit(*arguments(world, tmp_path / "out", path), "--padding", -2000, "--no-landscape")
    assert ended.status == 0, ended.err


def test_a_ct_that_the_x_ray_misses_is_an_error_with_the_distance(shapefit, world, tmp_path):
    beside = registered.pose("ap").clone()
    beside[0, 3] += 400.0
    write_camera(world.cameras[0], registered.CAMERA, beside)
    ended = shapefit(*arguments(world, tmp_path / "out"), "--threshold", 150)
    assert ended.status == 2
    assert "misses the bone" in ended.err and "mm on the detector" in ended.err and "ap" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_ct_behind_the_source_is_an_error_with_the_distance(shapefit, world, tmp_path):
    behind = registered.pose("ap").clone()
    behind[:3, 2] *= -1
    behind[:3, 0] *= -1
    write_camera(world.cameras[0], registered.CAMERA, behind)
    ended = shapefit(*arguments(world, tmp_path / "out"), "--threshold", 150)
    assert ended.status == 2 and "X-ray source" in ended.err and " mm" in ended.err


@pytest.mark.parametrize(
    "extra, sentence",
    [
        (("--labels", "rib=9", "--segmentation", "LABELS"), "label 9 (rib) is not in the label map"),
        (("--labels", "rib", "--segmentation", "LABELS"), "does not say which label is rib"),
        (("--segmentation", "absent.nii.gz"), "absent.nii.gz is not a file"),
        (("--init", "absent.tfm"), "not a readable text transform"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--energy", "5"), "keV"),
    ],
)
def test_what_is_asked_for_in_vain_ends_with_2(shapefit, world, tmp_path, extra, sentence):
    extra = [world.labels if word == "LABELS" else word for word in extra]
    ended = shapefit(*arguments(world, tmp_path / "out"), *extra)
    assert ended.status == 2
    assert sentence in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_a_label_that_a_label_map_does_not_hold_ends_with_2(shapefit, world, tmp_path):
    ended = shapefit(*arguments(world, tmp_path / "out", world.labels), "--labels", "rib=9")
    assert ended.status == 2 and "9" in ended.err and "labels.nii.gz" in ended.err


def test_several_x_rays_need_a_pose_each(shapefit, world, tmp_path):
    write_camera(world.cameras[1], registered.CAMERA)
    ended = shapefit(*arguments(world, tmp_path / "out"), "--threshold", 150)
    assert ended.status == 2 and "lateral.json gives no world_from_camera" in ended.err
    assert "--free-views" not in ended.err
