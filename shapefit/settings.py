"""Every number that steers a job: one frozen dataclass per job, with units. No torch: `--help` is quick."""

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
class FitSettings:
    """How shape and pose are found from X-rays."""

    view: str = "ap"
    """which view an X-ray without a pose is expected to be: ap, pa, lateral, lateral-right, or any of them"""
    rotation_range: float = 30.0
    """degrees, how far the patient may be turned from the expected view about each axis"""
    translation_range: float = 50.0
    """mm, how far the bone may lie from where the principal rays of given poses meet"""
    depth_range: tuple[float, float] = (0.63, 0.86)
    """distance of the bone from the source, as a share of sdd, where no pose is given"""
    free_views: bool = False
    """estimate the pose of every view; given poses are not used"""
    modes: int = 30
    """shape modes that are fitted; fewer if the model has fewer"""
    prior_weight: float = 0.02
    """how much half the squared Mahalanobis distance of the shape counts against likeness to the images"""
    mask_prior_weight: float = 0.003
    """how much it counts against the overlap with masks, which leave less to doubt"""
    image_weight: float = 0.1
    """how much likeness to the image counts beside the overlap with a mask"""
    shell: float = 2.5
    """mm, thickness of the cortical shell in the model's X-ray"""
    interior: float = 0.1
    """attenuation of the interior relative to the cortical shell"""
    windows: tuple[float, ...] = (12.0, 20.0, 30.0)
    """mm on the detector, widths of the windows of local correlation"""
    start_pixels: int = 96
    """pixels along the longer side of the image while starts are searched"""
    fine_pixels: int = 192
    """pixels along the longer side of the image in the last steps"""
    starts: int = 24
    """how many starts are refined"""
    finalists: int = 4
    """how many of them are refined on the fine image"""
    steps: tuple[int, int, int] = (30, 30, 100)
    """optimisation steps for all starts, for the finalists, and for the winner"""
    accept: float = 0.12
    """local correlation on the bone below which a fit from images alone is declared failed (0 to 1)"""
    accept_dice: float = 0.8
    """Dice with the masks below which a fit to masks is declared failed (0 to 1)"""
    seed: int = 0
    """kept in the record; the fit itself draws nothing at random"""
    device: str = "cpu"
    """cpu or cuda"""


@dataclass(frozen=True)
class RenderSettings:
    """What picture is drawn of a model or of meshes."""

    picture: str = "paths"
    """paths: mm of bone along each ray; xray: intensity in [0, 1] with soft tissue and noise, bone dark"""
    view: str = ""
    """ap, pa, lateral or lateral-right: put the bone there instead of where the camera file's pose has it"""
    depth: float = 0.7
    """distance of the bone's centre from the source, as a share of sdd, where a view is named"""
    coefficients: tuple[float, ...] = ()
    """standard deviations of the first shape modes, for a model; the others are 0"""
    kv: float = 70.0
    """kV of the X-ray tube: 40 to 150 in steps of 10; its beam has passed 3 mm of aluminium"""
    copper: float = 0.0
    """mm of copper in that beam, besides"""
    materials: tuple[str, ...] = ("bone",)
    """of an X-ray's structures, one each or one for all: bone (a cortical shell, filled), titanium, ..."""
    shell: float = 1.6
    """mm, thickness of the cortex of bone"""
    photons: float = 400.0
    """per pixel of an X-ray, in the median over the image; 0 leaves the noise away"""
    seed: int = 0
    """of the noise and soft tissue of an X-ray"""


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
