import base64
import lzma
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import trimesh

from shapefit.io.mesh import read_mesh, read_surfaces, write_mesh, write_surfaces, write_vtp
from shapefit.io.vtp import read_vtp
from shapefit.mesh import boundary_edges

FORMATS = (".ply", ".stl", ".obj", ".vtp")


@pytest.fixture
def bone():
    """A closed mesh with no symmetry, far from the origin, as bones are."""
    mesh = trimesh.creation.icosphere(3)
    mesh.vertices = mesh.vertices * [30, 20, 10] + [120.5, -400.25, -650.125]
    return mesh


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".vtp", ".PLY"])
def test_a_mesh_comes_back_bit_for_bit_in_what_the_format_holds(tmp_path, bone, suffix):
    write_mesh(tmp_path / f"bone{suffix}", bone)
    back = read_mesh(tmp_path / f"bone{suffix}")
    held = bone.vertices.astype("f4") if suffix.lower() == ".ply" else bone.vertices
    assert np.array_equal(back.faces, bone.faces)
    assert np.array_equal(back.vertices, held)


def test_an_stl_is_closed_again_after_reading(tmp_path, bone):
    write_mesh(tmp_path / "bone.stl", bone)
    back = read_mesh(tmp_path / "bone.stl")
    assert boundary_edges(back.faces) == 0
    assert len(back.vertices) == len(bone.vertices)
    assert np.array_equal(back.triangles, bone.triangles.astype("f4"))


def test_a_ply_says_its_frame_and_units(tmp_path, bone):
    write_mesh(tmp_path / "bone.ply", bone)
    header = (tmp_path / "bone.ply").read_bytes().split(b"end_header")[0].decode()
    assert "format binary_little_endian 1.0" in header
    assert "comment SPACE=RAS" in header and "comment units mm" in header


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_file_says_that_it_is_ras(tmp_path, bone, suffix):
    write_mesh(tmp_path / f"bone{suffix}", bone)
    content = (tmp_path / f"bone{suffix}").read_bytes()
    if suffix == ".vtp":
        fields = {a.get("Name"): a.text for a in ElementTree.fromstring(content).iter("Array")}
        assert bytes(map(int, fields["SPACE"].split())) == b"RAS\0"
    else:
        assert content.count(b"SPACE=RAS") == 1
        assert suffix != ".stl" or b"SPACE=RAS" in content[:80]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_mesh_that_says_lps_is_turned_to_ras_and_stays_outward(tmp_path, bone, suffix):
    path = tmp_path / f"bone{suffix}"
    write_mesh(path, bone)  # on the patient's right: x > 0
    ours, lps = (b"82 65 83 0", b"76 80 83 0") if suffix == ".vtp" else (b"SPACE=RAS", b"SPACE=LPS")
    path.write_bytes(path.read_bytes().replace(ours, lps))
    back = read_mesh(path)
    assert back.vertices[:, 0].max() < 0
    assert np.allclose(np.sort(back.vertices, 0), np.sort(bone.vertices * [-1, -1, 1], 0), atol=1e-4)
    assert back.volume == pytest.approx(bone.volume, rel=1e-5)


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".obj"])
def test_a_file_that_states_no_frame_is_taken_as_ras(tmp_path, bone, suffix):
    bone.export(tmp_path / f"bone{suffix}")
    back = read_mesh(tmp_path / f"bone{suffix}")
    assert np.allclose(np.sort(back.vertices, 0), np.sort(bone.vertices, 0), atol=1e-4)


