import numpy as np
import pytest
import trimesh

from shapefit.io.mesh import read_mesh, read_surfaces, write_mesh, write_surfaces
from shapefit.mesh import boundary_edges


@pytest.fixture
def bone():
    """A closed mesh with no symmetry, far from the origin, as bones are."""
    mesh = trimesh.creation.icosphere(3)
    mesh.vertices = mesh.vertices * [30, 20, 10] + [120.5, -400.25, -650.125]
    return mesh


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".PLY"])
def test_a_mesh_comes_back_as_it_was_written_vertex_by_vertex(tmp_path, bone, suffix):
    write_mesh(tmp_path / f"bone{suffix}", bone)
    back = read_mesh(tmp_path / f"bone{suffix}")
    assert np.array_equal(back.faces, bone.faces)
    assert np.abs(back.vertices - bone.vertices).max() < 1e-4  # mm; PLY holds float32


def test_an_stl_is_closed_again_after_reading(tmp_path, bone):
    write_mesh(tmp_path / "bone.stl", bone)
    back = read_mesh(tmp_path / "bone.stl")
    assert boundary_edges(back.faces) == 0
    assert len(back.vertices) == len(bone.vertices)
    assert back.volume == pytest.approx(bone.volume, rel=1e-5)


def test_a_ply_says_its_frame_and_units(tmp_path, bone):
    write_mesh(tmp_path / "bone.ply", bone)
    header = (tmp_path / "bone.ply").read_bytes().split(b"end_header")[0].decode()
    assert "format binary_little_endian 1.0" in header
    assert "comment SPACE=RAS" in header and "comment units mm" in header


@pytest.mark.parametrize("suffix", [".ply", ".stl"])
def test_a_mesh_that_says_lps_is_turned_to_ras_and_stays_outward(tmp_path, bone, suffix):
    path = tmp_path / f"bone{suffix}"
    write_mesh(path, bone)
    content = path.read_bytes()
    if suffix == ".ply":
        content = content.replace(b"SPACE=RAS", b"SPACE=LPS")
    else:
        content = b"3D Slicer output. SPACE=LPS".ljust(80, b" ") + content[80:]
    path.write_bytes(content)
    back = read_mesh(path)
    assert np.allclose(np.sort(back.vertices, 0), np.sort(bone.vertices * [-1, -1, 1], 0), atol=1e-4)
    assert back.volume > 0


def test_surfaces_come_back_by_name_and_in_the_order_asked_for(tmp_path, bone):
    files = write_surfaces(tmp_path / "case", {"sacrum": bone, "hip_left": bone})
    assert sorted(p.name for p in files.values()) == ["hip_left.ply", "sacrum.ply"]
    assert list(read_surfaces(tmp_path / "case")) == ["hip_left", "sacrum"]
    assert list(read_surfaces(tmp_path / "case", ["sacrum"])) == ["sacrum"]


def test_an_open_mesh_is_an_error_that_names_the_file_and_the_edges(tmp_path, bone):
    bone.update_faces(np.arange(len(bone.faces)) != 7)
    write_mesh(tmp_path / "hip_left.ply", bone)
    with pytest.raises(ValueError, match=r"hip_left.ply is not closed: 3 boundary edges"):
        read_surfaces(tmp_path)
    assert len(read_mesh(tmp_path / "hip_left.ply", closed=False).faces) == len(bone.faces)


def test_an_inside_out_mesh_is_an_error_that_names_the_file(tmp_path, bone):
    bone.faces = bone.faces[:, ::-1]
    write_mesh(tmp_path / "sacrum.ply", bone)
    with pytest.raises(ValueError, match=r"sacrum.ply is inside out"):
        read_surfaces(tmp_path)


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".obj"])
@pytest.mark.parametrize("content", [b"", b"not a mesh at all", b"ply\nformat ascii 1.0\nelement vertex 9\n"])
def test_what_is_not_a_mesh_is_an_error_that_names_the_file(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad{suffix} is not a"):
        read_mesh(path)


def test_a_truncated_mesh_is_an_error_that_names_the_file(tmp_path, bone):
    for suffix in (".ply", ".stl"):
        path = tmp_path / f"cut{suffix}"
        write_mesh(path, bone)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"cut{suffix} is not"):
            read_mesh(path)


def test_a_mesh_with_vertices_that_are_not_finite_is_an_error(tmp_path, bone):
    bone.vertices[5, 1] = np.nan
    write_mesh(tmp_path / "a.ply", bone)
    with pytest.raises(ValueError, match=r"a.ply has 1 vertices that are not finite"):
        read_mesh(tmp_path / "a.ply")


def test_folders_without_the_wanted_meshes_are_errors_that_say_what_is_there(tmp_path, bone):
    with pytest.raises(ValueError, match="holds no mesh"):
        read_surfaces(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        read_surfaces(tmp_path / "absent")
    write_mesh(tmp_path / "sacrum.ply", bone)
    with pytest.raises(ValueError, match=r"has no mesh hip_left.ply; its meshes are sacrum"):
        read_surfaces(tmp_path, ["sacrum", "hip_left"])
    write_mesh(tmp_path / "sacrum.stl", bone)
    with pytest.raises(ValueError, match=r"holds both sacrum.ply and sacrum.stl"):
        read_surfaces(tmp_path)


def test_unknown_formats_are_errors_that_name_the_choices(tmp_path, bone):
    with pytest.raises(ValueError, match=r"expected \.ply, \.stl, \.obj"):
        write_mesh(tmp_path / "a.vtk", bone)
    with pytest.raises(ValueError, match=r"expected \.ply, \.stl, \.obj"):
        read_mesh(tmp_path / "a.vtk")
    with pytest.raises(ValueError, match="is not a file"):
        read_mesh(tmp_path / "a.ply")
    assert list(tmp_path.iterdir()) == []


def test_the_real_surfaces_are_closed_and_outward(data_dir):
    surfaces = read_surfaces(data_dir / "vsd" / "z001", ["sacrum", "hip_left", "hip_right"])
    # in RAS the patient's right hip has the larger x
    assert surfaces["hip_right"].center_mass[0] > surfaces["sacrum"].center_mass[0]
    assert surfaces["hip_left"].center_mass[0] < surfaces["sacrum"].center_mass[0]
