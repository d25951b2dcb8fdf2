import math

import numpy as np
import pytest
import torch
import trimesh

from shapefit import mesh

SPHERE = trimesh.creation.icosphere(subdivisions=4, radius=50.0)


def tensors(shape: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(np.array(shape.vertices)), torch.tensor(np.array(shape.faces))


def brute_force_distance(points: np.ndarray, shape: trimesh.Trimesh) -> np.ndarray:
    """Distance to every triangle: the plane where the foot falls inside, else the nearest of three edges."""
    a, b, c = (shape.vertices[shape.faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    best = np.full(len(points), np.inf)
    for n, point in enumerate(points):
        height = ((point - a) * normal).sum(1)
        foot = point - height[:, None] * normal
        inside = np.ones(len(a), dtype=bool)
        edge = np.full(len(a), np.inf)
        for p, q in ((a, b), (b, c), (c, a)):
            along = q - p
            inside &= (np.cross(along, foot - p) * normal).sum(1) >= 0
            share = np.clip(((point - p) * along).sum(1) / (along * along).sum(1), 0, 1)
            edge = np.minimum(edge, np.linalg.norm(point - p - share[:, None] * along, axis=1))
        best[n] = np.where(inside, np.abs(height), edge).min()
    return best


def test_area_and_volume_of_a_box_are_exact():
    vertices, faces = tensors(trimesh.creation.box(extents=(2.0, 3.0, 5.0)))
    assert float(mesh.area(vertices, faces)) == pytest.approx(62.0)
    assert float(mesh.volume(vertices, faces)) == pytest.approx(30.0)
    assert float(mesh.volume(vertices + 1000.0, faces)) == pytest.approx(30.0)  # wherever it is
    assert float(mesh.volume(vertices, faces.flip(1))) == pytest.approx(-30.0)  # inside out


def test_area_and_volume_scale_as_a_batch():
    vertices, faces = tensors(SPHERE)
    batch = torch.stack([vertices, 2 * vertices])
    area, volume = mesh.area(batch, faces), mesh.volume(batch, faces)
    assert float(area[1] / area[0]) == pytest.approx(4.0)
    assert float(volume[1] / volume[0]) == pytest.approx(8.0)


def test_the_gradient_of_the_volume_is_a_third_of_the_area_vectors():
    vertices, faces = tensors(trimesh.creation.icosphere(subdivisions=2, radius=50.0))
    vertices.requires_grad_()
    (gradient,) = torch.autograd.grad(mesh.volume(vertices, faces), vertices)
    normals = mesh.face_normals(vertices.detach(), faces, unit=False) / 2
    expected = torch.zeros_like(gradient)
    for k in range(3):
        expected.index_add_(0, faces[:, k], normals / 3)
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-9)


def test_normals_of_a_sphere_point_outwards():
    vertices, faces = tensors(SPHERE)
    centres = vertices[faces].mean(1)
    along = torch.nn.functional.normalize(centres, dim=1)
    assert float((mesh.face_normals(vertices, faces) * along).sum(1).min()) > 0.999
    outwards = torch.nn.functional.normalize(vertices, dim=1)
    assert float((mesh.vertex_normals(vertices, faces) * outwards).sum(1).min()) > 0.999


def test_one_mesh_in_many_poses_has_the_normals_and_gradients_of_its_copies():
    vertices, faces = tensors(trimesh.creation.icosphere(subdivisions=1, radius=50.0))
    weight = torch.randn(4, *vertices.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for copied in (False, True):
        given = vertices.clone().requires_grad_()
        many = given.expand(4, -1, -1)
        normals = mesh.vertex_normals(many.clone() if copied else many, faces)
        (gradient,) = torch.autograd.grad((normals * weight).sum(), given)
        results.append((normals.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    areas = mesh.face_normals(vertices, faces, unit=False).norm(dim=1) / 2
    assert float(areas.sum()) == pytest.approx(float(mesh.area(vertices, faces)))


def test_every_edge_left_without_a_partner_is_counted():
    faces = np.array(trimesh.creation.icosphere(subdivisions=2).faces)
    assert mesh.boundary_edges(faces) == 0
    assert mesh.boundary_edges(faces[1:]) == 3  # one face taken out
    assert mesh.boundary_edges(torch.tensor(faces[2:])) in (4, 6)
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    assert mesh.boundary_edges(turned) == 6  # each of its edges runs twice in the same direction
    assert mesh.boundary_edges(np.concatenate([faces, faces + faces.max() + 1])) == 0


def test_an_open_mesh_is_refused_with_its_name_and_count():
    vertices, faces = tensors(SPHERE)
    mesh.require_closed(vertices, faces)
    with pytest.raises(ValueError, match=r"hip_left\.ply is not closed: 3 boundary edges"):
        mesh.require_closed(vertices, faces[1:], "hip_left.ply")
    with pytest.raises(ValueError, match="inside out"):
        mesh.require_closed(vertices, faces.flip(1))
    with pytest.raises(ValueError, match="no faces"):
        mesh.require_closed(vertices, faces[:0])
    with pytest.raises(ValueError, match="beyond"):
        mesh.require_closed(vertices[:-1], faces)
    broken = vertices.clone()
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match="1 vertices that are not finite"):
        mesh.require_closed(broken, faces)


def test_samples_lie_on_their_faces_and_are_uniform_in_area():
    # a cone has faces of very different sizes: sampling by face or by vertex would show
    shape = trimesh.creation.cone(radius=30.0, height=90.0, sections=64)
    vertices, faces = np.array(shape.vertices), np.array(shape.faces)
    points, face = mesh.sample_surface(vertices, faces, 20_000, seed=3)
    height = ((points - vertices[faces[face, 0]]) * shape.face_normals[face]).sum(1)
    assert np.abs(height).max() < 1e-9
    base = shape.face_normals[:, 2] < -0.99
    share = shape.area_faces[base].sum() / shape.area
    assert base[face].mean() == pytest.approx(share, abs=0.002)
    # on the mantle the area above height z is (1 - z / h)^2 of the whole
    z = points[~base[face], 2] / 90.0
    for level in (0.25, 0.5, 0.75):
        assert (z > level).mean() == pytest.approx((1 - level) ** 2, abs=0.01)
    # within a face: the barycentric thirds carry equal shares
    assert points[~base[face], 0].mean() == pytest.approx(0.0, abs=0.3)


def test_sampling_depends_on_its_seed_alone():
    vertices, faces = np.array(SPHERE.vertices), np.array(SPHERE.faces)
    first, _ = mesh.sample_surface(vertices, faces, 100, seed=1)
    again, _ = mesh.sample_surface(vertices, faces, 100, seed=1)
    other, _ = mesh.sample_surface(vertices, faces, 100, seed=2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "shape",
    [
        trimesh.creation.icosphere(subdivisions=2, radius=20.0),
        trimesh.creation.box(extents=(10.0, 40.0, 2.0)),
        trimesh.creation.torus(major_radius=20.0, minor_radius=4.0, major_sections=24, minor_sections=12),
    ],
    ids=["sphere", "plate", "torus"],
)
def test_closest_points_agree_with_brute_force(shape):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 3)) * 25.0
    found = mesh.closest_points(points, shape.vertices, shape.faces)
    np.testing.assert_allclose(found.distance, brute_force_distance(points, shape), atol=1e-9)
    # the record is consistent: the point is what face and barycentric weights say, at that distance
    corners = shape.vertices[shape.faces[found.face]]
    np.testing.assert_allclose(found.point, (found.barycentric[:, :, None] * corners).sum(1), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(points - found.point, axis=1), found.distance, atol=1e-9)
    assert found.barycentric.min() >= -1e-12
    np.testing.assert_allclose(found.barycentric.sum(1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    "corners",
    [
        [[0, 0, 0], [0, 0, 0], [1, 2, 3]],
        [[0, 0, 0], [1, 2, 3], [0, 0, 0]],
        [[1, 2, 3], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0.5, 1, 1.5], [1, 2, 3]],
        [[0, 0, 0], [1, 2, 3], [0.5, 1, 1.5]],
    ],
)
def test_a_face_without_area_is_as_near_as_its_longest_edge(corners):
    points, end = np.random.default_rng(0).normal(size=(500, 3)) * 3, np.array([1.0, 2.0, 3.0])
    along = np.clip(points @ end / (end @ end), 0, 1)
    found = mesh.closest_points(points, np.array(corners, dtype=float), np.array([[0, 1, 2]]))
    assert np.allclose(found.distance, np.linalg.norm(points - along[:, None] * end, axis=1), atol=1e-12)


def test_a_point_on_the_surface_is_its_own_closest_point():
    points, _ = mesh.sample_surface(np.array(SPHERE.vertices), np.array(SPHERE.faces), 200, seed=0)
    on = np.concatenate([points, SPHERE.vertices[:50]])
    assert mesh.closest_points(on, SPHERE.vertices, SPHERE.faces).distance.max() < 1e-9
