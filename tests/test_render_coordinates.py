"""Scene coordinates: what is written on a mesh, as rays see it."""

import numpy as np
import pytest
import torch
from closed_meshes import KINDS, camera, closed_mesh, frontal, pose
from twins import BACKENDS

from shapefit import se3
from shapefit.camera import Camera
from shapefit.render import render_depths
from shapefit.render.coordinates import render_coordinates

SIDE = {"torch": 20, "numba": 32, "triton": 8}


def scene(kind, seed, side=32):
    rng = np.random.default_rng(seed)
    vertices, faces = closed_mesh(kind, seed)
    seen_by = camera(rng, side, side)
    return vertices, faces, seen_by, pose(rng, seen_by)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["torus", "union", "components"])
def test_a_point_of_the_surface_is_seen_where_it_projects(kind, backend):
    vertices, faces, seen_by, from_world = scene(kind, 1, SIDE[backend])
    seen = render_coordinates(vertices[None], faces, from_world, seen_by, vertices, backend=backend)
    covered = seen.hit[0, 0]
    assert covered.any()
    for points in (seen.entry, seen.exit):
        places = seen_by.project(from_world, points[0][:, covered].T[None])[0]
        torch.testing.assert_close(places, covered.nonzero().flip(1).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_lie_at_the_depths_of_entry_and_exit(kind):
    vertices, faces, seen_by, from_world = scene(kind, 2)
    seen = render_coordinates(vertices[None], faces, from_world, seen_by, vertices)
    depths = render_depths(vertices[None], faces, from_world, seen_by)
    for points, depth in zip((seen.entry, seen.exit), depths, strict=True):
        placed = se3.transform(from_world[0], points[0].flatten(1).T)[:, 2].view(depth[0, 0].shape)
        hit = depth[0, 0] > 0
        torch.testing.assert_close(hit, seen.hit[0, 0])
        # where a ray grazes a face, a rounding of the place is a larger one of the depth
        torch.testing.assert_close(placed[hit], depth[0, 0][hit], atol=1e-3, rtol=0)
        assert (points[0][:, ~hit] == 0).all()


def test_coordinates_stay_with_the_bone_when_it_moves_and_bends():
    vertices, faces, seen_by, from_world = scene("sphere", 3)
    turned = se3.exp(torch.tensor([0.2, -0.3, 0.1, 5.0, -8.0, 3.0], dtype=torch.float64))
    moved = se3.transform(turned, vertices)
    seen = render_coordinates(vertices[None], faces, from_world, seen_by, vertices)
    same = render_coordinates(moved[None], faces, from_world @ se3.inverse(turned), seen_by, vertices)
    both = seen.hit[0, 0] & same.hit[0, 0]
    assert (seen.hit != same.hit).sum() <= 2  # a ray that just touches may be rounded away
    torch.testing.assert_close(seen.entry[0][:, both], same.entry[0][:, both], atol=1e-5, rtol=0)
    # twice the size at twice the distance is the same picture, of the same points of the template
    double = from_world.clone()
    double[:, :3, 3] *= 2
    large = render_coordinates(2 * vertices[None], faces, double, seen_by, vertices)
    torch.testing.assert_close(seen.exit[0][:, both], large.exit[0][:, both], atol=1e-5, rtol=0)


def test_the_first_and_the_last_of_several_structures_are_seen():
    vertices, faces = closed_mesh("sphere", 0)
    radius = float(vertices.norm(dim=1).max())
    apart = torch.tensor([0.0, 0.0, 3 * radius], dtype=torch.float64)
    both = torch.cat([vertices, vertices + apart])
    both_faces = torch.cat([faces, faces + len(vertices)])
    structure = torch.arange(2).repeat_interleave(len(faces))
    number = torch.arange(2.0).repeat_interleave(len(vertices))[:, None]
    seen_by = Camera(1000.0, 8.0, 8.0, 0.0, 0.0, 31, 31)
    seen = render_coordinates(both[None], both_faces, frontal(700.0), seen_by, number, structure)
    through_both = seen.hit[0].all(0)
    assert through_both.any()
    assert (seen.entry[0, 0][through_both] == 0).all()
    assert (seen.exit[0, 0][through_both] > 1 - 1e-6).all()


def test_values_keep_their_dtype_and_number():
    vertices, faces, seen_by, from_world = scene("box", 4)
    values = torch.rand(len(vertices), 5)
    seen = render_coordinates(vertices[None], faces, from_world, seen_by, values)
    assert seen.entry.shape == (1, 5, 32, 32) and seen.entry.dtype == torch.float32
    hit = seen.hit[0, 0]
    # between the vertices' values, never beyond
    assert (seen.entry[0][:, hit] >= values.amin(0)[:, None] - 1e-6).all()
    assert (seen.entry[0][:, hit] <= values.amax(0)[:, None] + 1e-6).all()


def test_an_open_mesh_is_refused():
    vertices, faces, seen_by, from_world = scene("box", 5)
    with pytest.raises(ValueError, match="not closed"):
        render_coordinates(vertices[None], faces[1:], from_world, seen_by, vertices)
