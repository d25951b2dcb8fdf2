"""One template lies on every case, in both directions, whoever comes first and wherever they stand."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from shapefit.correspondence import correspond, families, mirror_name
from shapefit.mesh import boundary_edges, closest_points, require_closed
from shapefit.registration import face_neighbours, flipped_faces, unfold
from shapefit.remesh import collapse_edges, remesh
from shapefit.settings import BuildSettings
from shapefit.template import largest_piece, zero_surface
from tests.small import case_surfaces

QUICK = BuildSettings(
    vertices=500,
    samples=2000,
    workers=1,
    kernel_widths=(20.0, 8.0),
    kernel_steps=3,
    stiffness=(10.0, 1.0, 0.3),
    stiffness_steps=1,
    mirror=False,
)
NAMES = ("hip_left", "hip_right")


def hips(seed: int) -> dict[str, trimesh.Trimesh]:
    surfaces = case_surfaces(seed)
    return {name: surfaces[name] for name in NAMES}


@pytest.fixture(scope="module")
def cases():
    return [hips(seed) for seed in range(2)]


@pytest.fixture(scope="module")
def laid(cases):
    return correspond(cases, QUICK)


def bone(laid, row: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    used, local = np.unique(laid.faces[laid.structure == number], return_inverse=True)
    return laid.shapes[row][used], local.reshape(-1, 3)


def test_every_bone_is_closed_in_every_case(laid):
    for row in range(2):
        for number in range(2):
            require_closed(*bone(laid, row, number))


def test_template_and_case_cover_one_another(laid, cases):
    for row, case in enumerate(cases):
        for number, name in enumerate(case):
            vertices, faces = bone(laid, row, number)
            target = case[name]
            ahead = closest_points(vertices, target.vertices, target.faces).distance
            back = closest_points(target.vertices, vertices, faces).distance
            assert ahead.mean() < 0.2 and back.mean() < 0.3
            assert ahead.max() < 1.5 and back.max() < 2.0  # tips too


def test_no_face_is_folded_or_collapsed(laid):
    for row in range(2):
        for number in range(2):
            assert len(flipped_faces(*bone(laid, row, number))) == 0


def test_the_order_of_the_cases_does_not_matter(cases, laid):
    other = correspond(cases[::-1], QUICK)
    for row, number in ((0, 0), (0, 1), (1, 0), (1, 1)):
        vertices, _ = bone(laid, row, number)
        again, faces = bone(other, 1 - row, number)
        assert abs(len(vertices) - len(again)) <= 1
        assert closest_points(vertices, again, faces).distance.mean() < 0.1


def test_the_right_template_is_the_mirror_image_of_the_left(cases):
    laid = correspond(cases, replace(QUICK, mirror=True))
    assert laid.rows == (0, 1, 0, 1)
    assert laid.mirrored == (False, False, True, True)
    flip = np.array([-1.0, 1.0, 1.0])
    for row in range(2):
        left, left_faces = bone(laid, row, 0)
        right, right_faces = bone(laid, row + 2, 1)
        assert np.allclose(left, right * flip)
        assert {tuple(sorted(f)) for f in left_faces.tolist()} == {
            tuple(sorted(f)) for f in right_faces.tolist()
        }


def test_the_result_is_the_same_each_time_and_with_workers(cases, laid):
    assert np.array_equal(correspond(cases, replace(QUICK, workers=2)).shapes, laid.shapes)


def box(width: float) -> trimesh.Trimesh:
    return trimesh.creation.box((width, 40, 50)).subdivide().subdivide().subdivide_loop(1)


def test_a_single_structure_needs_no_partner_to_be_mirrored():
    boxes = [{"box": box(30 + 6 * k)} for k in range(2)]
    laid = correspond(boxes, replace(QUICK, vertices=300, mirror=True))
    assert len(laid.shapes) == 4
    widths = [np.ptp(shape[:, 0]) for shape in laid.shapes]
    known = [np.ptp(b["box"].vertices[:, 0]) for b in boxes] * 2
    assert np.allclose(widths, known, atol=0.8)


def test_cases_may_stand_anywhere():
    boxes = [box(30), box(36)]
    boxes[1].apply_translation((200, -300, 500))
    laid = correspond([{"box": mesh} for mesh in boxes], replace(QUICK, vertices=300))
    found = laid.shapes[1]
    assert np.allclose((found.min(0) + found.max(0)) / 2, (200, -300, 500), atol=0.6)


def test_a_missing_structure_is_named(cases):
    with pytest.raises(ValueError, match="case 2 has no structure 'hip_right'"):
        correspond([cases[0], {"hip_left": cases[1]["hip_left"]}], QUICK)


def test_sides_are_told_by_the_end_of_the_name():
    assert mirror_name("hip_left") == "hip_right"
    assert mirror_name("left_over") == "left_over"
    kinds = families(["sacrum", "hip_right", "hip_left", "rib_left"])
    assert [(k.left, k.right) for k in kinds] == [
        ("sacrum", None), ("hip_left", "hip_right"), ("rib_left", None)
    ]  # fmt: skip


def test_remeshing_keeps_the_surface_the_tunnel_and_the_count():
    ring = trimesh.creation.torus(30, 8, major_sections=90, minor_sections=40)
    vertices, faces = remesh(np.asarray(ring.vertices), np.asarray(ring.faces), 500)
    found = trimesh.Trimesh(vertices, faces, process=False)
    assert len(vertices) == 500
    assert boundary_edges(faces) == 0
    assert found.euler_number == ring.euler_number == 0
    assert abs(found.volume / ring.volume - 1) < 0.06
    edges = found.edges_unique_length
    assert np.percentile(edges, 95) < 2.2 * np.percentile(edges, 5)


def test_collapsing_stops_before_it_pinches():
    vertices, faces = collapse_edges(*(np.asarray(a) for a in _octahedron()), 3)
    assert boundary_edges(faces) == 0
    assert len(vertices) >= 4


def test_an_open_mesh_is_not_remeshed():
    vertices, faces = _octahedron()
    with pytest.raises(ValueError, match="not closed: 3 boundary edges"):
        remesh(vertices, faces[1:], 5)


def test_a_fold_is_found_and_evened_out():
    ball = trimesh.creation.icosphere(3, 20.0)
    vertices, faces = np.array(ball.vertices), np.asarray(ball.faces)
    vertices[100] -= 1.9 * (vertices[100] - vertices[faces[(faces == 100).any(1)][0]].mean(0))
    vertices[100] *= 0.75
    vertices[200] = vertices[faces[(faces == 200).any(1)][0]].mean(0) * 1.0
    vertices[faces[5]] = vertices[faces[5]].mean(0)
    assert len(flipped_faces(vertices, faces)) > 0
    assert len(flipped_faces(unfold(vertices, faces), faces)) == 0


def test_neighbours_share_an_edge():
    faces = np.asarray(trimesh.creation.icosphere(2).faces)
    for face, around in zip(faces, face_neighbours(faces), strict=True):
        assert all(len(set(face) & set(faces[other])) == 2 for other in around)


def test_a_level_of_a_distance_is_closed_and_in_place():
    def ball(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points - [5, 0, 0], axis=1) - 20

    vertices, faces = zero_surface(ball, np.array([-15.0, -20, -20]), np.array([25.0, 20, 20]), 2.0, 0.0)
    require_closed(vertices, faces)
    assert np.allclose(np.linalg.norm(vertices - [5, 0, 0], axis=1), 20, atol=0.15)


def test_the_largest_piece_is_kept():
    small, large = trimesh.creation.icosphere(1, 2.0), trimesh.creation.icosphere(2, 9.0)
    both = trimesh.util.concatenate([small, large])
    vertices, faces = largest_piece(np.asarray(both.vertices), np.asarray(both.faces))
    assert len(vertices) == len(large.vertices)
    require_closed(vertices, faces)


def _octahedron() -> tuple[np.ndarray, np.ndarray]:
    vertices = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    return vertices, faces
