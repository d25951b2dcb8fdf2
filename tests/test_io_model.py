"""Model files are statismo 0.9, come back as they went, and say what is wrong when they cannot."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from shapefit.io.model import model_path, read_model, write_model
from tests.small import small_model


@pytest.fixture(scope="module")
def model():
    return small_model(5)


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "small.h5"
    write_model(path, model)
    return path


def test_a_model_comes_back_as_it_went(model, file):
    found = read_model(file)
    coefficients = torch.linspace(-2, 2, model.modes, dtype=torch.float64)
    assert (found.instance(coefficients) - model.instance(coefficients)).abs().max() < 1e-4
    assert torch.equal(found.faces, model.faces)
    assert torch.equal(found.structure, model.structure)
    assert (found.names, found.labels, found.cases) == (model.names, model.labels, model.cases)
    assert torch.equal(found.scores, model.scores)
    assert found.landmarks.names == model.landmarks.names
    assert torch.equal(found.landmarks.barycentric, model.landmarks.barycentric)
    assert dict(found.metadata) == dict(model.metadata)


def test_components_read_are_orthonormal_to_double_precision(file):
    model = read_model(file)
    flat = model.components.reshape(model.modes, -1)
    assert torch.allclose(flat @ flat.T, torch.eye(model.modes, dtype=torch.float64), atol=1e-12)


def test_leave_one_out_works_from_the_file_alone(model, file):
    found, known = read_model(file).without("case2"), model.without("case2")
    assert torch.allclose(found.std, known.std, rtol=1e-4)


def test_the_layout_is_that_of_statismo_0_9(model, file):
    with h5py.File(file) as content:
        vertices = len(model.mean)
        assert content["model/mean"].shape == (3 * vertices,)
        assert np.allclose(content["model/mean"][:3], model.mean[0], atol=1e-4)
        assert content["model/pcaBasis"].shape == (3 * vertices, model.modes)
        assert np.allclose(content["model/pcaVariance"], model.std**2, rtol=1e-5)
        assert content["model/noiseVariance"][()] == model.noise_variance
        assert content["representer/points"].shape == (3, vertices)
        assert content["representer/cells"].shape == (3, len(model.faces))
        assert content["representer"].attrs["name"] == "itkStandardMeshRepresenter"
        assert content["representer"].attrs["datasetType"] == "POLYGON_MESH"
        assert content["version/majorVersion"][()] == 0
        assert content["version/minorVersion"][()] == 9


def test_what_scalismo_can_read_is_written(file):
    # its reader, jhdf, gives 32-bit floats as float and signed 32-bit integers as int, and casts to those
    with h5py.File(file) as content:
        for name in ("model/mean", "model/pcaBasis", "model/pcaVariance", "representer/points"):
            assert content[name].dtype == np.float32, name
        assert content["representer/cells"].dtype == np.int32
        assert content["model/noiseVariance"].shape == (1,)  # scalismo-faces casts it to an array
        assert content["representer"].attrs["SPACE"] == "RAS"


def test_the_same_model_is_the_same_file_bit_for_bit(model, file):
    write_model(file.with_name("again.h5"), model)
    assert file.with_name("again.h5").read_bytes() == file.read_bytes()


def test_a_plain_statismo_file_is_one_bone_and_states_its_frame(model, tmp_path):
    write_model(tmp_path / "plain.h5", model, extras=False)
    with h5py.File(tmp_path / "plain.h5") as content:
        assert "shapefit" not in content
        assert content["modelinfo/scores"].shape == (model.modes, len(model.cases))
    found = read_model(tmp_path / "plain.h5")
    assert found.names == ("bone",)
    assert found.landmarks.names == ()
    assert (found.mean - model.mean).abs().max() < 1e-4
    assert torch.allclose(found.std, model.std, rtol=1e-6)
    assert found.metadata["frame_of_file"] == "RAS"
    with pytest.raises(ValueError, match="states that it is RAS; it cannot be read as LPS"):
        read_model(tmp_path / "plain.h5", frame="LPS")


def test_a_model_without_modes_is_a_mean(model, tmp_path):
    write_model(tmp_path / "mean.h5", model.truncate(0))
    found = read_model(tmp_path / "mean.h5")
    assert found.modes == 0 and found.components.shape == (0, len(model.mean), 3)
    assert found.noise_variance == pytest.approx(model.truncate(0).noise_variance)


def test_a_file_that_is_cut_off_is_refused(file):
    whole = file.read_bytes()
    for share in (0.3, 0.7, 0.95):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"small\.h5 is cut off or damaged"):
            read_model(file)


def test_a_file_of_another_version_is_refused(file):
    with h5py.File(file, "a") as content:
        content["version/minorVersion"][()] = 7
    with pytest.raises(ValueError, match=r"statismo file of version 0\.7; 0\.8, 0\.9 and 1\.x are read"):
        read_model(file)


def test_a_basis_that_belies_the_version_is_refused(file):
    with h5py.File(file, "a") as content:
        content["version/minorVersion"][()] = 8
    with pytest.raises(ValueError, match=r"pcaBasis is U, but /version says 0\.8"):
        read_model(file)
    with h5py.File(file, "a") as content:
        content["version/minorVersion"][()] = 9
        content["model/pcaBasis"][...] *= np.sqrt(content["model/pcaVariance"][()])
    with pytest.raises(ValueError, match=r"pcaBasis is U sqrt\(lambda\), but /version says 0\.9"):
        read_model(file)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "note.h5"
    path.write_text("not a model")
    with pytest.raises(ValueError, match=r"note\.h5 is not an HDF5 shape model"):
        read_model(path)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.h5"
    path.touch()
    with pytest.raises(ValueError, match=r"empty\.h5 is not an HDF5 shape model"):
        read_model(path)


def test_hdf5_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as content:
        content["image"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"other\.h5 is not a shape model: it has neither"):
        read_model(path)


@pytest.mark.parametrize("name", ["model/mean", "model/pcaBasis", "representer/cells", "shapefit/names"])
def test_a_missing_dataset_is_named(file, name):
    with h5py.File(file, "a") as content:
        del content[name]
    with pytest.raises(ValueError, match=f"lacks /{name}"):
        read_model(file)


def test_sizes_that_disagree_are_refused(file):
    with h5py.File(file, "a") as content:
        del content["model/pcaVariance"]
        content["model/pcaVariance"] = np.ones(2)
    with pytest.raises(ValueError, match="the sizes disagree"):
        read_model(file)


def test_values_that_are_not_finite_are_refused(file):
    with h5py.File(file, "a") as content:
        content["model/mean"][5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        read_model(file)


def test_faces_beyond_the_vertices_are_refused(file):
    with h5py.File(file, "a") as content:
        content["representer/cells"][0, 0] = 10**6
    with pytest.raises(ValueError, match="name vertices beyond"):
        read_model(file)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="nothing_here: no such model file, nor the name of a model"):
        read_model("nothing_here")


def test_a_name_is_found_among_the_models(file, tmp_path, monkeypatch):
    home = tmp_path / "models" / "tiny"
    home.mkdir(parents=True)
    file.rename(home / "tiny.h5")
    monkeypatch.chdir(tmp_path)
    assert model_path("tiny").name == "tiny.h5"


def test_a_write_that_fails_leaves_the_old_file(model, file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(
        h5py.Group, "create_dataset", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        write_model(file, model)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_shipped_pelvis_is_whole_small_and_says_whose_it_is():
    home = Path(__file__).parents[1] / "models" / "pelvis"
    model = read_model("pelvis")
    assert model.names == ("sacrum", "hip_left", "hip_right")
    assert model.labels == (1, 2, 3)
    assert abs(len(model.mean) - 10_000) < 300
    assert sum(path.stat().st_size for path in home.iterdir() if path.suffix == ".h5") < 8e6
    for shape in (model.mean, *model.sample(2, seed=1)):
        for mesh in model.surfaces(shape).values():
            assert mesh.is_watertight and mesh.volume > 0
    assert model.mean.mean(0).abs().max() < 0.01
    card = json.loads((home / "pelvis.card.json").read_text())
    assert len(card["subjects"]) == 15
    assert "CC BY-NC-SA 4.0" in card["license"] == model.metadata["license"]
    assert "10.1038/s41597-023-02669-z" in card["source"] == model.metadata["source"]
    assert {name.removesuffix("~") for name in model.cases} == set(card["subjects"])
    assert card["leave_one_out"]["mean"]["assd"] < 2.0
    assert card["leave_one_out"]["mean"]["hd95"] < 5.2


def test_the_shipped_pelvis_is_symmetric_in_the_mean():
    model = read_model("pelvis")
    left, right = (model.surfaces(model.mean)[name].vertices for name in ("hip_left", "hip_right"))
    assert np.abs(left * [-1, 1, 1] - right).max() < 0.5
