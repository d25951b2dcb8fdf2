"""How bones are found in X-rays, and how X-rays are drawn."""

from dataclasses import dataclass


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
    belief: float = 0.0
    """share of these weights by which the distance from the pose and shape that a network saw counts, in its
    deviations and less far off, beside the rest for the shape's own (0: it is only where the fit starts)"""
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
    trust: float = 0.19
    """that correlation of a network's start, refined, below which the search over views is asked as well"""
    trust_inliers: float = 0.6
    """share of pixels that agree with a network's pose, below which it is asked as well (0 to 1)"""
    stray: float = 10.0
    """standard deviations of a network's pose, beyond which what that search finds does not replace it"""
    accept_dice: float = 0.8
    """Dice with the masks below which a fit to masks is declared failed (0 to 1)"""
    seed: int = 0
    """of the copies of a network's start; a search over views draws nothing at random"""
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