# as VTK 9.7 writes it for 3D Slicer: appended base64 of zlib blocks, the frame a text of the field data
SLICER = """<?xml version="1.0"?>
<VTKFile type="PolyData" version="0.1" byte_order="LittleEndian" header_type="UInt32" compressor="vtkZLibDataCompressor">
<PolyData><FieldData><Array type="String" Name="SPACE" NumberOfTuples="1" format="appended" offset="0" /></FieldData>
<Piece NumberOfPoints="4" NumberOfVerts="0" NumberOfLines="0" NumberOfStrips="0" NumberOfPolys="4">
<Points><DataArray type="Float64" Name="Points" NumberOfComponents="3" format="appended" offset="40" /></Points>
<Polys><DataArray type="Int64" Name="connectivity" format="appended" offset="220" />
<DataArray type="Int64" Name="offsets" format="appended" offset="284" /></Polys></Piece></PolyData>
<AppendedData encoding="base64">
_AQAAAACAAAAEAAAADAAAAA==eF7zCQhmAAACygDwAQAAAACAAABgAAAALAAAAA==eF5jYAAChTgHEMXAUnkATDOoQPgN0RCaAU2cAao+oQK\
7OEy9gpkDANf/Ch8=AAAAAACAAAAAAAAAAAAAAACAAAAAAAAAAAAAAACAAAAAAAAAAAAAAACAAAAAAAAAAAAAAACAAAAAAAAAAAAAAACAAAAAAAAAA\
QAAAACAAABgAAAAHgAAAA==eF5jYIAARijNxIAKmNHkYQCmDl0exofJAwADWAATAQAAAACAAAAgAAAAEwAAAA==eF5jZoAANijNCaV5oDQAAgAAHw==
</AppendedData></VTKFile>"""  # noqa: E501
CORNERS = np.array([[120.5, -400.25, 10], [110, -400, 10], [120, -390, 10], [120, -400, 22.125]])
FACES = [[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]


def vtp(points: str, polys: str, root: str = "", appended: bytes = b"") -> bytes:
    """A .vtp around arrays that are given as XML."""
    text = f"""<VTKFile type="PolyData" {root}><PolyData><Piece NumberOfPoints="4" NumberOfPolys="4">
    <Points>{points}</Points><Polys>{polys}</Polys></Piece></PolyData>"""
    if appended:
        return text.encode() + b'<AppendedData encoding="raw">_' + appended + b"</AppendedData></VTKFile>"
    return text.encode() + b"</VTKFile>"


def array(values, name: str, kind: str, **stored) -> str:
    attributes = " ".join(f'{key}="{value}"' for key, value in stored.items())
    return f'<DataArray type="{kind}" Name="{name}" {attributes}>{values}</DataArray>'


ASCII = [
    array(" ".join(map(str, np.ravel(values))), name, kind)
    for values, name, kind in (
        (CORNERS, "Points", "Float32"),
        (FACES, "connectivity", "Int32"),
        ([3, 6, 9, 12], "offsets", "Int32"),
    )
]


def test_a_vtp_of_slicer_is_read_and_turned_to_ras(tmp_path):
    (tmp_path / "a.vtp").write_text(SLICER)
    assert read_vtp(tmp_path / "a.vtp").texts == {"SPACE": ["LPS"]}
    back = read_mesh(tmp_path / "a.vtp")
    assert np.array_equal(back.vertices, CORNERS * [-1, -1, 1])
    assert np.array_equal(back.faces, FACES)


def test_a_vtp_is_read_however_its_numbers_are_stored(tmp_path):
    numbers = [CORNERS.astype(">f4"), np.array(FACES, ">i4"), np.array([3, 6, 9, 12], ">i4")]
    kinds = [("Points", "Float32"), ("connectivity", "Int32"), ("offsets", "Int32")]
    raw, inline, packed, appended = [], [], [], b""
    for values, (name, kind) in zip(numbers, kinds, strict=True):
        data = values.tobytes()
        block = np.array(len(data), ">u8").tobytes() + data
        raw.append(array("", name, kind, format="appended", offset=len(appended)))
        appended += block
        inline.append(array(base64.b64encode(block).decode(), name, kind, format="binary"))
        small = [lzma.compress(part) for part in (data[:8], data[8:])]  # two blocks of different sizes
        head = np.array([2, 8, len(data) - 8, *map(len, small)], ">u4").tobytes()
        text = base64.b64encode(head).decode() + base64.b64encode(b"".join(small)).decode()
        packed.append(array(text, name, kind, format="binary"))
    wide = 'byte_order="BigEndian" header_type="UInt64"'
    files = {
        "ascii": vtp(ASCII[0], ASCII[1] + ASCII[2]),
        "raw": vtp(raw[0], raw[1] + raw[2], wide, appended),
        "inline": vtp(inline[0], inline[1] + inline[2], wide),
        "lzma": vtp(
            packed[0], packed[1] + packed[2], 'byte_order="BigEndian" compressor="vtkLZMADataCompressor"'
        ),
    }
    for name, content in files.items():
        (tmp_path / "a.vtp").write_bytes(content)
        back = read_mesh(tmp_path / "a.vtp")
        assert np.array_equal(back.vertices, CORNERS), name
        assert np.array_equal(back.faces, FACES), name


def test_polygons_of_a_vtp_become_fans_of_triangles(tmp_path):
    polys = array("0 1 2 3 0 2 1", "connectivity", "Int32") + array("4 7", "offsets", "Int32")
    (tmp_path / "a.vtp").write_bytes(vtp(ASCII[0], polys))
    assert read_vtp(tmp_path / "a.vtp").faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (vtp(ASCII[0], ASCII[1]), "lacks points or polygons"),
        (
            vtp(ASCII[0], ASCII[1] + ASCII[2], 'compressor="vtkLZ4DataCompressor"'),
            "vtkLZ4DataCompressor is not read",
        ),
        (
            vtp(ASCII[0], ASCII[1] + ASCII[2]).replace(b"<Piece", b'<Piece NumberOfStrips="1"'),
            "triangle strips",
        ),
        (vtp(ASCII[0].replace("Float32", "String"), ASCII[1] + ASCII[2]), "holds String"),
        (vtp(ASCII[0], ASCII[1].replace("3 2<", "9 2<") + ASCII[2]), "name vertices that it does not have"),
        (SLICER.replace("eF7z", "eF7a").encode(), "cut off or damaged"),
        (SLICER.encode()[:-300], "not a readable VTP"),
        (SLICER.replace("PolyData", "ImageData").encode(), "not a VTK PolyData file"),
    ],
)
def test_a_vtp_that_cannot_be_read_is_refused_with_the_reason(tmp_path, content, message):
    (tmp_path / "a.vtp").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.vtp is not a readable.*{message}|{message}"):
        read_mesh(tmp_path / "a.vtp")


