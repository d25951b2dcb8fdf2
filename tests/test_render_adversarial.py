"""Meshes, poses and images made to break a renderer: ties, edge-on faces, needles, extremes, wrong input."""

import numpy as np
import pytest
import torch
from brute_force import compare, pixel_centres
from closed_meshes import BACKENDS, box, camera, centred, closed_mesh, frontal, grid_torus, pose, sphere
from scipy.spatial.transform import Rotation

from shapefit import se3
from shapefit.camera import Camera, ray_lengths
from shapefit.io.mesh import read_surfaces
from shapefit.io.model import read_model
from shapefit.render import render_depths, render_mesh


def path(vertices, faces, camera_from_world, seen_by, backend="numba"):
    """The only channel (H, W) of one view."""
    return render_mesh(vertices[None], faces, camera_from_world, seen_by, backend=backend)[0, 0]


# --- ties: rays exactly through vertices, edges and along faces -----------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (16.0, -8.0)])
def test_a_box_on_the_pixel_grid_counts_every_ray_once(backend, shift):
    # the front face is 1 mm per pixel: vertices, edges and both faces' diagonals run through pixel centres
    vertices, faces = box(64, 64, 64)
    seen_by = centred(97, 96)
    vertices = vertices + torch.tensor([*shift, 0.0], dtype=torch.float64)
    image = path(vertices, faces, frontal(1056.0), seen_by, backend)
    compare(image, vertices, faces, frontal(1056.0)[0], seen_by)
    single = path(vertices.float(), faces, frontal(1056.0).float(), seen_by, backend)
    inner = np.s_[24:73, 24:73] if shift == (16.0, -8.0) else np.s_[22:75, 22:75]
    assert ((single.double() - image)[inner].abs() < 1e-3).all()
    assert single.min() >= 0 and single.max() < 70


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(3))
def test_a_relief_with_a_vertex_on_every_pixel_is_exact(backend, dtype, seed):
    # whole-numbered depths and X = (j - c) z / 1024: every vertex projects onto a pixel centre exactly
    rng = np.random.default_rng(seed)
    side, margin = 14, 3
    seen_by = centred(side + 2 * margin, side + 2 * margin)
    front, back = rng.integers(900, 1000, (side, side)), rng.integers(1000, 1100, (side, side))
    i, j = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    offset = (np.stack([j, i], -1) + margin - (side + 2 * margin) // 2) / 1024
    layers = [np.concatenate([offset * z[..., None], z[..., None]], -1).reshape(-1, 3) for z in (front, back)]
    faces = _relief(side, rng)
    vertices = torch.from_numpy(np.concatenate(layers)).to(dtype)
    image = path(vertices, faces, frontal(0.0).to(dtype), seen_by, backend)
    depth = image.double() / ray_lengths(seen_by)
    shown = np.s_[margin : margin + side, margin : margin + side]
    thickness = torch.from_numpy((back - front).astype(float))
    tolerance = 1e-7 if dtype == torch.float64 else 1e-3
    error = (depth[shown] - thickness)[1:-1, 1:-1].abs()
    assert error.max() < tolerance
    # along its side walls, edge-on, a ray may see anything between nothing and the whole wall
    assert depth.min() >= 0 and (depth[shown] <= thickness + tolerance).all()
    outside = torch.ones_like(depth, dtype=torch.bool)
    outside[shown] = False
    assert (depth[outside] == 0).all()


def _relief(side: int, rng: np.random.Generator) -> torch.Tensor:
    """Faces of a slab of two (side, side) grids of vertices, front and back, each square cut at random."""

    def squares(p, q, r, s):
        cut = rng.random(len(p)) < 0.5
        one = np.where(cut[:, None], np.stack([p, q, r], -1), np.stack([p, q, s], -1))
        return np.concatenate([one, np.where(cut[:, None], np.stack([p, r, s], -1), np.stack([q, r, s], -1))])

    index = np.arange(side * side).reshape(side, side)
    corners = [c.reshape(-1) for c in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])]
    n = side * side
    rim = np.concatenate([index[0, :-1], index[:-1, -1], index[-1, :0:-1], index[:0:-1, 0]])
    after = np.roll(rim, -1)
    return torch.from_numpy(
        np.concatenate(
            [
                squares(*corners),
                squares(*(c + n for c in corners[::-1])),
                squares(rim, after, after + n, rim + n),
            ]
        )
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ray_along_an_edge_sees_between_nothing_and_the_whole_edge(backend):
    vertices, faces = box(64, 64, 64)
    vertices = vertices + 32.0  # the optical axis is an edge, and two planes of faces hold the source
    seen_by = centred(21, 21)
    image = path(vertices, faces, frontal(1024.0), seen_by, backend)
    first, last = render_depths(vertices[None], faces, frontal(1024.0), seen_by, backend=backend)
    assert image.min() >= 0 and image.max() <= 64.1
    inside = np.s_[11:, 11:]
    assert torch.allclose(image[inside], (64 * ray_lengths(seen_by))[inside], atol=1e-9)
    assert (image[:10] == 0).all() and (image[:, :10] == 0).all()
    assert ((first == 0) | ((first >= 1024 - 1e-9) & (first <= 1088 + 1e-9))).all()
    assert ((last == 0) | ((last >= 1024 - 1e-9) & (last <= 1088 + 1e-9))).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("points", [3, 4, 11])
@pytest.mark.parametrize("seed", range(3))
def test_a_body_with_all_sides_edge_on_never_leaks(backend, points, seed):
    """A star-shaped cut of the cone of rays: every side face holds the source, to rounding.

    One of its long edges is the ray of the middle pixel, seen in many poses that round differently.
    """
    rng = np.random.default_rng(seed)
    views = 100 if backend == "numba" else 10
    radius = np.where(np.arange(2 * points) % 2, 0.5, 1.0) * 30
    angle = np.pi * (np.arange(2 * points) + 0.3) / points
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(2 * points, 800.0)], -1)
    corners = np.concatenate([outline, [[0, 0, 800.0]]])  # the centre closes the star as a fan
    n = len(corners)
    k = np.arange(2 * points)
    after, centre = (k + 1) % (2 * points), np.full(2 * points, n - 1)
    fan = np.stack([centre, after, k], -1)
    sides = np.concatenate([np.stack([k, after, after + n], -1), np.stack([k, after + n, k + n], -1)])
    faces = torch.from_numpy(np.concatenate([fan, fan[:, ::-1] + n, sides]))
    in_camera = np.concatenate([corners, 1.1 * corners]) @ _onto_axis(outline[1]).T
    motions = torch.from_numpy(_motions(rng, views))
    vertices = se3.transform(motions, torch.from_numpy(in_camera))
    seen_by = centred(23, 23, sdd=1000.0, pitch=4.0)
    images = render_mesh(vertices, faces, se3.inverse(motions), seen_by, backend=backend)[:, 0]
    depth = images / ray_lengths(seen_by)
    assert depth.min() >= -1e-6 and depth.max() <= 88.3  # 0.1 x the depth of the outline's far corners
    for image, turned, motion in zip(images[:3], vertices, se3.inverse(motions), strict=False):
        compare(image, turned, faces, motion, seen_by)


