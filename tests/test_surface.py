import numpy as np
import pytest
import torch

from shapefit.io.case import read_case
from shapefit.io.volume import read_labels
from shapefit.mesh import boundary_edges, closest_points, sample_surface
from shapefit.settings import SurfaceSettings
from shapefit.surface import is_manifold, surfaces_from_labels
from shapefit.volume import Volume

PELVIS = {"sacrum": 1, "hip_left": 2, "hip_right": 3}


def turn(x: float, y: float, z: float) -> np.ndarray:
    """A rotation by a vector (rad)."""
    return torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]).double()).numpy()


def grid(shape, spacing, rotation=None, origin=(0.0, 0.0, 0.0)):
    """world_from_voxel and the world mm of every voxel centre."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    affine[:3, 3] = origin
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return affine, index @ affine[:3, :3].T + affine[:3, 3]


def labels_of(array: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    affine = np.eye(4) if affine is None else affine
    return Volume(torch.from_numpy(array.astype(np.uint8)), torch.from_numpy(affine))


def assert_sound(mesh):
    assert boundary_edges(mesh.faces) == 0
    assert is_manifold(mesh.faces)
    assert mesh.volume > 0  # outward
    assert mesh.area_faces.min() > 0


# voxel edges (a negative one flips the axis), rotation: RAS, LPS as ITK writes, oblique anisotropic flipped
GRIDS = [
    ((1.0, 1.0, 1.0), None),
    ((-1.0, -1.0, 1.0), None),
    ((0.8, -1.1, 1.6), turn(0.4, -0.3, 0.7)),
    ((-0.9, -0.9, -2.0), turn(-0.2, 0.5, 0.1)),
]


@pytest.mark.parametrize(("spacing", "rotation"), GRIDS)
def test_a_digitised_ball_keeps_its_volume_and_place_on_any_grid(spacing, rotation):
    centre, radius = np.array([31.0, -212.0, 75.0]), 22.0
    shape = [int(60 / abs(s)) for s in spacing]
    affine, world = grid(shape, spacing, rotation)
    shift = centre - world.reshape(-1, 3).mean(0)
    affine[:3, 3] += shift
    ball = np.linalg.norm(world + shift - centre, axis=-1) < radius
    surfaces, findings = surfaces_from_labels(labels_of(ball, affine), {"ball": 1})
    mesh = surfaces["ball"]
    assert_sound(mesh)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    points, _ = sample_surface(mesh.vertices, mesh.faces, 5000, seed=0)
    away = np.abs(np.linalg.norm(points - centre, axis=1) - radius)
    assert away.max() < 0.5 * max(map(abs, spacing))
    assert away.mean() < 0.1 * max(map(abs, spacing))
    assert np.allclose(mesh.center_mass, centre, atol=0.05 * max(map(abs, spacing)))
    assert findings["ball"].warnings() == []


def test_an_ellipsoid_with_thin_rims_stays_within_half_a_voxel():
    radii = np.array([26.0, 17.0, 5.0])
    rotation = turn(0.3, 0.2, 0.5)
    _, world = grid((64, 64, 64), (1, 1, 1), origin=(-31.7, -31.4, -31.6))
    local = world @ rotation
    inside = ((local / radii) ** 2).sum(-1) < 1
    affine, _ = grid((1, 1, 1), (1, 1, 1), origin=(-31.7, -31.4, -31.6))
    mesh = surfaces_from_labels(labels_of(inside, affine), {"e": 1})[0]["e"]
    assert_sound(mesh)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radii.prod(), rel=0.01)
    points, _ = sample_surface(mesh.vertices, mesh.faces, 5000, seed=0)
    # distance to the ellipsoid to first order: f / |grad f|
    local = points @ rotation
    f = ((local / radii) ** 2).sum(1) - 1
    assert np.abs(f / np.linalg.norm(2 * local / radii**2, axis=1)).max() < 0.5


def test_a_wall_one_voxel_thick_is_kept():
    array = np.zeros((30, 30, 9))
    array[4:-4, 4:-4, 4] = 1
    mesh = surfaces_from_labels(labels_of(array), {"wall": 1})[0]["wall"]
    assert_sound(mesh)
    assert np.allclose(mesh.extents[:2], 22, atol=1)
    assert 0.8 * array.sum() < mesh.volume < 1.1 * array.sum()  # its edges round off; the sheet stays


def test_one_voxel_becomes_a_closed_mesh():
    array = np.zeros((3, 3, 3))
    array[1, 1, 1] = 7
    mesh = surfaces_from_labels(labels_of(array), {"speck": 7})[0]["speck"]
    assert_sound(mesh)
    assert np.allclose(mesh.center_mass, 1)


def test_decimation_reaches_the_stated_size_and_keeps_the_shape():
    _, world = grid((64, 64, 64), (1, 1, 1), origin=(-31.7, -31.4, -31.6))
    ball = labels_of(np.linalg.norm(world, axis=-1) < 28)
    for faces in (1000, 5000):
        mesh = surfaces_from_labels(ball, {"b": 1}, SurfaceSettings(faces=faces))[0]["b"]
        assert_sound(mesh)
        assert len(mesh.faces) <= faces
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 28**3, rel=0.01)


@pytest.mark.parametrize("smoothing", [0.0, 1.2])
def test_noise_becomes_closed_manifold_meshes(smoothing):
    rng = np.random.default_rng(0)
    array = rng.choice(
        4, (34, 35, 36), p=[0.1, 0.3, 0.3, 0.3]
    )  # every marching-cubes case, also at the border
    surfaces, findings = surfaces_from_labels(labels_of(array), PELVIS, SurfaceSettings(10**6, smoothing))
    for name, mesh in surfaces.items():
        assert_sound(mesh)
        assert mesh.body_count == 1
        assert findings[name].islands


def test_islands_are_left_out_and_reported():
    array = np.zeros((40, 20, 20))
    array[2:16, 3:17, 3:17] = 1
    array[20:23, 5:9, 5:9] = 1
    array[30, 10, 10] = 1
    surfaces, findings = surfaces_from_labels(labels_of(array, np.diag([2.0, 1.0, 1.0, 1.0])), {"box": 1})
    assert surfaces["box"].body_count == 1
    assert surfaces["box"].bounds[1, 0] < 33
    assert findings["box"].islands == (96.0, 2.0)
    assert "2 island(s) left out, 98 mm^3, the largest 96" in findings["box"].warnings()[0]


def test_parts_that_meet_at_a_voxel_edge_are_one_structure_unless_another_lies_between():
    array = np.zeros((24, 12, 22))
    array[2:10, 2:10, 2:10] = 1
    array[10:16, 4:8, 10:18] = 1
    surfaces, findings = surfaces_from_labels(labels_of(array), {"coccyx": 1})
    assert_sound(surfaces["coccyx"])
    assert findings["coccyx"].islands == ()
    assert np.allclose(surfaces["coccyx"].bounds, [[1.5, 1.5, 1.5], [15.5, 9.5, 17.5]], atol=0.5)
    array[10, :, 9] = array[9, :, 10] = 2
    assert surfaces_from_labels(labels_of(array), {"coccyx": 1})[1]["coccyx"].islands


def test_cavities_are_filled_and_reported_and_tunnels_stay():
    array = np.zeros((24, 24, 24))
    array[2:22, 2:22, 2:22] = 1
    array[6:9, 6:9, 6:9] = 0
    array[13:17, 13:17, :] = 0
    surfaces, findings = surfaces_from_labels(labels_of(array), {"box": 1})
    assert findings["box"].holes == (27.0,)
    assert surfaces["box"].euler_number == 0  # one tunnel
    assert surfaces["box"].volume == pytest.approx(20**3 - 16 * 20, rel=0.02)


def test_touching_structures_are_kept_apart():
    _, world = grid((50, 40, 40), (1, 1, 1), origin=(-24.3, -19.6, -19.7))
    ball = np.linalg.norm(world, axis=-1) < 17
    array = np.where(ball, np.where(world[..., 0] + 0.4 * world[..., 1] > 1, 2, 1), 0)
    surfaces, _ = surfaces_from_labels(labels_of(array), {"left": 1, "right": 2})
    left, right = surfaces["left"], surfaces["right"]
    assert left.volume + right.volume == pytest.approx(4 / 3 * np.pi * 17**3, rel=0.01)
    # how deep the vertices of one lie inside the other
    for one, other in ((left, right), (right, left)):
        near = closest_points(one.vertices, other.vertices, other.faces)
        outside = ((one.vertices - near.point) * other.face_normals[near.face]).sum(1) > 0
        assert near.distance[~outside].max(initial=0) < 0.3


def test_a_structure_cut_by_the_end_of_the_volume_is_closed_and_reported():
    _, world = grid((40, 40, 40), (1, 1, 1), origin=(-20.0, -20.0, -5.0))
    ball = np.linalg.norm(world, axis=-1) < 15
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    surfaces, findings = surfaces_from_labels(labels_of(ball, affine), {"ball": 1})
    assert_sound(surfaces["ball"])
    assert surfaces["ball"].volume == pytest.approx(ball.sum(), rel=0.01)
    assert findings["ball"].cropped == ("I",)
    assert "cut by the end of the volume at I" in findings["ball"].warnings()[0]


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ({"femur": 5}, r"pelvis.nii has no label 5 \(femur\); its labels are 1, 3"),
        ({"air": 0}, "a label of its own, and not 0"),
        ({"a": 1, "b": 1}, "a label of its own"),
        ({}, "no structure was asked for"),
    ],
)
def test_a_label_that_is_not_there_is_an_error_that_names_it(structures, message):
    array = np.zeros((6, 6, 6))
    array[1:3, 1:3, 1:3], array[4, 4, 4] = 1, 3
    with pytest.raises(ValueError, match=message):
        surfaces_from_labels(labels_of(array), structures, name="pelvis.nii")


def test_labels_that_are_not_whole_numbers_are_an_error():
    with pytest.raises(ValueError, match="whole numbers"):
        surfaces_from_labels(Volume(torch.ones(3, 3, 3), torch.eye(4, dtype=torch.float64)), {"a": 1})


@pytest.mark.parametrize("subject", ["z001", "z042"])
def test_real_label_maps_give_back_the_surfaces_that_they_were_made_from(data_dir, subject):
    folder = data_dir / "vsd" / subject
    surfaces, findings = surfaces_from_labels(read_labels(folder / "segmentation.nii.gz"), PELVIS)
    truth = read_case(folder, PELVIS).surfaces
    for name, mesh in surfaces.items():
        assert_sound(mesh)
        assert mesh.volume == pytest.approx(truth[name].volume, rel=0.01)
        there, back = (
            closest_points(sample_surface(a.vertices, a.faces, 5000, 0)[0], b.vertices, b.faces).distance
            for a, b in ((mesh, truth[name]), (truth[name], mesh))
        )
        assert max(there.mean(), back.mean()) < 0.1  # 1 mm voxels
        assert max(np.percentile(there, 99), np.percentile(back, 99)) < 0.5
        assert findings[name].faces == len(mesh.faces) == 20_000
