import numpy as np
import pytest
import torch
import trimesh
from closed_meshes import arrays, solid

from shapefit import se3
from shapefit.inspection import inspect_grid, inspect_labels, inspect_meshes
from shapefit.settings import InspectSettings
from shapefit.volume import Volume


def grid(size: int = 44) -> np.ndarray:
    return np.indices((size,) * 3) - (size - 1) / 2


def ball(radius: float, centre=(0.0, 0.0, 0.0)) -> np.ndarray:
    x, y, z = grid()
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= radius**2


def ring(major: float = 13, minor: float = 4) -> np.ndarray:
    x, y, z = grid()
    return (np.hypot(x, y) - major) ** 2 + z**2 <= minor**2


def volume(inside: np.ndarray, affine=None) -> Volume:
    affine = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
    return Volume(torch.from_numpy(inside.astype(np.uint8)), torch.from_numpy(affine))


def found_in(inside: np.ndarray, affine=None, **settings):
    return inspect_labels(volume(inside, affine), {"bone": 1}, InspectSettings(**settings)).structures["bone"]


def test_a_ball_is_whole():
    found = found_in(ball(10))
    assert (found.tunnels, found.islands, found.cavities, found.border) == (0, (), (), {})
    assert found.volume == found.voxels == ball(10).sum()
    assert found.centre == pytest.approx((21.5, 21.5, 21.5))  # of the array
    assert (found.low, found.high) == ((11.5,) * 3, (31.5,) * 3)  # its voxels' outer faces


def test_a_torus_has_a_tunnel_and_a_narrow_one_does_not_count():
    assert found_in(ring()).tunnels == 1
    x, y, _ = grid()
    pierced = ball(14) & ~((np.abs(x) < 1) & (np.abs(y) < 1))  # 2 voxels wide
    assert found_in(pierced).tunnels == 0
    assert found_in(pierced, tunnel=1.0).tunnels == 1
    # the same voxels, twice as large: 4 mm wide
    assert found_in(pierced, np.diag([2.0, 2.0, 2.0, 1.0])).tunnels == 1


def test_volumes_of_islands_and_cavities_are_in_mm3():
    unit = np.diag([0.5, 2.0, 3.0, 1.0])
    found = found_in((ball(12, (-6, 0, 0)) & ~ball(4, (-6, 0, 0))) | ball(3, (15, 0, 0)), unit)
    assert found.islands == (pytest.approx(ball(3, (15, 0, 0)).sum() * 3.0),)
    assert found.cavities == (pytest.approx(ball(4, (-6, 0, 0)).sum() * 3.0),)


@pytest.mark.parametrize(
    ("axes", "side"),
    [
        ([1.0, 1.0, 1.0], "R"),  # array axis 0 runs to the right: its end is the right side
        ([-1.0, 1.0, 1.0], "L"),  # or to the left
    ],
)
def test_a_cut_at_the_border_has_its_side_and_area(axes, side):
    cut = ball(15, (12, 0, 0))
    found = found_in(cut, np.diag([*(np.array(axes) * [1.0, 2.0, 3.0]), 1.0]))
    assert list(found.border) == [side]
    assert found.border[side] == pytest.approx(cut[-1].sum() * 6.0)


