"""How shape models are trained, inspected, sampled and exported."""

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
    template_rounds: int = 1
    """how often the template is averaged again after smooth warps to all cases (0: affine maps alone)"""
    samples: int = 25_000
    """points that represent each target surface"""
    kernel_widths: tuple[float, ...] = (60.0, 30.0, 15.0)
    """mm, standard widths of the Gaussian kernels of the smooth warps, in order"""
    kernel_steps: int = 4
    """closest-point steps per kernel width"""
    kernel_ridge: float = 2.0
    """how much a smooth warp is held back (unitless; larger is stiffer)"""
    stiffness: tuple[float, ...] = (30.0, 10.0, 3.0, 1.0, 0.3)
    """bending stiffness of the non-rigid steps (unitless), in order"""
    stiffness_steps: int = 2
    """closest-point steps per stiffness"""
    leave_one_out: bool = True
    """fit each case with the model of the others, and write the table into the card"""
    leave_one_out_cases: int = 30
    """of larger sets so many cases are left out in turn, evenly chosen; 0: all"""
    modes: int | None = None
    """most modes that the model keeps; all that explain more than a millionth of the variance if absent"""
    allow_failures: bool = False
    """build the model from the other cases where some fail; the card then names those and the reasons"""
    calibration: int = 100
    """functions of the residual process whose bands are checked on cases left out (0: none are)"""
    workers: int = 2
    """processes that register cases side by side"""
    cluster: str = ""
    """address or scheduler file of a Dask cluster that does the work instead, as in tcp://host:8786"""
    seed: int = 0
    """of the random surface samples"""


@dataclass(frozen=True)
class InspectSettings:
    """When a segmentation is flagged."""

    tunnel: float = 3.0
    """mm, tunnels are counted after all that are narrower than this have been closed"""
    tunnel_margin: int = 3
    """tunnels beyond the median of the run that are let pass, of bones that vary in them (sacrum)"""
    island: float = 50.0
    """mm^3 of a separate piece beside the largest one of a structure"""
    cavity: float = 50.0
    """mm^3 of an enclosed void"""
    border: float = 30.0
    """mm^2 of a structure's cut face at the end of the volume, or of a flat cap of its mesh"""
    smallest: int = 500
    """voxels that a structure has at least"""
    spacing: float = 3.0
    """mm, edge of a voxel above which a grid is too coarse"""
    anisotropy: float = 4.0
    """longest edge of a voxel over its shortest"""
    oblique: float = 30.0
    """degrees between the grid's axes and the patient's, above which it is worth a look"""
    facing: float = 60.0
    """degrees by which two bones may lie askew to where they should be to each other"""
    outlier: float = 3.5
    """robust standard deviations (1.4826 x median absolute deviation) of log volume and of left over right"""
    spread: float = 0.08
    """least standard deviation of the log volume (about 8 %)"""
    asymmetry: float = 0.04
    """least standard deviation of the log of left over right (about 4 %)"""
    cases: int = 5
    """that a run needs before cases are compared with one another"""
    picture: int = 400
    """pixels along the longer side of a thumbnail"""
    workers: int = 2
    """processes that look at cases side by side"""
    cluster: str = ""
    """address or scheduler file of a Dask cluster that does it instead; it sees the files at these paths"""


@dataclass(frozen=True)
class ModelFileSettings:
    """How a model file of another program is taken."""

    frame: str = ""
    """RAS or LPS: the frame of a file that states none (it is taken as RAS if this is empty)"""
    inside: str = ""
    """the group of the model in a file that holds several"""


@dataclass(frozen=True)
class SampleSettings:
    """How random shapes are drawn from a model."""

    modes: int = 0
    """shape modes that vary, the first ones; 0: all"""
    seed: int = 0
    """of the random coefficients"""
    format: str = "ply"
    """of the meshes: ply, stl, obj or vtp"""


@dataclass(frozen=True)
class ModesSettings:
    """How the modes of a model are shown as meshes."""

    modes: int = 3
    """how many modes, the first ones"""
    std: float = 3.0
    """how far to either side of the mean, in standard deviations"""
    format: str = "ply"
    """of the meshes: ply, stl, obj or vtp"""


@dataclass(frozen=True)
class PosteriorSettings:
    """How a model is conditioned on points."""

    noise: float = 2.0
    """mm, standard deviation of the points along each axis"""
    residual: int = 0
    """rank of the Gaussian process, learned from the training cases, that joins the modes first; 0: none"""


@dataclass(frozen=True)
class ExportSettings:
    """What is written of a model."""

    format: str = "ply"
    """of the meshes: ply, stl, obj or vtp"""
    statismo: bool = False
    """write the model as plain statismo 0.9 too, without structures, landmarks and training cases"""
