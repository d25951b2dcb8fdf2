"""The registration job: what it reads, what it finds, what it leaves on disk."""

import json

import numpy as np
import pytest
import registered
import small
import torch

from shapefit import se3
from shapefit.fit.landscape import FREEDOMS, basin, loss_landscape, offsets_of, poses_at
from shapefit.io.mesh import write_surfaces
from shapefit.io.pose import read_pose
from shapefit.io.tfm import read_tfm
from shapefit.io.volume import write_volume
from shapefit.jobs.bone import read_bone
from shapefit.jobs.register import landscape_around, register_job
from shapefit.settings import CTSettings, LandscapeSettings, MeshSettings, RegisterSettings
from shapefit.volume import Volume

QUICK = RegisterSettings(
    starts=6, finalists=(2, 1), pixels=(24, 32, 48), steps=(10, 8, 8), translation_range=6.0,
    rotation_range=5.0, patch=12, accept=0.3,
)  # fmt: skip
SLICES = LandscapeSettings(samples=9, grid=5, image=24)
BONE = CTSettings(threshold=150.0)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr("shapefit.report.register_pictures.SHORTEST", 96)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> registered.World:
    return registered.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def job(world, tmp_path_factory):
    """One real registration, and the folder that it wrote."""
    out = tmp_path_factory.mktemp("registered") / "out"
    told = []
    record = register_job(
        world.ct, world.images, world.cameras, out, QUICK, SLICES, BONE, command="shapefit register ...",
        progress=lambda what, fraction: told.append((what, fraction)),
    )  # fmt: skip
    return record, out, told


def displacement(found: torch.Tensor, truth: torch.Tensor) -> float:
    """mm, of the corners of the bones' box."""
    corners = torch.tensor([[x, y, z] for x in (-36.0, 36.0) for y in (-22.0, 18.0) for z in (-28.0, 28.0)])
    return float(
        (se3.transform(found, corners.double()) - se3.transform(truth, corners.double())).norm(dim=1).max()
    )


def test_a_ct_is_found_where_it_was_in_two_views(job):
    record, _, _ = job
    assert record["converged"], record["reason"]
    found = torch.tensor(record["world_from_bone"], dtype=torch.float64)
    assert displacement(torch.eye(4, dtype=torch.float64), registered.TRUTH) > 5
    assert displacement(found, registered.TRUTH) < 1.0


def test_everything_is_written_and_says_the_same_pose(job):
    record, out, _ = job
    assert {path.name for path in out.iterdir()} == {
        "pose.tfm", "pose.json", "fit.json", "report.html", "landscape.html", "convergence.gif",
        "overlay_0.png", "overlay_1.png", "difference_0.png", "difference_1.png",
    }  # fmt: skip
    found = torch.tensor(record["world_from_bone"], dtype=torch.float64)
    for path in (out / "pose.tfm", out / "pose.json", out / "fit.json", out):
        torch.testing.assert_close(read_pose(path), found, atol=1e-9, rtol=0)
    assert json.loads((out / "pose.json").read_text())["structures"] == ["ct"]
    assert (out / "convergence.gif").stat().st_size <= 3_000_000


def test_the_record_tells_version_command_seed_views_and_history(job, world):
    _, out, told = job
    written = json.loads((out / "fit.json").read_text())
    assert written["schema_version"] == 1 and written["package_version"]
    assert (written["command"], written["seed"]) == ("shapefit register ...", 0)
    assert written["bone"] == str(world.ct) and written["structures"] == {"ct": 1}
    assert written["start"] == torch.eye(4).tolist()
    for n, (view, name) in enumerate(zip(written["views"], registered.VIEWS, strict=True)):
        assert (view["name"], view["image"]) == (name, str(world.images[n]))
        np.testing.assert_allclose(view["world_from_camera"], registered.pose(name).numpy(), atol=1e-9)
        assert view["camera"]["sdd"] == 1020.0 and view["loss"] >= 0 and "agreement" in view["terms"]
    assert {"stage", "step", "loss", "world_from_bone"} <= set(written["history"][0])
    assert written["seconds"] > 0 and written["reason"]
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and fractions[-1] <= 1


