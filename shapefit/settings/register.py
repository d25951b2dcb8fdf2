"""How a known bone or CT is placed in X-rays."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RegisterSettings:
    """How the rigid pose of a known bone or CT is found from X-rays."""

    view: str = "ap"
    """which view a single X-ray without a pose is expected to be: ap, pa, lateral or lateral-right"""
    depth: float = 0.7
    """distance of the bone's centre from the source, as a share of sdd, where no pose is given"""
    translation_range: float = 20.0
    """mm, how far around its start the bone's centre is searched"""
    rotation_range: float = 20.0
    """degrees, how far the bone may be turned from its start, about any axis through its centre"""
    starts: int = 64
    """poses tried within that range, the given one among them; 1: only the given one"""
    finalists: tuple[int, int] = (8, 2)
    """how many of them are refined on the coarse images, and how many of these on the middle ones"""
    pixels: tuple[int, int, int] = (48, 96, 256)
    """pixels along the longer side of the image: coarse, middle, fine"""
    steps: tuple[int, int, int] = (10, 6, 12)
    """most optimisation steps on each of them"""
    patch: int = 24
    """pixels, edge of the patches within which images are correlated, on each of them; halves of it, too"""
    rays: tuple[int, int, int] = (5120, 10240, 20480)
    """rays drawn at random patches of all views together, at most, on each of them; 0: all"""
    gradient_weight: float = 0.5
    """how much the correlation of image gradients counts beside that of images"""
    method: str = "trilinear"
    """how a CT is integrated on the fine images: trilinear, siddon or raymarch, which serves on the others"""
    shell: float = 2.5
    """mm, thickness of the cortical shell of a mesh in its X-ray"""
    interior: float = 0.1
    """attenuation of a mesh's interior relative to its cortical shell"""
    belief: float = 0.005
    """how much half the squared distance from the pose that a network saw, in its deviations and less far
    off, counts against likeness (0: it is only where the search begins)"""
    accept: float = 0.4
    """correlation in patches with bone below which a registration is declared failed (0 to 1)"""
    near: float = 3.0
    """standard deviations from where a network saw the bone, within which less correlation is asked for"""
    accept_near: float = 0.2
    """correlation below which a registration is declared failed there (0 to 1)"""
    seed: int = 0
    """of the spread of starts and of the patches that are drawn"""
    device: str = "cpu"
    """cpu or cuda"""
