"""Files written to statismo's and Scalismo's published layouts are read back to the same model."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from shapefit.io.model import read_model
from shapefit.io.vtk_legacy import read_vtk
from tests.small import small_model

LPS = np.array([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def model():
    return replace(small_model(5), noise_variance=0.25)


def arrays(model, scaled=False, flip=1.0):
    """Mean (3V,), basis (3V,K), variance (K,), points (3,V), cells (3,F) as a statismo file has them."""
    basis = (model.components.numpy() * flip).reshape(model.modes, -1).T
    basis = basis * model.std.numpy() if scaled else basis
    places = model.mean.numpy() * flip
    return places.reshape(-1), basis, model.std.numpy() ** 2, places.T, model.faces.numpy().T


def write(
    path: Path,
    model,
    version=(0, 9),
    noise="scalar",
    real="f4",
    whole="i4",
    representer="itkStandardMeshRepresenter",
    kind="POLYGON_MESH",
    flip=1.0,
    turned=False,
    at="/",
) -> Path:
    """A file to the published layout, without anything of ours."""
    mean, basis, variance, points, cells = arrays(model, version in ((0, 8), None), flip)
    with h5py.File(path, "a") as file:
        group = file.require_group(at)
        content = {"mean": mean, "pcaBasis": basis, "pcaVariance": variance}
        for name, values in content.items():
            group[f"model/{name}"] = values.astype(real)
        if noise:
            group["model/noiseVariance"] = np.full(
                (1,) if noise == "array" else (), model.noise_variance, real
            )
        mesh = group.create_group("representer")
        # Scalismo's native writer stored texts as arrays of one, statismo as fixed-length scalars
        mesh.attrs["name"] = np.array([representer.encode()]) if noise == "array" else np.bytes_(representer)
        if kind:
            mesh.attrs["datasetType"] = np.bytes_(kind)
        if representer in ("vtkPolyDataRepresenter", "itkMeshRepresenter"):
            stored = np.frombuffer(legacy(model, flip), dtype="i1")
            # Scalismo stored a column, statismo a row
            mesh["reference"] = stored[:, None] if representer == "itkMeshRepresenter" else stored
        else:
            mesh["points"] = (points.T if turned else points).astype(real)
            mesh["cells"] = (cells.T if turned else cells).astype(whole)
        if version:
            file["version/majorVersion"], file["version/minorVersion"] = (np.int32(part) for part in version)
        group["modelinfo/build-time"] = np.bytes_("Tue May 31 17:25:08 2016")
    return path


def legacy(model, flip=1.0, text=True) -> bytes:
    """The reference mesh as the legacy VTK file that 0.8 holds."""
    points, faces = (model.mean.numpy() * flip).astype(">f4"), model.faces.numpy()
    polygons = np.insert(faces, 0, 3, axis=1).astype(">i4")
    head = f"# vtk DataFile Version 3.0\nvtk output\n{'ASCII' if text else 'BINARY'}\nDATASET POLYDATA\n"

    def block(values: np.ndarray) -> bytes:
        return " ".join(map(str, values.ravel().tolist())).encode() if text else values.tobytes()

    return b"".join([
        head.encode(), f"POINTS {len(points)} float\n".encode(), block(points), b"\n",
        f"POLYGONS {len(faces)} {polygons.size}\n".encode(), block(polygons), b"\n",
    ])  # fmt: skip


def same(found, model, tolerance=1e-4):
    """The same shapes, equally likely: mean, covariance, noise and faces."""
    assert (found.mean - model.mean).abs().max() < tolerance
    assert torch.equal(found.faces, model.faces)
    assert found.noise_variance == pytest.approx(model.noise_variance)
    assert torch.allclose(found.std, model.std, rtol=1e-4)
    coefficients = torch.linspace(-2, 2, model.modes, dtype=torch.float64)
    assert (found.instance(coefficients) - model.instance(coefficients)).abs().max() < tolerance


@pytest.mark.parametrize("version", [(0, 8), (0, 9), (1, 0), (1, 3)])
@pytest.mark.parametrize("noise", ["scalar", "array"])
@pytest.mark.parametrize(("real", "whole"), [("f4", "u4"), ("f8", "i4"), (">f4", "i8")])
def test_every_version_gives_the_same_model(tmp_path, model, version, noise, real, whole):
    found = read_model(write(tmp_path / "a.h5", model, version, noise, real, whole))
    same(found, model)
    assert found.metadata["read_from"] == f"statismo {version[0]}.{version[1]}"
    assert (found.names, found.labels) == (("bone",), (1,))


@pytest.mark.parametrize("representer", ["vtkPolyDataRepresenter", "itkMeshRepresenter"])
@pytest.mark.parametrize("version", [(0, 8), None])
def test_version_0_8_keeps_its_mesh_as_a_vtk_file_and_may_leave_the_version_out(
    tmp_path, model, representer, version
):
    same(read_model(write(tmp_path / "a.h5", model, version, representer=representer, kind="")), model)


def test_a_vtk_reference_is_read_as_text_and_as_bytes_and_in_vtk_5(model):
    for text in (True, False):
        points, faces = read_vtk(legacy(model, text=text))
        assert np.array_equal(points, model.mean.numpy().astype("f4").astype("f8"))
        assert np.array_equal(faces, model.faces.numpy())
    five = (
        b"# vtk DataFile Version 5.1\nvtk output\nASCII\nDATASET POLYDATA\nPOINTS 4 double\n"
        b"0 0 0 1 0 0\n1 1 0 0 1 0\nMETADATA\nINFORMATION 0\n\nPOLYGONS 3 7\nOFFSETS vtktypeint64\n0 4 7\n"
        b"CONNECTIVITY vtktypeint64\n0 1 2 3 0 2 1\n"
    )
    assert read_vtk(five)[1].tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 1]]
    quads = five[: five.index(b"METADATA")].replace(b"5.1", b"3.0") + b"POLYGONS 2 9\n4 0 1 2 3\n3 0 2 1\n"
    assert read_vtk(quads)[1].tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 1]]
    for broken in (b"", five[:120], five[:-8], quads[:-8], five.replace(b"double", b"bit")):
        with pytest.raises(ValueError, match=r"^it |^its "):
            read_vtk(broken)


def test_rows_and_columns_may_be_exchanged(tmp_path, model):
    same(read_model(write(tmp_path / "a.h5", model, turned=True)), model)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        basis = file["model/pcaBasis"][()]
        del file["model/pcaBasis"]
        file["model/pcaBasis"] = basis.T
    same(read_model(tmp_path / "a.h5"), model)


def test_one_mode_may_lie_flat_and_a_file_may_leave_the_noise_out(tmp_path, model):
    one = replace(model.truncate(1), noise_variance=0.0)
    path = write(tmp_path / "a.h5", one, noise="")
    with h5py.File(path, "a") as file:
        basis, variance = file["model/pcaBasis"][()], file["model/pcaVariance"][()]
        del file["model/pcaBasis"], file["model/pcaVariance"]
        file["model/pcaBasis"], file["model/pcaVariance"] = basis.ravel(), variance[0]
    same(read_model(path), one)


def test_modes_of_no_variance_are_left_out(tmp_path, model):
    path = write(tmp_path / "a.h5", model, (0, 8))
    with h5py.File(path, "a") as file:
        basis, variance = file["model/pcaBasis"][()], file["model/pcaVariance"][()]
        del file["model/pcaBasis"], file["model/pcaVariance"]
        file["model/pcaBasis"] = np.insert(basis, 1, 0.0, axis=1)
        file["model/pcaVariance"] = np.insert(variance, 1, 0.0)
    same(read_model(path), model)


def test_a_basis_that_is_not_orthonormal_keeps_its_covariance(tmp_path, model):
    """Scalismo stores Gaussian processes whose basis functions are not orthogonal on the points."""
    path = write(tmp_path / "a.h5", model, real="f8")
    rng = np.random.default_rng(0)
    basis, variance = rng.normal(size=(model.mean.numel(), 7)), rng.uniform(1, 5, 7)
    with h5py.File(path, "a") as file:
        del file["model/pcaBasis"], file["model/pcaVariance"]
        file["model/pcaBasis"], file["model/pcaVariance"] = basis, variance
    found = read_model(path)
    flat = found.components.reshape(found.modes, -1).numpy()
    assert np.allclose(flat @ flat.T, np.eye(7), atol=1e-12)
    assert np.allclose(flat.T * found.std.numpy() ** 2 @ flat, basis * variance @ basis.T)
    assert (found.std.diff() < 0).all()


def test_lps_is_turned_to_ras_mean_and_modes_alike(tmp_path, model):
    path = write(tmp_path / "a.h5", model, flip=LPS)
    same(read_model(path, frame="LPS"), model)
    taken = read_model(path)
    assert (taken.mean - model.mean * torch.tensor(LPS)).abs().max() < 1e-4
    assert taken.metadata["frame_of_file"] == "RAS, which the file does not state"
    assert read_model(path, frame="LPS").metadata["frame_of_file"] == "LPS, which the file does not state"
    with h5py.File(path, "a") as file:
        file["representer"].attrs["SPACE"] = "LPS"
    same(read_model(path), model)
    with pytest.raises(ValueError, match="unknown frame 'XYZ'; expected RAS or LPS"):
        read_model(write(tmp_path / "b.h5", model), frame="XYZ")


def test_a_model_away_from_the_origin_is_moved_there_and_says_from_where(tmp_path, model):
    shift = torch.tensor([100.0, -50.0, 25.0])
    found = read_model(write(tmp_path / "a.h5", replace(model, mean=model.mean + shift), real="f8"))
    same(found, model)
    assert [float(x) for x in found.metadata["origin_in_file"].split()] == pytest.approx(shift.tolist())
    assert "origin_in_file" not in read_model(write(tmp_path / "b.h5", model)).metadata


def test_a_file_of_several_models_gives_the_one_of_shapes_or_names_them(tmp_path, model):
    path = tmp_path / "face.h5"
    write(path, model, at="shape", representer="gravis::MeshShapeRepresenter")
    with h5py.File(path, "a") as file:
        file.copy("shape", "color")
        file["color/representer"].attrs["name"] = "gravis::MeshColorRepresenter"
    with pytest.raises(ValueError, match="holds 2 models: color, shape; say which"):
        read_model(path)
    same(read_model(path, inside="/shape"), model)
    with pytest.raises(ValueError, match=r"model of colours .*, not of shapes"):
        read_model(path, inside="color")
    with pytest.raises(ValueError, match="has no model 'bone'; it holds color, shape"):
        read_model(path, inside="bone")
    with h5py.File(path, "a") as file:  # as scalismo-faces writes it
        for name, kind in (("shape", "POLYGON_MESH_MODEL"), ("color", "POLYGON_MESH_DATA_MODEL")):
            entry = file.create_group(f"catalog/MorphableModel.{name}")
            entry["modelPath"], entry["modelType"] = np.array([f"//{name}".encode()]), np.bytes_(kind)
    same(read_model(path), model)


def test_displacements_are_added_to_the_points_of_an_expression_model(tmp_path, model):
    path = write(tmp_path / "a.h5", model, at="expression", representer="gravis::MeshExpressionRepresenter")
    with h5py.File(path, "a") as file:
        file["expression/model/mean"][()] *= 0
    same(read_model(path), model)


def test_displacements_where_places_belong_are_refused(tmp_path, model):
    path = write(tmp_path / "a.h5", model)
    with h5py.File(path, "a") as file:
        file["model/mean"][()] *= 0.01
    with pytest.raises(ValueError, match="seems to hold displacements"):
        read_model(path)


def test_a_length_unit_is_obeyed(tmp_path, model):
    metres = replace(
        model, mean=model.mean / 1000, std=model.std / 1000, noise_variance=model.noise_variance / 1e6
    )
    path = write(tmp_path / "a.h5", metres)
    with h5py.File(path, "a") as file:
        file["representer/length-unit"] = np.float32(1.0)
    same(read_model(path), model)


@pytest.mark.parametrize("kind", ["VOLUME_MESH", "IMAGE", "POINT_SET", "LINE_MESH"])
def test_models_of_anything_but_surfaces_are_refused(tmp_path, model, kind):
    with pytest.raises(ValueError, match=f"is a model of {kind}; models of surfaces"):
        read_model(write(tmp_path / "a.h5", model, kind=kind))


@pytest.mark.parametrize("noise", [np.float32(-1), np.float32(np.nan), np.zeros(2)])
def test_a_noise_that_is_none_is_refused(tmp_path, model, noise):
    path = write(tmp_path / "a.h5", model, noise="")
    with h5py.File(path, "a") as file:
        file["model/noiseVariance"] = noise
    with pytest.raises(ValueError, match="noiseVariance is"):
        read_model(path)


def as_json(path: Path) -> dict:
    """A file in the layout of HDF5-JSON, as Scalismo writes it since 0.92."""
    groups: dict[str, dict] = {}
    datasets: dict[str, dict] = {}

    def value(stored) -> dict:
        plain = np.asarray(stored)
        if plain.dtype.kind in "SO":
            text = {"class": "H5T_STRING", "charSet": "H5T_CSET_UTF8", "length": "H5T_VARIABLE"}
            return {"type": text, "shape": {"class": "H5S_SCALAR"}, "value": plain.ravel()[0].decode()}
        kind = (
            ("H5T_FLOAT", "H5T_IEEE_F32LE") if plain.dtype.kind == "f" else ("H5T_INTEGER", "H5T_STD_I32LE")
        )
        shape = {"class": "H5S_SIMPLE", "dims": list(plain.shape)} if plain.ndim else {"class": "H5S_SCALAR"}
        return {
            "type": dict(zip(("class", "base"), kind, strict=True)),
            "shape": shape,
            "value": plain.tolist(),
        }

    def add(group: h5py.Group) -> str:
        links = []
        for title, child in group.items():
            inner = isinstance(child, h5py.Group)
            key = add(child) if inner else f"d{len(datasets)}"
            if not inner:
                datasets[key] = value(child[()])
            links.append({"title": title, "collection": "groups" if inner else "datasets", "id": key})
        attributes = [{"name": name, **value(stored)} for name, stored in group.attrs.items()]
        groups[group.name] = {"alias": [group.name], "links": links, "attributes": attributes}
        return group.name

    with h5py.File(path) as file:
        return {"apiVersion": "1.0.0", "root": add(file), "groups": groups, "datasets": datasets}


def test_hdf5_as_json_is_read_as_hdf5_is(tmp_path, model):
    content = as_json(write(tmp_path / "a.h5", model, noise="array"))
    (tmp_path / "knee.h5.json").write_text(json.dumps(content))
    found = read_model(tmp_path / "knee.h5.json")
    same(found, model)
    assert found.metadata["id"] == "knee"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: "{", "not a readable JSON"),
        (lambda content: "[]", "names no root or no groups"),
        (lambda content: json.dumps(content | {"root": "nowhere"}), "not HDF5 as JSON that can be read"),
        (lambda content: json.dumps(content | {"datasets": {}}), "not HDF5 as JSON that can be read"),
        (
            lambda content: json.dumps(
                {"root": "a", "groups": {"a": {"links": [{"title": "b", "collection": "groups", "id": "a"}]}}}
            ),
            "more than 32 deep",
        ),
    ],
)
def test_json_that_is_not_a_model_is_refused(tmp_path, model, change, message):
    content = as_json(write(tmp_path / "a.h5", model))
    (tmp_path / "a.json").write_text(change(content))
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read_model(tmp_path / "a.json")
