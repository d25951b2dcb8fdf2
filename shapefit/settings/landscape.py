"""How a CT is taken, and how the loss around a registration's answer is shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CTSettings:
    """How a CT in Hounsfield units becomes an attenuation."""

    threshold: float | None = None
    """HU below which everything counts as air, such as 150 for bone alone; soft tissue stays if absent"""
    padding: float | None = None
    """HU at and below which voxels lie outside the scanner's field of view and count as air, such as -2000"""
    energy: float = 60.0
    """keV at which HU become attenuation"""


@dataclass(frozen=True)
class LandscapeSettings:
    """Slices of the loss around the answer of a registration."""

    turn: float = 30.0
    """degrees to either side, of the slices along rotations"""
    shift: float = 30.0
    """mm to either side, of the slices along the image's columns and rows"""
    depth: float = 60.0
    """mm to either side, of the slices along the beam of the first view"""
    samples: int = 25
    """poses along each of the six lines"""
    grid: int = 11
    """poses along each edge of the three planes"""
    image: int = 48
    """pixels along the longer side of the images that are compared for it"""
