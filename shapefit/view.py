"""One X-ray image and what is known of it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from shapefit.camera import Camera
from shapefit.se3 import is_rigid

IGNORE = 255  # mask value of pixels that say nothing


@dataclass(frozen=True)
class View:
    """An X-ray image, its camera, and, where known, its pose, valid pixels and mask.

    Raises ValueError where the sizes of image, camera, mask and valid pixels disagree, for
    values that are not finite in valid pixels, and for a pose that is not rigid.
    """

    image: Float[Tensor, "H W"]  # intensity in [0, 1], bone dark, as seen from the source
    camera: Camera
    world_from_camera: Float[Tensor, "4 4"] | None = None  # mm; None if unknown
    valid: Bool[Tensor, "H W"] | None = None  # False: collimated, annotated, unusable; None: all valid
    mask: UInt8[Tensor, "H W"] | None = None  # structure 1..S in the model's order, 0 background, 255 ignore
    name: str = "view"

    def __post_init__(self):
        size = (self.camera.height, self.camera.width)
        for what in ("image", "valid", "mask"):
            array = getattr(self, what)
            if array is not None and tuple(array.shape) != size:
                raise ValueError(
                    f"{self.name}: the {what} has {tuple(array.shape)} rows and columns, its camera {size}"
                )
        if self.valid is None:
            object.__setattr__(self, "valid", torch.ones(size, dtype=torch.bool))
        if bad := int((~torch.isfinite(self.image) & self.valid).sum()):
            raise ValueError(f"{self.name}: {bad} valid pixels are NaN or infinite")
        if not self.valid.any():
            raise ValueError(f"{self.name}: no pixel is valid")
        if self.world_from_camera is not None and not is_rigid(self.world_from_camera):
            raise ValueError(f"{self.name}: world_from_camera is not a rigid motion in mm")

    def posed(self, world_from_camera: Float[Tensor, "4 4"] | None) -> "View":
        """The same image with another camera pose."""
        return replace(self, world_from_camera=world_from_camera)