def test_sides_follow_the_order_of_the_axes():
    affine = np.array([[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
    assert list(found_in(ball(15, (12, 0, 0)), affine).border) == ["A"]
    assert list(found_in(ball(15, (0, 12, 0)), affine).border) == ["I"]
    assert list(found_in(ball(15, (0, 0, -12)), affine).border) == ["L"]


def test_the_centre_is_in_world_mm_of_an_oblique_grid():
    affine = se3.exp(torch.tensor([0.3, -0.2, 0.5, 10.0, 20.0, 30.0], dtype=torch.float64)).numpy()
    found = found_in(ball(8, (5, -3, 2)), affine)
    middle = np.array([21.5 + 5, 21.5 - 3, 21.5 + 2])
    assert found.centre == pytest.approx(affine[:3, :3] @ middle + affine[:3, 3], abs=0.2)


def test_labels_that_are_not_there_are_missing_and_others_are_told():
    labels = ball(10).astype(np.uint8) + 6 * ball(2, (15, 15, 15)).astype(np.uint8)
    found = inspect_labels(volume(labels), {"bone": 1, "screw": 4, "nail": 300})
    assert found.missing == ("screw", "nail")
    assert found.unexpected == {6: int(ball(2, (15, 15, 15)).sum())}


def test_the_grid_tells_its_spacing_and_how_it_lies():
    turn = se3.exp(torch.tensor([0.0, 0.0, np.radians(25.0), 0, 0, 0], dtype=torch.float64)).numpy()
    found = inspect_grid(volume(ball(3), turn @ np.diag([-0.5, 1.0, 4.0, 1.0])))
    assert found.spacing == pytest.approx((0.5, 1.0, 4.0))
    assert (found.oblique, found.sheared) == (pytest.approx(25.0), pytest.approx(0.0, abs=1e-6))
    sheared = np.eye(4)
    sheared[0, 1] = np.tan(np.radians(10.0))
    assert inspect_grid(volume(ball(3), sheared)).sheared == pytest.approx(10.0)
    flipped = np.array([[0, -1.0, 0, 0], [0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 1.0]])
    assert inspect_grid(volume(ball(3), flipped)).oblique == pytest.approx(0.0)


def mesh_of(*meshes: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.util.concatenate(list(meshes))


def found_on(mesh: trimesh.Trimesh):
    return inspect_meshes({"bone": mesh}).structures["bone"]


def test_a_mesh_has_the_volume_tunnels_and_pieces_of_its_solid():
    torus = trimesh.creation.torus(20, 6)
    torus.apply_translation((3, 4, 5))
    found = found_on(torus)
    assert (found.tunnels, found.open_edges, found.islands, found.cavities) == (1, 0, (), ())
    assert found.volume == pytest.approx(torus.volume)
    assert found.centre == pytest.approx((3, 4, 5), abs=0.01)
    small, void = trimesh.creation.icosphere(3, 4), trimesh.creation.icosphere(3, 5)
    small.apply_translation((40, 0, 0))
    void.invert()
    found = found_on(mesh_of(trimesh.creation.icosphere(3, 20), small, void))
    assert found.islands == (pytest.approx(small.volume),)
    assert found.cavities == (pytest.approx(-void.volume),)
    assert found.tunnels == 0


def test_an_open_mesh_and_one_that_is_inside_out_are_told():
    sphere = trimesh.creation.icosphere(2, 10)
    opened = trimesh.Trimesh(sphere.vertices, sphere.faces[3:], process=False)
    found = found_on(opened)
    assert found.open_edges > 0 and found.tunnels is None
    sphere.invert()
    found = found_on(sphere)
    assert (found.inside_out, found.open_edges, found.tunnels) == (True, 0, 0)


def test_a_flat_end_of_a_mesh_is_a_cut_and_a_round_one_is_not():
    assert found_on(trimesh.creation.icosphere(4, 30)).border == {}
    whole = trimesh.creation.icosphere(4, 30)
    cut = arrays(solid(whole.vertices, whole.faces).trim_by_plane((0, 0, 1), -12))
    found = found_on(trimesh.Trimesh(*cut, process=False))
    assert list(found.border) == ["I"]
    assert found.border["I"] == pytest.approx(np.pi * (30**2 - 12**2), rel=0.02)


def test_meshes_and_label_maps_of_one_solid_agree():
    inside = ring() | ball(5, (0, 0, 15))
    above = trimesh.creation.icosphere(3, 5)
    above.apply_translation((0, 0, 15))
    from_mesh = found_on(mesh_of(trimesh.creation.torus(13, 4, 96, 96), above))
    from_labels = found_in(inside)
    assert from_mesh.tunnels == from_labels.tunnels == 1
    assert from_mesh.volume == pytest.approx(from_labels.volume, rel=0.04)
    assert from_mesh.islands[0] == pytest.approx(from_labels.islands[0], rel=0.08)


def test_real_pelvises_are_whole(data_dir):
    from shapefit.io.volume import read_labels

    labels = read_labels(data_dir / "vsd" / "z001" / "segmentation.nii.gz")
    found = inspect_labels(labels, {"sacrum": 1, "hip_left": 2, "hip_right": 3})
    assert [s.tunnels for s in found.structures.values()][1:] == [1, 1]  # the obturator foramina
    assert all(not s.islands and not s.cavities and not s.border for s in found.structures.values())
    cut = inspect_labels(
        read_labels(data_dir / "ct" / "pelvis_windowed_label.nii.gz"), {"first": 2, "second": 3}
    )
    assert all(list(s.border) == ["I"] and s.border["I"] > 300 for s in cut.structures.values())
