"""Modes that chance could have made are told from those that it could not."""

import pytest
import torch
import trimesh

from shapefit.mode_count import cross_validation, parallel_analysis
from shapefit.shape_model import train

SPHERE = trimesh.creation.icosphere(2, radius=40.0)


def model_of(modes: int, noise: float, count: int = 30):
    """Spheres with `modes` independent smooth modes of 4 mm and `noise` mm at each coordinate."""
    draw = torch.Generator().manual_seed(0)
    rest = torch.tensor(SPHERE.vertices)
    unit = rest / 40
    fields = [unit * unit[:, :1] ** 2, unit * unit[:, 1:2] * unit[:, 2:], unit * unit[:, :1] * unit[:, 1:2]]
    waves = torch.stack(fields)[:modes]
    waves = waves / waves.square().mean((1, 2), keepdim=True).sqrt()
    shapes = rest + torch.tensordot(
        4 * torch.randn(count, modes, generator=draw, dtype=torch.float64), waves, dims=1
    )
    shapes = shapes + noise * torch.randn(shapes.shape, generator=draw, dtype=torch.float64)
    faces = torch.tensor(SPHERE.faces)
    structure = torch.zeros(len(faces), dtype=torch.int64)
    cases = tuple(f"case{number}" for number in range(count))
    return train(shapes, faces, structure, ("ball",), (1,), cases=cases)


@pytest.mark.parametrize("modes", [1, 2, 3])
def test_modes_above_noise_are_counted(modes):
    model = model_of(modes, 1.0)
    assert model.modes > 20  # noise makes modes too
    assert parallel_analysis(model) == modes
    assert cross_validation(model) == modes


def test_noise_alone_has_no_modes():
    model = model_of(0, 1.0)
    assert parallel_analysis(model) == 0
    assert cross_validation(model) == 0


def test_the_noise_of_the_cut_model_is_that_which_was_put_in():
    model = model_of(2, 0.8, count=60)
    assert model.truncate(2).noise_variance == pytest.approx(0.64, rel=0.1)


def test_a_model_without_scores_is_refused():
    bare = model_of(1, 1.0).posterior(torch.tensor([0]), torch.tensor(SPHERE.vertices[:1]), 1.0)
    with pytest.raises(ValueError, match="training scores of at least 2 cases"):
        parallel_analysis(bare)
    with pytest.raises(ValueError, match="the model knows 0"):
        cross_validation(bare)