def test_the_answer_lies_at_the_bottom_of_its_landscape(job, world):
    record, _, _ = job
    answer, centre = (torch.tensor(record[key], dtype=torch.float64) for key in ("world_from_bone", "centre"))
    settings = LandscapeSettings(turn=12.0, shift=12.0, depth=12.0, samples=13, grid=5, image=48)
    slices = landscape_around(
        registered.bone(world).matter, registered.views(world), answer, centre, QUICK, settings
    )
    for line in slices.lines:
        found = basin(line.offsets, line.losses)
        assert abs(found.at) < 1.5, line.axis
        assert found.rise > 0.05 and found.low < -2 and found.high > 2, line.axis
    for plane in slices.planes:
        middle = len(plane.across) // 2
        assert (
            min(min(row) for row in plane.losses)
            == plane.losses[middle][middle]
            == pytest.approx(slices.loss)
        )


def test_offsets_are_undone_by_reading_them_from_the_poses():
    answer = registered.TRUTH
    axes = registered.pose("lateral")[:3, :3]
    centre = torch.tensor([10.0, 20.0, -700.0], dtype=torch.float64)
    offsets = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 15
    torch.testing.assert_close(
        offsets_of(poses_at(offsets, answer, centre, axes), answer, centre, axes), offsets
    )


def test_depth_moves_the_bone_away_from_the_source_and_rotations_leave_its_centre():
    answer, view = registered.TRUTH, registered.pose("lateral")
    centre = se3.transform(answer, torch.zeros(1, 3, dtype=torch.float64))[0]
    steps = torch.zeros(2, 6, dtype=torch.float64)
    steps[0, FREEDOMS.index("tz")], steps[1, FREEDOMS.index("ry")] = 7.0, 90.0
    away, turned = poses_at(steps, answer, centre, view[:3, :3])
    origin = torch.zeros(1, 3, dtype=torch.float64)
    before, after = (se3.transform(se3.inverse(view) @ pose, origin)[0] for pose in (answer, away))
    torch.testing.assert_close(after - before, torch.tensor([0.0, 0.0, 7.0], dtype=torch.float64))
    torch.testing.assert_close(se3.transform(turned, origin)[0], centre)
    assert float(se3.rotation_angle((turned @ se3.inverse(answer))[:3, :3])) == pytest.approx(np.pi / 2)


def test_a_basin_ends_at_the_ridge_before_the_next_minimum():
    x = np.arange(-30, 31.0)
    losses = 1 - np.exp(-((x - 2.3) ** 2) / 50) - 0.5 * np.exp(-((x - 20) ** 2) / 20)
    found = basin(x.tolist(), losses.tolist())
    assert found.at == pytest.approx(2.3, abs=0.1)
    assert 11 <= found.high <= 15 and found.open == (False, False)
    assert found.others == [(20.0, pytest.approx(0.5, abs=0.02))]


def test_a_basin_that_goes_on_beyond_the_slice_says_so():
    x = np.linspace(-5, 5, 11)
    assert basin(x.tolist(), (x**2).tolist()).open == (True, True)
    downhill = basin(x.tolist(), x.tolist())
    assert (downhill.at, downhill.rise) == (-5.0, 0.0)


def test_the_minimum_is_read_between_unevenly_spaced_samples():
    x = np.array([-4.0, -1.5, 0.0, 1.0, 3.0])
    assert basin(x.tolist(), ((x - 0.3) ** 2).tolist()).at == pytest.approx(0.3)


