import numpy as np
import pytest
import torch
import trimesh

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.holes import rims, triangulated, width
from shapefit.mesh import boundary_edges, require_closed
from shapefit.render import render_mesh
from shapefit.repair import repair_mesh

BOX = trimesh.creation.box(extents=(20.0, 30.0, 10.0))


def bone(subdivisions: int = 4) -> trimesh.Trimesh:
    """A closed surface without symmetry and with a waist."""
    shape = trimesh.creation.icosphere(subdivisions, 30.0)
    x, y, z = shape.vertices.T
    waist = 0.6 + 0.4 * (z / 30) ** 2
    shape.vertices = np.column_stack([x * waist + 0.1 * z, 0.7 * y * waist, 1.4 * z])
    return shape


def without(shape: trimesh.Trimesh, gone: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(shape.vertices, shape.faces[~gone], process=False)


def one_by_one(shape: trimesh.Trimesh) -> trimesh.Trimesh:
    """Every face with three vertices of its own, as STL has it."""
    return trimesh.Trimesh(
        shape.triangles.reshape(-1, 3), np.arange(3 * len(shape.faces)).reshape(-1, 3), process=False
    )


def paths(shape: trimesh.Trimesh) -> torch.Tensor:
    camera = Camera(sdd=1000.0, delx=1.5, dely=1.5, x0=0.0, y0=0.0, height=64, width=64)
    turn = se3.exp(torch.tensor([0.3, 0.2, 0.1, 0, 0, 0], dtype=torch.float64))
    pose = turn @ world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0)
    return render_mesh(shape, se3.inverse(pose)[None], camera)


def test_a_sound_mesh_stays_as_it_is():
    shape = bone(2)
    repaired, findings = repair_mesh(shape)
    assert np.array_equal(repaired.vertices, shape.vertices) and np.array_equal(repaired.faces, shape.faces)
    assert findings.warnings() == []
    assert findings.volume[0] == findings.volume[1] == pytest.approx(shape.volume)


def test_a_box_without_a_face_gets_it_back():
    for gone in range(12):
        repaired, findings = repair_mesh(without(BOX, np.arange(12) == gone), max_hole=40.0)
        assert repaired.volume == pytest.approx(BOX.volume) and repaired.area == pytest.approx(BOX.area)
        assert (findings.boundary_edges, len(findings.holes)) == (3, 1)
        assert findings.area[1] - findings.area[0] == pytest.approx(BOX.area_faces[gone])
    _, findings = repair_mesh(without(BOX, np.arange(12) == 0), max_hole=100.0)
    (sentence,) = findings.warnings()
    assert "repaired (3 boundary edges): 1 hole(s) filled, the largest" in sentence and "mm^3" in sentence


def test_the_whole_side_of_a_box_is_closed_flat():
    side = BOX.face_normals[:, 2] > 0.9
    with pytest.raises(ValueError, match=r"lid\.ply has 1 hole\(s\) wider than 20 mm, the largest 36 mm"):
        repair_mesh(without(BOX, side), name="lid.ply")
    repaired, _ = repair_mesh(without(BOX, side), max_hole=40.0)
    assert repaired.volume == pytest.approx(BOX.volume) and repaired.area == pytest.approx(BOX.area)


def test_an_stl_soup_is_put_together():
    shape = bone(3)
    soup = one_by_one(shape)
    rng = np.random.default_rng(0)
    soup.vertices = soup.vertices + rng.uniform(
        -1e-4, 1e-4, soup.vertices.shape
    )  # what an ASCII file's digits leave
    assert boundary_edges(soup) == 3 * len(shape.faces)
    repaired, findings = repair_mesh(soup)
    assert len(repaired.vertices) == len(shape.vertices)
    assert findings.merged == len(soup.vertices) - len(shape.vertices)
    assert findings.displacement < 1e-3 and findings.holes == ()
    assert repaired.volume == pytest.approx(shape.volume, rel=1e-5)


def test_faces_turned_against_their_neighbours_are_turned_back():
    shape = bone(3)
    turned = np.random.default_rng(1).random(len(shape.faces)) < 0.3
    faces = np.where(turned[:, None], shape.faces[:, ::-1], shape.faces)
    repaired, findings = repair_mesh(trimesh.Trimesh(shape.vertices, faces, process=False))
    assert findings.turned == turned.sum() and findings.holes == ()
    assert repaired.volume == pytest.approx(shape.volume)
    # even where most are wrong
    inverted, _ = repair_mesh(trimesh.Trimesh(shape.vertices, faces[:, ::-1], process=False))
    assert inverted.volume == pytest.approx(shape.volume)


def test_a_mesh_that_is_inside_out_is_turned():
    shape = bone(2)
    repaired, findings = repair_mesh(trimesh.Trimesh(shape.vertices, shape.faces[:, ::-1], process=False))
    assert repaired.volume == pytest.approx(shape.volume)
    assert findings.turned == len(shape.faces)