def _onto_axis(point):
    """The rotation that turns a point onto the z axis."""
    return Rotation.align_vectors([[0, 0, 1]], [point / np.linalg.norm(point)])[0].as_matrix()


def _motions(rng, count):
    motions = np.tile(np.eye(4), (count, 1, 1))
    motions[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    motions[:, :3, 3] = rng.uniform(-500, 500, (count, 3))
    return motions


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_within_denormal_distances_divide_safely(backend, axis):
    # two rings of vertices 1e-300 px or less from the first row or column, at either side of it and on it
    vertices, faces = grid_torus(60.0, 25.0, 24, 8)
    rings = vertices[:, 2].abs() < 1e-6
    tiny = torch.tensor([0.0, 5e-324, -5e-324, 1e-310, -1e-310, 1e-300, -1e-300, 1e-160, -1e-160, 1e-20])
    vertices[rings, 2] = tiny.double()[torch.arange(int(rings.sum())) % len(tiny)]
    vertices = vertices[:, [2, 0, 1] if axis == 0 else [1, 2, 0]]
    height, width = (1, 15) if axis else (15, 1)
    seen_by = Camera(1000.0, 10.0, 10.0, 0.0, 0.0, height, width)
    v = vertices[None].clone().requires_grad_()
    image = render_mesh(v, faces, frontal(700.0), seen_by, backend=backend)
    compare(image.detach(), vertices, faces, frontal(700.0)[0], seen_by)
    (gradient,) = torch.autograd.grad(image.sum(), v)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_wall_within_denormal_distances_of_a_pixel_column_has_finite_depths(backend, axis):
    # edge-on, and 5e-324 to 1e-300 px wide where column (or row) 0 passes it
    vertices, faces = box(64, 64, 64)
    x0, y0 = (-10.0, -2.7) if axis == 0 else (-2.7, -10.0)
    seen_by = Camera(1024.0, 1.0, 1.0, x0, y0, 21, 21)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = vertices + 32
        wall = moved[:, axis] == 0
        moved[wall, axis] = torch.from_numpy(rng.choice([0.0, 5e-324, -5e-324, 1e-310, -1e-310, 1e-300], 4))
        v = moved[None].requires_grad_()
        image = render_mesh(v, faces, frontal(1024.0), seen_by, backend=backend)
        first, last = render_depths(v, faces, frontal(1024.0), seen_by, backend=backend)
        assert image.min() >= 0 and image.max() < 65
        assert torch.isfinite(torch.autograd.grad((image + first + last).sum(), v)[0]).all()


# --- extremes of size -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [(1e4, 1.0, 1e-4), (1e-4, 1e4, 1.0), (1e4, 1e4, 1e-4), (1e-4, 1e-4, 1.0)])
def test_needles_as_long_as_the_room_and_thin_as_atoms_are_exact(backend, scale):
    base, faces = sphere(2, 60.0)
    vertices = base * torch.tensor(scale, dtype=torch.float64)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        seen_by = camera(rng, 20, 24)
        # turned only about the beam, so that nothing reaches the source
        turn = torch.tensor([[0, 0, rng.uniform(-3, 3), 0, 0, 0]], dtype=torch.float64)
        camera_from_world = se3.exp(turn)
        target = np.array([rng.uniform(6, 18), rng.uniform(6, 14), 1.0])
        camera_from_world[0, :3, 3] = torch.from_numpy(
            np.linalg.solve(seen_by.intrinsics().numpy(), target) * 700
        )
        image = path(vertices, faces, camera_from_world, seen_by, backend)
        compare(image, vertices, faces, camera_from_world[0], seen_by)


def test_two_million_faces_smaller_than_pixels_cast_the_chords_of_the_torus():
    vertices, faces = grid_torus(60.0, 25.0, 1000, 1000)
    seen_by = Camera(1020.0, 5.0, 5.0, 0.7, -0.4, 64, 64)
    turn = se3.exp(torch.tensor([[0.9, 0.4, 0.2, 0.0, 0.0, 0.0]], dtype=torch.float64))
    camera_from_world = frontal(700.0) @ turn
    image = path(vertices, faces, camera_from_world, seen_by)
    chord, closest = _torus_chords(60.0, 25.0, se3.inverse(camera_from_world[0]).numpy(), seen_by)
    error = np.abs(image.numpy() - chord.reshape(64, 64)).reshape(-1)
    assert np.median(error[chord > 0]) < 1e-3  # chords of facets are that short of the surface
    assert error[closest > 1.0].max() < 0.02 and error.max() < 0.2 and image.min() >= 0


def _torus_chords(major, minor, world_from_camera, seen_by):
    """mm of each ray inside a torus about z, by the roots of its quartic, and how far apart these lie."""
    u, v = pixel_centres(seen_by)
    d = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(seen_by.intrinsics().numpy()).T
    d = d / np.linalg.norm(d, axis=-1, keepdims=True) @ world_from_camera[:3, :3].T
    o = world_from_camera[:3, 3]
    o = o - (d @ o)[:, None] * d  # from the point of the ray nearest the centre: small numbers
    k = (o * o).sum(-1) + major**2 - minor**2
    flat = 4 * major**2
    coefficients = np.stack([
        np.ones(len(d)), np.zeros(len(d)), 2 * k - flat * (d[:, 0] ** 2 + d[:, 1] ** 2),
        -2 * flat * (o[:, 0] * d[:, 0] + o[:, 1] * d[:, 1]),
        k**2 - flat * (o[:, 0] ** 2 + o[:, 1] ** 2),
    ], -1)  # fmt: skip
    chord, closest = np.zeros(len(d)), np.full(len(d), np.inf)
    for p, row in enumerate(coefficients):
        roots = np.roots(row)
        real = np.sort(roots.real[np.abs(roots.imag) < 1e-6])
        if len(real) % 2 == 0:
            chord[p] = (real[1::2] - real[::2]).sum()
        gaps = np.abs(roots[:, None] - roots)[np.triu_indices(4, 1)]
        closest[p] = min(gaps.min(), 2 * np.abs(roots.imag[np.abs(roots.imag) >= 1e-6]).min(initial=np.inf))
    return chord, closest


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_face_may_fill_the_detector(backend):
    seen_by = Camera(1000.0, 1.0, 1.3, 3.0, -2.0, 30, 34)
    wide = 1e5 * torch.tensor([[0.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]).double()
    front = torch.cat([wide, torch.tensor([[500.0], [510.0], [520.0]]).double()], 1)
    vertices = torch.cat([front, torch.tensor([[30.0, -20.0, 900.0]]).double()])
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]])
    if torch.linalg.det(vertices[1:] - vertices[0]) > 0:
        faces = faces.flip(1)
    image = path(vertices, faces, frontal(0.0), seen_by, backend)
    compare(image, vertices, faces, frontal(0.0)[0], seen_by)
    assert image.min() > 100


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1e3, 1e6, 1e9, 1e12])
def test_a_plate_as_wide_as_the_sea_has_its_thickness_everywhere(backend, width):
    vertices, faces = box(width, width, 40.0)
    seen_by = Camera(1000.0, 2.0, 2.0, 11.0, 5.0, 30, 26)
    image = path(vertices, faces, frontal(700.0), seen_by, backend)
    # the corners lie at up to 1e12 px: what is left of 16 digits
    tolerance = 1e-9 + 1e-14 * width
    assert (image - 40 * ray_lengths(seen_by)).abs().max() < tolerance


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, -1.0)])
@pytest.mark.parametrize("far", [200.0, 1e4, 1e6, 1e9])
def test_what_lies_beyond_the_field_leaves_no_trace(backend, where, far):
    vertices, faces = sphere(2, 50.0)
    seen_by = Camera(1000.0, 1.0, 1.0, 0.0, 0.0, 40, 50)
    moved = vertices + far * torch.tensor([*where, 0.0])
    v = moved[None].clone().requires_grad_()
    image = render_mesh(v, faces, frontal(700.0), seen_by, backend=backend)
    first, last = render_depths(v, faces, frontal(700.0), seen_by, backend=backend)
    assert (image == 0).all() and (first == 0).all() and (last == 0).all()
    (gradient,) = torch.autograd.grad((image + first + last).sum(), v)
    assert (gradient == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_body_larger_than_the_field_is_exact_where_it_is_seen(backend, seed):
    rng = np.random.default_rng(seed)
    vertices, faces = closed_mesh("dented sphere", seed)
    seen_by = Camera(1000.0, 1.0, 0.8, rng.uniform(-40, 40), rng.uniform(-40, 40), 20, 24)
    camera_from_world = pose(rng, seen_by)
    image = path(vertices, faces, camera_from_world, seen_by, backend)
    compare(image, vertices, faces, camera_from_world[0], seen_by)
    assert (image > 1).double().mean() > 0.3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (2, 2)])