def test_a_vtp_carries_values_on_vertices_and_faces(tmp_path, bone):
    std = np.linspace(0, 3, len(bone.vertices), dtype="f4")
    part = (np.arange(len(bone.faces)) % 3).astype("i4")
    names = ["sacrum", 'H\u00fcfte <links> & "rechts"']
    write_vtp(
        tmp_path / "a.vtp", bone.vertices, bone.faces, {"std": std}, {"structure": part}, {"names": names}
    )
    assert read_vtp(tmp_path / "a.vtp").texts == {"SPACE": ["RAS"], "UNIT": ["mm"], "names": names}
    root = ElementTree.parse(tmp_path / "a.vtp").getroot()
    kinds = [(a.get("Name"), a.get("type")) for a in root.findall("*/*/*/DataArray")]
    assert ("std", "Float32") in kinds and ("structure", "Int32") in kinds
    # and as triangles it stays what it was
    assert np.array_equal(read_mesh(tmp_path / "a.vtp").vertices, bone.vertices)


def test_surfaces_come_back_by_name_and_in_the_order_asked_for(tmp_path, bone):
    files = write_surfaces(tmp_path / "case", {"sacrum": bone, "hip_left": bone})
    assert sorted(p.name for p in files.values()) == ["hip_left.ply", "sacrum.ply"]
    assert list(read_surfaces(tmp_path / "case")) == ["hip_left", "sacrum"]
    assert list(read_surfaces(tmp_path / "case", ["sacrum"])) == ["sacrum"]
    files = write_surfaces(tmp_path / "other", {"sacrum": bone}, ".vtp")
    assert [p.name for p in files.values()] == ["sacrum.vtp"]


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


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"not a mesh at all", b"ply\nformat ascii 1.0\nelement vertex 9\n"])
def test_what_is_not_a_mesh_is_an_error_that_names_the_file(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad{suffix} is not a"):
        read_mesh(path)


def test_a_truncated_mesh_is_an_error_that_names_the_file(tmp_path, bone):
    for suffix in (".ply", ".stl", ".vtp"):
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
