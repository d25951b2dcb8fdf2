"""X-rays of a CT show the bone where its coordinates are, within the matter that the CT holds."""

import numpy as np
import pytest
import registered
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.jobs.simulate_source import Source, read_source
from shapefit.materials import attenuation_coefficient
from shapefit.render.coordinates import render_coordinates
from shapefit.scene.ct import BEYOND, ct_line_integral, ct_matter
from shapefit.scene.neighbours import Surroundings
from shapefit.scene.simulate import simulate_sample
from shapefit.settings import CTSettings, SimulateSettings
from shapefit.volume import Volume
from tests.small import LABELS

SETTINGS = SimulateSettings(pixels=48, faces=400, empty=0.0, detector=(180.0, 200.0), shift=(5.0, 5.0))
CAMERA = Camera(1000.0, 3.2, 3.2, 0.0, 0.0, 48, 56)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return registered.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def segmented(world):
    return read_source(world.ct, SETTINGS, LABELS, world.labels)


@pytest.fixture(scope="module")
def dense(world):
    return read_source(world.ct, SETTINGS, ct=CTSettings(threshold=400.0))


def pose() -> torch.Tensor:
    view = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 720.0)
    turn = se3.exp(torch.tensor([0.2, -0.1, 0.3, 4.0, -6.0, 8.0], dtype=torch.float64))
    return se3.inverse(view) @ turn


def line(source: Source, empty: bool = False) -> np.ndarray:
    stage = source.stage
    assert stage.ct is not None
    rng = np.random.default_rng(0)
    bone = stage.model.mean
    return ct_line_integral(stage.ct, stage.around, bone, pose(), CAMERA, empty, SETTINGS, rng)


@pytest.mark.parametrize("kind", ["segmented", "dense"])
def test_the_bone_is_seen_where_its_coordinates_are(kind, request):
    source = request.getfixturevalue(kind)
    model = source.stage.model
    seen = render_coordinates(
        model.mean[None], model.faces, pose()[None], CAMERA, model.mean, model.structure, len(model.names)
    )
    covered = seen.hit[0].any(0).numpy()
    bone = line(source) - line(source, empty=True)
    assert covered.sum() > 60
    assert bone[binary_erosion(covered)].min() > 0.05
    assert bone[covered].mean() > 0.3
    if kind == "segmented":  # what is dense enough lies also beside the largest piece
        # the voxels of 3 mm around the bone count as of it
        assert np.abs(bone[~binary_dilation(covered, iterations=6)]).max() < 1e-9


def test_a_segmentation_names_the_structures_and_a_threshold_takes_the_largest_piece(segmented, dense):
    assert segmented.kind == dense.kind == "ct"
    assert segmented.model.names == tuple(LABELS) and segmented.model.labels == tuple(LABELS.values())
    assert dense.model.names == ("ct",) and "island" in dense.findings["ct"][0]
    assert segmented.model.modes == dense.model.modes == 0
    assert segmented.digest() != dense.digest()


def test_a_picture_is_of_the_patient_and_its_sample_complete(segmented):
    sample = simulate_sample(segmented.stage, 0, SETTINGS)
    assert sample.structures.flatten(1).any(1).all()
    mean = segmented.model.mean
    points = sample.entry[:, sample.covered].T.double()
    assert torch.cdist(points, mean).amin(1).max() < 6
    assert sample.image.min() >= 0 and sample.image.max() <= 1 and sample.image.std() > 0.02
    again = simulate_sample(segmented.stage, 0, SETTINGS)
    assert torch.equal(sample.image, again.image) and torch.equal(sample.entry, again.entry)


def test_water_of_a_known_thickness_takes_away_what_it_must_and_goes_on_beyond_the_scan():
    hu = torch.full((40, 30, 20), -1000.0)
    hu[10:30, 10:20] = 0.0  # 100 x 50 mm of water from the first slice to the last
    place = torch.diag(torch.tensor([5.0, 5.0, 5.0, 1.0], dtype=torch.float64))
    bone = torch.zeros(hu.shape, dtype=torch.bool)
    bone[15, 15, 10] = True
    origin = torch.tensor([97.5, 72.5, 50.0], dtype=torch.float64)  # the middle of the water
    matter = ct_matter(Volume(hu, place), bone, origin, SETTINGS)
    rng = np.random.default_rng(0)
    view = se3.inverse(world_from_view("ap", torch.zeros(3, dtype=torch.float64), 800.0))
    around = Surroundings(torch.zeros(0, 4), (), None)
    found = ct_line_integral(matter, around, origin[None], view, CAMERA, True, SETTINGS, rng)
    energies = [float(attenuation_coefficient("water", e)) for e in (50.0, 85.0)]
    middle = found[20:28, 24:32]
    assert 50 * 0.8 * energies[1] < middle.min() and middle.max() < 50 * 1.2 * energies[0]
    # the scan ends 50 mm from the middle; its matter does not
    beyond = int((50 + BEYOND / 2) * 1000 / 800 / 3.2)
    assert (found[[max(23 - beyond, 0), min(24 + beyond, 47)]][:, 24:32] > 0.7 * middle.min()).all()


def test_a_ct_that_does_not_say_what_is_bone_is_refused(world):
    with pytest.raises(ValueError, match=r"which of its voxels are the bone\? Say --segmentation"):
        read_source(world.ct, SETTINGS)
    with pytest.raises(ValueError, match="no voxel at 3000 HU or above; its HU end at 1200"):
        read_source(world.ct, SETTINGS, ct=CTSettings(threshold=3000.0))
