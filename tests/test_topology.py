import numpy as np
import pytest
from skimage.measure import euler_number

from shapefit.topology import closed_by_box, euler_characteristic, topology


def grid(size: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.indices((size,) * 3) - (size - 1) / 2)


def ball(radius: float, centre: float = 0.0) -> np.ndarray:
    x, y, z = grid()
    return (x - centre) ** 2 + y**2 + z**2 <= radius**2


def ring(major: float = 12, minor: float = 4) -> np.ndarray:
    x, y, z = grid()
    return (np.hypot(x, y) - major) ** 2 + z**2 <= minor**2


def test_a_ball_has_one_part_and_nothing_else():
    found = topology(ball(10))
    assert (len(found.parts), found.tunnels, found.cavities) == (1, 0, ())
    assert found.parts[0] == ball(10).sum()


def test_a_torus_has_one_tunnel():
    assert topology(ring())[1:] == (1, ())


def test_a_hollow_ball_has_a_cavity_of_the_size_of_what_it_lacks():
    found = topology(ball(14) & ~ball(6))
    assert (found.tunnels, found.cavities) == (0, (int(ball(6).sum()),))


def test_two_balls_are_two_parts_largest_first():
    found = topology(ball(5, -11) | ball(8, 8))
    assert found.parts == (int(ball(8, 8).sum()), int(ball(5, -11).sum()))
    assert found.tunnels == 0


def test_drilling_through_a_ball_adds_a_tunnel_for_each_way_through():
    x, y, z = grid()
    drilled = ball(15) & ~(np.hypot(x, y) < 3)
    assert topology(drilled).tunnels == 1
    # a second bore that meets the first: four openings of one void make three tunnels
    assert topology(drilled & ~(np.hypot(y, z) < 3)).tunnels == 3


def test_voxels_that_share_a_corner_alone_belong_together():
    diagonal = np.zeros((3, 3, 3), bool)
    diagonal[0, 0, 0] = diagonal[1, 1, 1] = True
    assert topology(diagonal).parts == (2,)


def test_what_reaches_the_border_of_the_array_is_counted_as_inside_of_it():
    assert topology(np.ones((4, 5, 6), bool)) == ((120,), 0, ())
    tube = np.ones((6, 6, 6), bool)
    tube[2:4, 2:4] = False
    assert topology(tube).tunnels == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_euler_characteristic_is_that_of_scikit_image_on_noise(seed):
    noise = np.random.default_rng(seed).random((9, 10, 11)) < 0.1 + 0.15 * seed
    assert euler_characteristic(noise) == euler_number(noise, connectivity=3)


def test_closing_by_a_box_shuts_tunnels_that_are_narrower_and_leaves_wider_ones():
    block = np.ones((20, 20, 10), bool)
    block[3:5, 3:5] = False  # 2 voxels wide
    block[10:15, 10:15] = False  # 5 voxels wide
    assert topology(block).tunnels == 2
    assert topology(closed_by_box(block, (1, 1, 1))).tunnels == 1
    assert topology(closed_by_box(block, (3, 3, 3))).tunnels == 0


def test_closing_by_a_box_takes_nothing_away_and_does_not_grow_a_block():
    block = np.zeros((12, 12, 12), bool)
    block[0:6, 2:9, 3:10] = True  # touches the border
    closed = closed_by_box(block, (2, 1, 0))
    assert np.array_equal(closed, np.pad(block, [(3, 3), (2, 2), (1, 1)]))
