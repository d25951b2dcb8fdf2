import math

import pytest
import torch

from shapefit import se3

ANGLES = [0.0, 1e-8, 1e-4, 9.9e-3, 1.01e-2, 1.0, 2.5, math.pi - 1e-4, math.pi]
BELOW_HALF_TURN = [angle for angle in ANGLES if angle < math.pi]
AXES = [(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (0.48, -0.6, 0.64)]
SHIFT = (30.0, -20.0, 700.0)


def twist(angle: float, axis=AXES[3], shift=SHIFT, dtype=torch.float64) -> torch.Tensor:
    return torch.cat([angle * torch.tensor(axis, dtype=dtype), torch.tensor(shift, dtype=dtype)])


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", ANGLES)
def test_exp_is_the_matrix_exponential_of_the_twist(angle, axis):
    t = twist(angle, axis)
    generator = torch.zeros(4, 4, dtype=torch.float64)
    generator[:3, :3], generator[:3, 3] = se3.hat(t[:3]), t[3:]
    torch.testing.assert_close(se3.exp(t), torch.linalg.matrix_exp(generator), atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", BELOW_HALF_TURN)
def test_log_undoes_exp_below_half_a_turn(angle, axis):
    torch.testing.assert_close(se3.log(se3.exp(twist(angle, axis))), twist(angle, axis), atol=1e-8, rtol=1e-9)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", ANGLES)
def test_exp_undoes_log_everywhere(angle, axis):
    motion = se3.exp(twist(angle, axis))
    torch.testing.assert_close(se3.exp(se3.log(motion)), motion, atol=1e-8, rtol=1e-9)


@pytest.mark.parametrize("angle", ANGLES)
def test_the_adjoint_takes_twists_to_the_other_side(angle):
    motion, small = se3.exp(twist(angle)), twist(0.4, AXES[1], (-3.0, 8.0, 5.0))
    moved = se3.adjoint(motion[None])[0] @ small
    torch.testing.assert_close(motion @ se3.exp(small), se3.exp(moved) @ motion)


@pytest.mark.parametrize("angle", ANGLES)
def test_float32_loses_no_more_than_its_rounding(angle):
    exact = se3.exp(twist(angle))
    motion = se3.exp(twist(angle, dtype=torch.float32))
    torch.testing.assert_close(motion.double(), exact, atol=2e-4, rtol=1e-6)  # of 700 mm
    torch.testing.assert_close(se3.exp(se3.log(motion)), motion, atol=2e-3, rtol=1e-5)


def test_log_of_half_a_turn_has_length_pi():
    for axis in AXES:
        vector = se3.log(se3.exp(twist(math.pi, axis)))[:3]
        assert float(vector.norm()) == pytest.approx(math.pi, abs=1e-9)
        assert abs(float(vector @ torch.tensor(axis, dtype=torch.float64))) == pytest.approx(
            math.pi, abs=1e-9
        )


@pytest.mark.parametrize("angle", ANGLES)
def test_exp_has_the_right_gradient_at_every_angle_also_at_rest(angle):
    assert torch.autograd.gradcheck(se3.exp, (twist(angle).requires_grad_(),), eps=1e-6, atol=1e-5)


def test_exp_at_rest_moves_along_its_twist():
    jacobian = torch.autograd.functional.jacobian(se3.exp, torch.zeros(6, dtype=torch.float64))
    t = twist(1.0)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[:3, :3], expected[:3, 3] = se3.hat(t[:3]), t[3:]
    torch.testing.assert_close(jacobian @ t, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("angle", BELOW_HALF_TURN)
def test_log_after_exp_has_the_identity_as_its_jacobian(angle):
    jacobian = torch.autograd.functional.jacobian(lambda t: se3.log(se3.exp(t)), twist(angle))
    assert torch.isfinite(jacobian).all()
    # near half a turn the translation is found through 1 / sin of a small angle: rounding of 700 mm shows
    torch.testing.assert_close(jacobian, torch.eye(6, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", AXES)
def test_log_has_a_finite_gradient_at_half_a_turn(axis):
    motion = se3.exp(twist(math.pi, axis)).requires_grad_()
    (gradient,) = torch.autograd.grad(se3.log(motion).square().sum(), motion)
    assert torch.isfinite(gradient).all()


def test_motions_are_rigid_and_inverse_undoes_them():
    motion = se3.exp(torch.stack([twist(angle) for angle in ANGLES]))
    assert se3.is_rigid(motion)
    eye = torch.eye(4, dtype=torch.float64).expand_as(motion)
    torch.testing.assert_close(se3.inverse(motion) @ motion, eye, atol=1e-10, rtol=0)


def test_scaled_mirrored_and_broken_matrices_are_not_rigid():
    eye = torch.eye(4, dtype=torch.float64)
    for diagonal in ((1.01, 1.01, 1.01, 1.0), (-1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 2.0)):
        assert not se3.is_rigid(torch.diag(torch.tensor(diagonal, dtype=torch.float64)))
    assert not se3.is_rigid(torch.full((4, 4), math.nan, dtype=torch.float64))
    assert se3.is_rigid(eye)


def test_transform_turns_then_shifts():
    quarter = se3.exp(torch.tensor([0.0, 0.0, math.pi / 2, 0.0, 0.0, 0.0], dtype=torch.float64))
    quarter[:3, 3] = torch.tensor([10.0, 20.0, 30.0])
    moved = se3.transform(quarter, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    expected = torch.tensor([[10.0, 21.0, 30.0]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


def test_transform_broadcasts_one_set_of_points_over_many_motions():
    motions = se3.exp(torch.stack([twist(0.1), twist(0.2), twist(0.3)]))
    points = torch.rand(5, 3, dtype=torch.float64)
    moved = se3.transform(motions, points)
    assert moved.shape == (3, 5, 3)
    for k in range(3):
        torch.testing.assert_close(moved[k], se3.transform(motions[k], points))


def test_hat_is_the_cross_product():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-4.0, 5.0, 0.5])
    torch.testing.assert_close(se3.hat(a) @ b, torch.linalg.cross(a, b))


@pytest.mark.parametrize("angle", ANGLES)
def test_the_angle_of_a_rotation_is_measured_from_zero_to_pi(angle):
    rotation = se3.exp(twist(angle))[:3, :3]
    assert float(se3.rotation_angle(rotation)) == pytest.approx(angle, abs=1e-10)