def test_images_of_one_row_or_column_are_parts_of_larger_ones(backend, size):
    vertices, faces = closed_mesh("union", 0)
    height, width = size
    camera_from_world = se3.exp(torch.tensor([[0.3, 0.2, 0.1, 5.0, 3.0, 700.0]], dtype=torch.float64))
    seen_by = Camera(1020.0, 3.0, 3.0, 4.0, -7.0, height, width)
    image = path(vertices, faces, camera_from_world, seen_by, backend)
    assert image.shape == size
    compare(image, vertices, faces, camera_from_world[0], seen_by)
    grown = Camera(1020.0, 3.0, 3.0, 4.0, -7.0, height + 10, width + 10)
    large = path(vertices, faces, camera_from_world, grown, backend)
    assert (image - large[5 : 5 + height, 5 : 5 + width]).abs().max() < 1e-8


def test_sixteen_million_pixels_hold_the_same_box():
    vertices, faces = box(200, 190, 60)
    seen_by = Camera(1020.0, 0.08, 0.08, 3.0, -5.0, 4096, 4096)
    turn = se3.exp(torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.0, 0.0]], dtype=torch.float64))
    camera_from_world = (frontal(650.0) @ turn).float()
    image = path(vertices.float(), faces, camera_from_world, seen_by)
    assert image.shape == (4096, 4096) and image.min() >= 0
    i, j = 5 + 255 * np.arange(17), 11 + 239 * np.arange(18)
    small = Camera(1020.0, 0.08 * 239, 0.08 * 255, 0.0, 0.0, 17, 18)
    cx, cy = 4095 / 2 + 3 / 0.08, 4095 / 2 - 5 / 0.08
    small = Camera(
        1020.0, 0.08 * 239, 0.08 * 255, ((cx - 11) / 239 - 8.5) * 0.08 * 239,
        ((cy - 5) / 255 - 8.0) * 0.08 * 255, 17, 18,
    )  # fmt: skip
    truth = path(vertices, faces, camera_from_world.double(), small)
    assert (image[i][:, j] - truth).abs().max() < 0.02 and (truth > 0).double().mean() > 0.5