def test_a_landscape_of_a_known_bowl_is_that_bowl():
    answer, axes = registered.TRUTH, torch.eye(3, dtype=torch.float64)
    centre = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def bowl(poses):
        return offsets_of(poses, answer, centre, axes).square().sum(1)

    slices = loss_landscape(bowl, answer, centre, axes, SLICES)
    for line in slices.lines:
        np.testing.assert_allclose(line.losses, np.square(line.offsets), atol=1e-8)
    assert slices.loss == pytest.approx(0, abs=1e-10)
    plane = slices.planes[0]
    expected = np.square(plane.along)[:, None] + np.square(plane.across)
    np.testing.assert_allclose(plane.losses, expected, atol=1e-8)
    with pytest.raises(ValueError, match="at least 5 samples, got 3"):
        loss_landscape(bowl, answer, centre, axes, LandscapeSettings(grid=3))


def test_without_success_there_is_no_pose_not_even_an_older_one(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = (world.ct, world.images, world.cameras, out, QUICK, SLICES, BONE)
    monkeypatch.setattr("shapefit.jobs.register.register_views", lambda *_: registered.found())
    register_job(*arguments, with_landscape=False)
    assert (out / "pose.tfm").is_file() and not (out / "landscape.html").exists()
    (out / "landscape.html").write_text("of an earlier run")
    (out / "notes.txt").write_text("mine")
    failed = registered.found(converged=False, reason="mean correlation 0.1, below 0.5")
    monkeypatch.setattr("shapefit.jobs.register.register_views", lambda *_: failed)
    record = register_job(*arguments)
    assert not record["converged"]
    assert {path.name for path in out.iterdir()} == {"fit.json", "report.html", "notes.txt"}
    assert json.loads((out / "fit.json").read_text())["reason"] == "mean correlation 0.1, below 0.5"


def test_a_job_that_breaks_leaves_its_folder_as_it_was(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("shapefit.jobs.register.register_views", lambda *_: registered.found())

    def broken(*_):
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("shapefit.jobs.register.register_page", broken)
    with pytest.raises(RuntimeError, match="on fire"):
        register_job(world.ct, world.images, world.cameras, out, QUICK, SLICES, BONE, with_landscape=False)
    assert not out.exists()


def test_the_start_is_read_and_handed_on(world, tmp_path, monkeypatch):
    seen = {}

    def register_views(matter, views, settings, progress, init, belief):
        seen.update(matter=matter, init=init)
        return registered.found()

    monkeypatch.setattr("shapefit.jobs.register.register_views", register_views)
    (tmp_path / "start.json").write_text(json.dumps(registered.TRUTH.tolist()))
    record = register_job(
        world.ct, world.images, world.cameras, tmp_path / "out", QUICK, SLICES, BONE,
        init=tmp_path / "start.json", with_landscape=False,
    )  # fmt: skip
    torch.testing.assert_close(seen["init"], registered.TRUTH)
    assert record["start"] == registered.TRUTH.tolist()
    assert float(seen["matter"].data.max()) < 1  # 1/mm, no HU


def test_a_threshold_leaves_bone_alone_and_crops_to_it(world):
    whole, bone = read_bone(world.ct).matter, registered.bone(world).matter
    assert isinstance(whole, Volume) and isinstance(bone, Volume)
    assert (whole.data > 0).sum() > 3 * (bone.data > 0).sum() and bone.data.numel() < whole.data.numel()
    assert float(bone.data[bone.data > 0].min()) > float(whole.data[whole.data > 0].min())


def test_one_bone_of_a_segmentation_is_registered_alone(world):
    found = read_bone(world.ct, {"hip_left": 2, "sacrum": 1}, world.labels)
    assert found.labels == {"hip_left": 2, "sacrum": 1}
    _, labels = registered.phantom()
    assert isinstance(found.matter, Volume) and found.matter.names == ("hip_left", "sacrum")
    inside = int(((labels.data == 1) | (labels.data == 2)).sum())
    assert int((found.matter.data > 0).sum()) == inside
    assert int((found.matter.structure == 0).sum()) == int((labels.data == 2).sum())


def test_a_label_map_is_registered_by_its_surfaces(world):
    found = read_bone(world.labels, {"sacrum": 1})
    assert list(found.matter) == ["sacrum"] and found.labels == {"sacrum": 1}
    assert found.matter["sacrum"].is_watertight


def test_meshes_are_read_from_files_and_folders(tmp_path):
    surfaces = small.case_surfaces(0)
    paths = write_surfaces(tmp_path / "meshes", surfaces)
    assert set(read_bone(tmp_path / "meshes").matter) == set(surfaces)
    assert list(read_bone(tmp_path / "meshes", {"sacrum": None}).matter) == ["sacrum"]
    one = read_bone(paths["hip_left"])
    assert list(one.matter) == ["hip_left"] and one.findings == {}


def test_an_open_mesh_is_repaired_on_request_alone_and_the_finding_is_told(tmp_path):
    mesh = small.case_surfaces(0)["sacrum"]
    mesh.faces = mesh.faces[1:]
    path = write_surfaces(tmp_path, {"sacrum": mesh})["sacrum"]
    with pytest.raises(ValueError, match="not closed"):
        read_bone(path)
    assert "1 hole" in read_bone(path, meshes=MeshSettings(repair=True)).findings["sacrum"][0]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"path": "absent.nii.gz"}, "does not exist"),
        ({"path": "notes.txt"}, "is neither a CT nor a mesh"),
        ({"path": "sacrum.ply", "segmentation": "labels.nii.gz"}, "is not a CT"),
        ({"path": "sacrum.ply", "ct": BONE}, "no Hounsfield units"),
        ({"path": "sacrum.ply", "structures": {"sacrum": None}}, "is one mesh"),
        ({"path": "labels.nii.gz", "structures": {"sacrum": 1}, "ct": BONE}, "a label map, which has no"),
        ({"path": "labels.nii.gz", "structures": {"rib": 9}}, "9"),
        ({"path": "ct.nii.gz", "structures": {"rib": 9}, "segmentation": "labels.nii.gz"}, "label 9 (rib)"),
        ({"path": "ct.nii.gz", "segmentation": "labels.nii.gz"}, "say which label is what"),
        ({"path": "ct.nii.gz", "ct": CTSettings(threshold=5000.0)}, "no voxel is at 5000 HU or above"),
        ({"path": "air.nii.gz"}, "is empty: no voxel is above air"),
    ],
)
def test_what_cannot_be_registered_is_refused_by_name(world, tmp_path, change, sentence):
    for path in (world.ct, world.labels):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").write_text("mine")
    write_surfaces(tmp_path, {"sacrum": small.case_surfaces(0)["sacrum"]})
    write_volume(tmp_path / "air.nii.gz", Volume(torch.full((4, 4, 4), -1000.0), torch.eye(4).double()))
    if "segmentation" in change:
        change = change | {"segmentation": tmp_path / change["segmentation"]}
    with pytest.raises(ValueError, match=r"\w") as refused:
        read_bone(**(change | {"path": tmp_path / change["path"]}))
    assert sentence in str(refused.value) and str(tmp_path) in str(refused.value)


def test_pose_tfm_moves_the_ct_as_slicer_would(job, world):
    """Slicer reads the file (LPS, world to bone), inverts it, and applies it to the CT's points in RAS."""
    _, out, _ = job
    line = next(x for x in (out / "pose.tfm").read_text().splitlines() if x.startswith("Parameters"))
    numbers = np.array([float(x) for x in line.split()[1:]])
    stored = np.eye(4)
    stored[:3, :3], stored[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    to_parent = np.linalg.inv(flip @ stored @ flip)
    np.testing.assert_allclose(to_parent, read_tfm(out / "pose.tfm").numpy(), atol=1e-12)
    assert displacement(torch.from_numpy(to_parent), registered.TRUTH) < 1.0
