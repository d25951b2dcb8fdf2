"""How segmentations become meshes, and how results are measured on them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SurfaceSettings:
    """How label maps become meshes."""

    faces: int = 20_000
    """faces per structure after decimation; smaller meshes are left as they are"""
    smoothing: float = 1.2
    """voxels, standard width of the Gaussian that takes away the staircase; 0 leaves it"""


@dataclass(frozen=True)
class MeshSettings:
    """How mesh files are taken."""

    repair: bool = False
    """close meshes that are open and turn those inside out; what was changed is told and recorded"""
    max_hole: float = 20.0
    """mm, across the widest hole that --repair fills"""


@dataclass(frozen=True)
class ProjectSettings:
    """How a model is fitted to the surfaces of a 3D segmentation."""

    modes: int = 0
    """shape modes that are fitted; 0 means all"""
    prior_weight: float = 0.002
    """mm that half the squared Mahalanobis distance of the shape counts against the mean distance"""
    samples: int = 12_000
    """points of all target surfaces together, uniform in area"""
    starts: int = 5
    """orientations tried: the axes as they are, then the principal axes in their four right-handed ways"""
    rigid_steps: int = 40
    """closest-point steps of the placement alone"""
    steps: int = 30
    """closest-point steps of placement and shape together"""
    residual: int = 0
    """functions of a Gaussian process that follows the surface where the modes cannot; 0: the modes alone"""
    residual_steps: int = 8
    """closest-point steps of modes and process together"""
    residual_prior_weight: float = 5e-5
    """as prior_weight, in those steps"""
    softening: float = 0.5
    """mm, distances below this count squared, above it linearly"""
    seed: int = 0
    """of the random surface samples"""


@dataclass(frozen=True)
class EvaluateSettings:
    """How results are measured against references."""

    samples: int = 10_000
    """points spread over each structure's surface, uniform in area"""
    tolerances: tuple[float, ...] = (1.0, 2.0, 3.0)
    """mm, distances within which surface Dice counts two surfaces as one"""
    voxel: float = 1.0
    """mm, size of the voxels in which volumes overlap"""
    seed: int = 0
    """of the random surface samples"""
