"""How X-rays are simulated to train on, how a network learns from them, and how it is asked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SimulateSettings:
    """What X-rays are simulated: the prior of C-arm views, of bodies, and of what becomes of the picture."""

    seed: int = 0
    """sample i depends on this number and i alone"""
    pixels: int = 128
    """rows and columns of the image"""
    view: str = "ap"
    """the view around which poses are drawn: ap, pa, lateral or lateral-right"""
    turn: float = 45.0
    """degrees to both sides, evenly: about the patient's long axis (LAO, RAO)"""
    tilt: float = 30.0
    """degrees to both sides, evenly: towards head and feet (inlet, outlet)"""
    spin: float = 12.0
    """degrees, standard deviation of the turn in the image's plane, which ends at three of them"""
    sdd: tuple[float, float] = (950.0, 1250.0)
    """mm, range of the distance from the source to the detector"""
    detector: tuple[float, float] = (260.0, 430.0)
    """mm, range of the detector's width"""
    depth: float = 0.72
    """distance of the bone's centre from the source, as a share of sdd"""
    depth_std: float = 0.03
    """its standard deviation, as a share of sdd"""
    shift: tuple[float, float] = (45.0, 40.0)
    """mm at the bone, standard deviation of its centre from the principal ray, along columns and rows"""
    least_visible: float = 0.35
    """share of the bone's vertices within the field below which another pose is drawn"""
    deformation: float = 2.5
    """mm, mean length of the largest smooth deformation that the shape model does not contain"""
    deformation_width: float = 30.0
    """mm, how smooth it is"""
    empty: float = 0.04
    """share of samples that show a body without the bone"""
    neighbours: float = 0.9
    """share of samples in which neighbouring bones are drawn"""
    implants: float = 0.0
    """share of samples with metal: screws, wires, the stem of a hip"""
    collimation: float = 0.25
    """share of samples whose field is narrowed by a collimator or an image intensifier"""
    text: float = 0.2
    """share of samples with burnt-in letters or marks"""
    bright: float = 0.1
    """share of samples in which bone is bright"""
    faces: int = 3000
    """faces to which each structure is simplified before it is drawn; 0: as many as it has"""


@dataclass(frozen=True)
class ShardSettings:
    """How simulated X-rays are made side by side and laid into files."""

    shard_size: int = 1000
    """samples in each file; what is unfinished when a job stops is made again"""
    workers: int = 2
    """processes that simulate side by side, each a file of its own"""
    cluster: str = ""
    """address or scheduler file of a Dask cluster that does the work instead, as in tcp://host:8786"""


@dataclass(frozen=True)
class TrainSceneSettings:
    """How a scene-coordinate network learns."""

    steps: int = 10000
    """optimisation steps in all"""
    batch: int = 16
    """samples in each, over all processes"""
    channels: tuple[int, ...] = (48, 96, 192, 256)
    """width of the network on each level; every level but the last halves the image"""
    fold: int = 2
    """side, in pixels, of the squares that the network takes as one and answers as many"""
    residual_units: int = 1
    """convolutions within each level's residual unit"""
    attention: int = 3
    """blocks of attention on the lowest level, by which each place sees all the others"""
    rate: float = 2e-3
    """the optimiser's highest learning rate; it rises over `warmup` steps and falls as a cosine"""
    warmup: int = 200
    """steps over which the rate rises"""
    weight_decay: float = 1e-4
    """of AdamW"""
    clip: float = 1.0
    """largest norm of the gradient"""
    beta: float = 0.5
    """how far the likelihood is weighted with the predicted variance: 0 plain, 1 as squared errors"""
    structure_weight: float = 1.0
    """weight of the structures' masks beside that of the coordinates"""
    hidden: float = 0.3
    """share of samples of which a part is hidden and marked as not valid"""
    cropped: float = 0.25
    """share of samples of which a turned part is shown, enlarged: another camera's X-ray of the same bone"""
    mirrored: float = 0.0
    """share of samples that are shown as in a mirror: X-rays of bones that a symmetric shape model has too"""
    precision: str = "auto"
    """float32, bfloat16, float16 (cuda), or auto: bfloat16 where the processor computes in it"""
    held_out: int = 512
    """samples kept from training, to judge by; the last of the set"""
    judge_every: int = 500
    """steps between looks at these"""
    save_every: int = 250
    """steps between checkpoints"""
    threads: int = 0
    """of the processor; 0: as torch chooses"""
    workers: int = 0
    """processes that read or draw samples ahead; 0: this one does"""
    seed: int = 0
    """of the first weights and the order of the samples"""
    device: str = "cpu"
    """cpu or cuda"""


@dataclass(frozen=True)
class LocateSettings:
    """How pose and shape follow from scene coordinates."""

    looks: int = 8
    """how often the network looks at each X-ray, somewhat moved and, if it has learned so, in a mirror"""
    structure_threshold: float = 0.5
    """probability from which a pixel counts as covered by the bone"""
    least_area: float = 0.02
    """share of the image below which there is no bone in it"""
    correspondences: int = 600
    """pixels that vote, at most; the surest ones, spread over the bone"""
    reprojection: float = 4.0
    """pixels of the network's image by which an inlier may miss"""
    least_inliers: float = 0.4
    """share of inliers below which there is no answer"""
    least_overlap: float = 0.85
    """Dice of the located bone's shadow with what seems to be the bone, below which there is none (0 to 1)"""
    pixel: float = 0.5
    """pixels of the network's image, standard deviation of what a pixel's own size adds to a miss"""
    beyond: float = 1.5
    """mm, standard deviation along each axis of how far bones lie from what the shape model can be"""
    modes: int = 30
    """shape modes that are solved for; fewer if the model has fewer"""
    independent: float = 8.0
    """how many independent observations the pixels of a whole bone in one view are worth: they err alike"""
    shadow: float = 1.0
    """standard deviation, after a blur, of each pixel of the located bones' shadows from the probabilities
    of the structures (0: shadows are not compared)"""
    depth: float = 0.72
    """the bone's distance from the source that is expected where no pose is given, as a share of sdd"""
    depth_std: float = 0.03
    """its standard deviation, as a share of sdd; 0: nothing is expected"""
    free_views: bool = False
    """estimate the pose of every view; given poses are not used"""
    seed: int = 0
    """of the consensus"""
    device: str = "cpu"
    """cpu or cuda"""