def test_doubled_and_flat_faces_are_removed():
    doubled = np.concatenate([BOX.faces, BOX.faces[:3], BOX.faces[5:6, ::-1], [[0, 0, 1], [2, 1, 2]]])
    repaired, findings = repair_mesh(trimesh.Trimesh(BOX.vertices, doubled, process=False))
    assert len(repaired.faces) == 12 and findings.removed == 6
    assert repaired.volume == pytest.approx(BOX.volume)
    # a mesh whose every face is there with its back, as some programs write it to be seen from both sides
    both = np.concatenate([BOX.faces, BOX.faces[:, ::-1]])
    repaired, _ = repair_mesh(trimesh.Trimesh(BOX.vertices, both, process=False))
    assert len(repaired.faces) == 12 and repaired.volume == pytest.approx(BOX.volume)


def test_an_edge_meets_its_neighbours_vertex():
    # two faces of the box are quartered, their neighbours are not: vertices lie on edges
    top = np.flatnonzero(BOX.face_normals[:, 2] > 0.9)
    vertices, faces = trimesh.remesh.subdivide(BOX.vertices, BOX.faces, face_index=top)
    kept = np.delete(BOX.faces, top, axis=0)
    assert len(faces) == len(kept) + 8
    broken = trimesh.Trimesh(vertices, faces, process=False)
    assert boundary_edges(broken) > 0
    repaired, findings = repair_mesh(broken)
    assert findings.split == 4 and findings.holes == ()
    assert repaired.volume == pytest.approx(BOX.volume) and repaired.area == pytest.approx(BOX.area)
    assert repaired.area_faces.min() > 1  # no slivers


def test_each_of_several_pieces_is_mended_and_turned_by_itself():
    left, right = bone(2), bone(2)
    right.apply_translation([100.0, 0, 0])
    right.invert()
    pair = trimesh.util.concatenate([without(left, np.arange(len(left.faces)) < 2), right])
    repaired, findings = repair_mesh(pair)
    assert repaired.volume == pytest.approx(2 * left.volume, rel=1e-2)
    assert all(piece.volume > 0 for piece in repaired.split(only_watertight=False))
    assert findings.turned >= len(right.faces)


def test_a_cavity_stays_a_cavity():
    outer, inner = bone(3), bone(2)
    inner.apply_scale(0.4)
    inner.invert()
    hollow = trimesh.util.concatenate([outer, inner])
    expected = outer.volume - abs(inner.volume)
    assert repair_mesh(hollow)[0].volume == pytest.approx(expected)
    opened = without(hollow, np.arange(len(hollow.faces)) == 7)
    assert repair_mesh(opened)[0].volume == pytest.approx(expected, rel=1e-3)
    hollow.invert()
    assert repair_mesh(hollow)[0].volume == pytest.approx(expected)


def test_what_encloses_nothing_is_left_out():
    shape = bone(2)
    scrap = trimesh.Trimesh(
        [[50, 0, 0], [55, 0, 0], [50, 5, 0], [55, 5, 0.0]], [[0, 1, 2], [1, 3, 2]], process=False
    )
    repaired, findings = repair_mesh(trimesh.util.concatenate([shape, scrap]))
    assert len(repaired.faces) == len(shape.faces) and repaired.volume == pytest.approx(shape.volume)
    assert findings.dropped == pytest.approx((50.0,))  # the scrap and the patch on it, mm^2
    with pytest.raises(ValueError, match="encloses nothing"):
        repair_mesh(scrap)


def test_the_x_ray_of_a_bone_with_holes_is_nearly_that_of_the_bone():
    shape = bone()
    for place in ([0, 0, 42.0], [12, 0, 10.0], [0, -13, 0.0]):
        middle = shape.triangles_center
        apart = np.linalg.norm(middle - np.array(place), axis=1)
        near = np.linalg.norm(middle - middle[apart.argmin()], axis=1) < 5
        shape = without(shape, near)
    with pytest.raises(ValueError, match="not closed"):
        paths(shape)
    repaired, findings = repair_mesh(shape)
    assert len(findings.holes) == 3 and max(findings.holes) < 15
    assert repaired.volume == pytest.approx(bone().volume, rel=0.01)
    whole, patched = paths(bone()), paths(repaired)
    assert float(patched.min()) >= 0
    assert float((whole - patched).abs().max()) < 2.5  # mm: the caps are flat
    # and no vertex has moved
    assert set(map(tuple, repaired.vertices)) <= set(map(tuple, bone().vertices))