# --- the least meshes, and wrong input ------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_faces_back_to_back_hold_nothing(backend):
    vertices = torch.tensor([[0.0, -40.0, 0.0], [30.0, 30.0, 9.0], [-30.0, 30.0, 5.0]]).double()
    faces = torch.tensor([[0, 1, 2], [2, 1, 0]])
    seen_by = centred(41, 41, pitch=3.0)
    for camera_from_world in (frontal(700.0), pose(np.random.default_rng(0), seen_by)):
        image = path(vertices, faces, camera_from_world, seen_by, backend)
        first, last = render_depths(vertices[None], faces, camera_from_world, seen_by, backend=backend)
        assert image.abs().max() < 1e-9
        assert (first - last).abs().max() < 1e-9 and (first > 0).any()


def test_a_single_face_has_no_inside():
    vertices = torch.tensor([[[0.0, -40.0, 0.0], [30.0, 30.0, 9.0], [-30.0, 30.0, 5.0]]]).double()
    with pytest.raises(ValueError, match="not closed: 3 boundary edges"):
        render_mesh(vertices, torch.tensor([[0, 1, 2]]), frontal(700.0), centred(9, 9))
    with pytest.raises(ValueError, match="not closed: 3 boundary edges"):
        render_depths(vertices, torch.tensor([[0, 1, 2]]), frontal(700.0), centred(9, 9))


