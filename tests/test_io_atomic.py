import pytest
import torch
import trimesh

from shapefit.camera import Camera
from shapefit.io.atomic import atomic_folder, atomic_path, prepare_output_dir, write_text
from shapefit.io.camera import write_camera
from shapefit.io.image import write_image
from shapefit.io.mesh import write_mesh, write_surfaces
from shapefit.io.volume import write_volume
from shapefit.volume import Volume


def test_a_block_that_fails_leaves_nothing_and_keeps_the_older_file(tmp_path):
    target = tmp_path / "result.txt"
    target.write_text("older")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half of the new")
        raise RuntimeError("power cut")
    assert target.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "labels.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz") and temporary.parent == tmp_path
        temporary.touch()
    assert (tmp_path / "labels.nii.gz").is_file()


def test_an_output_folder_is_made_with_its_parents(tmp_path):
    assert prepare_output_dir(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_an_output_folder_that_is_a_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write into .*out: .*choose another output folder"):
        prepare_output_dir(tmp_path / "out")
    with pytest.raises(ValueError, match="cannot write into"):
        write_text(tmp_path / "out" / "fit.json", "{}")


def test_an_output_folder_without_permission_is_an_error_that_names_it(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)  # root may write anywhere
    with pytest.raises(ValueError, match="Permission denied; choose another output folder"):
        prepare_output_dir(tmp_path)


def test_a_file_is_not_written_over_a_folder(tmp_path):
    (tmp_path / "model.h5").mkdir()
    with pytest.raises(ValueError, match="a folder has this name"), atomic_path(tmp_path / "model.h5"):
        pass


def test_no_writer_leaves_a_half_written_file(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    sphere = trimesh.creation.icosphere(1)
    volume = Volume(torch.ones(2, 2, 2), torch.eye(4, dtype=torch.float64))
    image = torch.rand(4, 5)
    for write in (
        lambda: write_mesh(tmp_path / "a.ply", sphere),
        lambda: write_mesh(tmp_path / "a.stl", sphere),
        lambda: write_surfaces(tmp_path, {"a": sphere}),
        lambda: write_volume(tmp_path / "a.nii.gz", volume),
        lambda: write_volume(tmp_path / "a.nrrd", volume),
        *(lambda s=s: write_image(tmp_path / f"a{s}", image) for s in (".png", ".tif", ".nii.gz", ".npy")),
        lambda: write_camera(tmp_path / "a.json", Camera(1.0, 1.0, 1.0, 0.0, 0.0, 4, 5)),
    ):
        with pytest.raises(OSError, match="disk full"):
            write()
        assert list(tmp_path.iterdir()) == []


def test_folders_within_a_folder_are_filled_and_what_they_replace_goes(tmp_path):
    out = tmp_path / "out"
    for count in (3, 2):
        with atomic_folder(out, replaces=("sample_*/*.ply",)) as folder:
            for number in range(count):
                (folder / f"sample_{number}").mkdir()
                (folder / f"sample_{number}" / "bone.ply").write_text(str(count))
        (out / "sample_0" / "notes.txt").write_text("mine")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == [
        "sample_0", "sample_0/bone.ply", "sample_0/notes.txt", "sample_1", "sample_1/bone.ply"
    ]  # fmt: skip
    assert (out / "sample_1" / "bone.ply").read_text() == "2"
    with pytest.raises(OSError, match="disk full"), atomic_folder(out) as folder:
        (folder / "sample_9").mkdir()
        raise OSError("disk full")
    assert not (out / "sample_9").exists()
