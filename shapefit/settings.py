"""Every number that steers a job, in one frozen dataclass per job, with its unit. No torch here: `--help` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BuildSettings:
    """How segmentations become a shape model."""

    vertices: int = 10_000
    """vertices of the whole template, shared out to the structures by their area"""
    mirror: bool = True
    """add each case's mirror image as a training shape; structures ending in _left/_right swap"""
    name: str = "shape_model"
    """id of the model, written into the model and into every result that uses it"""
    license: str = "not stated"
    """licence of the model: as a rule that of the data that it is trained on"""
    source: str = "not stated"
    """where the training data come from (data set, authors, doi)"""
    template_spacing: float = 2.0
    """mm between the grid points of the mean signed distance that the template is cut from"""
    template_rounds: int = 2
    """how often the template is averaged again after smooth warps to all cases"""
    samples: int = 25_000
    """points that represent each target surface"""
    kernel_widths: tuple[float, ...] = (60.0, 30.0, 15.0)
    """mm, standard widths of the Gaussian kernels of the smooth warps, in order"""
    kernel_steps: int = 8
    """closest-point steps per kernel width"""
    kernel_ridge: float = 2.0
    """how much a smooth warp is held back (unitless; larger is stiffer)"""
    stiffness: tuple[float, ...] = (30.0, 10.0, 3.0, 1.0, 0.3)
    """bending stiffness of the non-rigid steps (unitless), in order"""
    stiffness_steps: int = 4
    """closest-point steps per stiffness"""
    leave_one_out: bool = True
    """fit each case with the model of the others, and write the table into the card"""
    workers: int = 2
    """processes that register cases side by side"""
    seed: int = 0
    """of the random surface samples"""


@dataclass(frozen=True)
class EvaluateSettings:
    """How results are measured against references."""

    samples: int = 20_000
    """points spread over each structure's surface, uniform in area"""
    tolerances: tuple[float, ...] = (1.0, 2.0, 3.0)
    """mm, distances within which surface Dice counts two surfaces as one"""
    voxel: float = 1.0
    """mm, size of the voxels in which volumes overlap"""
    seed: int = 0
    """of the random surface samples"""


@dataclass(frozen=True)
class SurfaceSettings:
    """How label maps become meshes."""

    faces: int = 20_000
    """faces per structure after decimation; smaller meshes are left as they are"""
    smoothing: float = 1.2
    """voxels, standard width of the Gaussian that takes away the staircase; 0 leaves it"""