@pytest.mark.parametrize("kind", ["torus", "union", "components"])
def test_a_missing_or_turned_face_is_an_error_that_counts_its_edges(kind):
    vertices, faces = closed_mesh(kind, 0)
    turned = faces.clone()
    turned[7] = turned[7].flip(0)
    for broken, edges in ((faces[1:], 3), (turned, 6)):
        with pytest.raises(ValueError, match=f"{edges} boundary edges"):
            render_mesh(vertices[None], broken, frontal(700.0), centred(9, 9))


@pytest.mark.parametrize("depth", [0.0, 40.0, 79.0, -50.0, -700.0])
def test_the_source_within_or_beyond_the_mesh_is_an_error(depth):
    # inside the ball, a face through the source plane, all of it behind
    vertices, faces = sphere(2)
    for render in (render_mesh, render_depths):
        with pytest.raises(ValueError, match="source"):
            render(vertices[None], faces, frontal(depth), centred(9, 9))


@pytest.mark.parametrize("nearest", [0.0, -0.0, 1e-9, 1e-4, -1e-300])
def test_a_vertex_on_the_source_plane_is_an_error(nearest):
    vertices, faces = box(20.0, 20.0, 20.0)
    with pytest.raises(ValueError, match="source"):
        render_mesh((vertices + 10)[None], faces, frontal(nearest), centred(9, 9))
    near = render_mesh((vertices + 10)[None], faces, frontal(0.01), centred(9, 9))
    assert torch.isfinite(near).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vertices_that_are_not_finite_are_an_error(value, axis, dtype):
    vertices, faces = sphere(1)
    vertices = vertices.to(dtype)
    vertices[5, axis] = value
    for render in (render_mesh, render_depths):
        with pytest.raises(ValueError, match="finite"):
            render(vertices[None], faces, frontal(700.0).to(dtype), centred(9, 9))