def test_a_pelvis_with_damage_is_closed_again(data_dir):
    from shapefit.io.mesh import read_mesh

    shape = read_mesh(data_dir / "vsd" / "z001" / "hip_left.ply")
    rng = np.random.default_rng(3)
    gone = np.isin(shape.faces, rng.choice(len(shape.vertices), 40, replace=False)).any(1)
    turned = rng.random(len(shape.faces)) < 0.1
    broken = trimesh.Trimesh(
        shape.vertices, np.where(turned[:, None], shape.faces[:, ::-1], shape.faces)[~gone], process=False
    )
    repaired, findings = repair_mesh(one_by_one(broken), name="hip_left")
    assert len(findings.holes) > 30 and findings.turned == turned[~gone].sum()
    assert repaired.volume == pytest.approx(shape.volume, rel=2e-3)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_broken_is_closed_or_refused_and_needs_no_second_repair(seed):
    rng = np.random.default_rng(seed)
    shape = bone(2) if seed % 2 else trimesh.creation.torus(20, 6, major_sections=24, minor_sections=9)
    vertices, faces = np.array(shape.vertices), np.array(shape.faces)
    faces = faces[rng.random(len(faces)) > rng.choice([0.0, 0.02, 0.3])]
    turned = rng.random(len(faces)) < rng.choice([0.0, 0.3])
    faces = np.where(turned[:, None], faces[:, ::-1], faces)
    if rng.random() < 0.3:
        faces = np.concatenate([faces, rng.integers(len(vertices), size=(3, 3))])  # anything at all
    if rng.random() < 0.5:
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3)
    try:
        repaired, _ = repair_mesh(vertices, faces, "a.stl", max_hole=15.0)
    except ValueError as refused:
        assert "wider than 15 mm" in str(refused) or "one-sided" in str(refused)
        return
    require_closed(repaired)
    assert repair_mesh(repaired)[1].warnings() == []


def test_an_edge_of_four_faces_is_no_defect():
    one, two = BOX.copy(), BOX.copy()
    two.apply_translation([20.0, 30.0, 0.0])  # they touch along an upright edge
    touching = trimesh.Trimesh(
        *trimesh.util.append_faces([one.vertices, two.vertices], [one.faces, two.faces])
    )
    touching.merge_vertices()
    assert len(touching.vertices) == 14
    require_closed(touching)
    repaired, findings = repair_mesh(touching)
    assert findings.warnings() == [] and len(repaired.vertices) == 14


def test_a_one_sided_surface_cannot_be_repaired():
    n = 24
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    along = np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])
    across = np.cos(angle / 2)[:, None] * along + np.sin(angle / 2)[:, None] * [0, 0, 1.0]
    vertices = np.concatenate([20 * along - 4 * across, 20 * along + 4 * across])
    low = np.arange(n)
    up, low_next, up_next = low + n, np.append(low[1:], n), np.append(low[1:] + n, 0)
    faces = np.concatenate([np.column_stack([low, low_next, up]), np.column_stack([up, low_next, up_next])])
    with pytest.raises(ValueError, match=r"band\.stl has a one-sided surface"):
        repair_mesh(vertices, faces, "band.stl", max_hole=100.0)


def test_what_no_repair_is_meant_for_is_an_error_that_names_the_mesh():
    vertices, faces = np.array(BOX.vertices), np.array(BOX.faces)
    with pytest.raises(ValueError, match=r"a\.ply has no faces"):
        repair_mesh(vertices, faces[:0], "a.ply")
    with pytest.raises(ValueError, match=r"a\.ply has faces that name vertices beyond its 7"):
        repair_mesh(vertices[:7], faces, "a.ply")
    vertices[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"a\.ply has 1 vertices that are not finite"):
        repair_mesh(vertices, faces, "a.ply")


def test_a_patch_over_a_flat_rim_has_the_area_of_the_polygon():
    rng = np.random.default_rng(0)
    for count in (3, 4, 17, 120, 700):
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = 10 + 4 * np.sin(3 * angle)  # not convex
        rim = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, 2.0)])
        polygon = 0.5 * (rim[:, 0] * np.roll(rim[:, 1], -1) - np.roll(rim[:, 0], -1) * rim[:, 1]).sum()
        a, b, c = (rim[triangulated(rim)[:, k]] for k in range(3))
        signed = 0.5 * np.cross(b - a, c - a)[:, 2]
        assert len(signed) == count - 2
        assert signed.sum() == pytest.approx(polygon)
        assert np.abs(signed).sum() == pytest.approx(polygon, rel=2e-3)  # hardly any fold


def test_rims_run_against_the_mesh_and_are_taken_apart_where_they_meet():
    shape = bone(2)
    around = np.flatnonzero((shape.faces == 100).any(1))
    # two faces that share a vertex and no edge: one rim would be an eight
    gone = np.isin(np.arange(len(shape.faces)), [around[0], next(
        f for f in around[1:] if len(np.intersect1d(shape.faces[f], shape.faces[around[0]])) == 1
    )])  # fmt: skip
    found = rims(shape.faces[~gone])
    assert sorted(map(len, found)) == [3, 3]
    assert {frozenset(rim.tolist()) for rim in found} == {frozenset(f.tolist()) for f in shape.faces[gone]}
    closed = np.concatenate([shape.faces[~gone], *(rim[None] for rim in found)])
    assert boundary_edges(closed) == 0
    assert width(np.array([[0, 0, 0], [3, 4, 0], [1, 1, 0.0]])) == pytest.approx(5.0)