# --- single precision -----------------------------------------------------------------------------------


def single_precision_errors(vertices, faces, structure, height=128, width=128):
    """|float32 - float64| of 60 random views, mm."""
    seen_by = Camera(1020.0, 3.2, 3.1, 6.0, -4.0, height, width)
    rng = np.random.default_rng(5)
    poses = np.tile(np.eye(4), (60, 1, 1))
    poses[:, :3, :3] = Rotation.random(60, rng=rng).as_matrix()
    poses[:, :3, 3] = np.stack([*rng.uniform(-20, 20, (2, 60)), rng.uniform(650, 800, 60)], -1)
    camera_from_world = torch.from_numpy(poses)
    truth = render_mesh(vertices.expand(60, -1, -1), faces, camera_from_world, seen_by, structure)
    single = render_mesh(
        vertices.float().expand(60, -1, -1), faces, camera_from_world.float(), seen_by, structure
    )
    assert single.dtype == torch.float32
    assert truth.min() >= -1e-9
    return (single - truth).abs(), truth


def check_single_precision(vertices, faces, structure):
    error, truth = single_precision_errors(vertices, faces, structure)
    hit = truth > 0
    assert hit.double().mean() > 0.05
    assert error[hit].median() <= 0.01  # of the pixels that show bone, so the empty ones cannot flatter
    assert (error > 0.1).double().mean() <= 1e-4
    assert (error[~hit] < 1).all()  # nothing leaks


def test_single_precision_stays_near_the_truth_on_sixty_views_of_a_model_pelvis():
    model = read_model("pelvis")
    check_single_precision(model.mean, model.faces, model.structure)


def test_single_precision_stays_near_the_truth_on_sixty_views_of_a_real_pelvis(data_dir):
    vertices, faces, structure = [], [], []
    for number, mesh in enumerate(read_surfaces(data_dir / "vsd" / "z001").values()):
        faces.append(np.array(mesh.faces) + sum(map(len, vertices)))
        vertices.append(np.array(mesh.vertices))
        structure.append(np.full(len(mesh.faces), number))
    corners, index, number = (torch.from_numpy(np.concatenate(x)) for x in (vertices, faces, structure))
    check_single_precision(corners - corners.mean(0), index, number)
