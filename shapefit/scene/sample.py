"""One simulated X-ray with everything that is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor

from shapefit.camera import Camera


@dataclass(frozen=True)
class Sample:
    """A simulated X-ray and its answer.

    `entry` and `exit` are the points of the template (mm, model frame: the mean shape) that lie where a
    pixel's ray first enters and last leaves the bone, 0 where it misses; the bone itself is the template bent
    by `coefficients` (and by what the model does not contain), and placed by `camera_from_bone`.
    """

    image: Float[Tensor, "H W"]  # as shown, in [0, 1]; bone dark unless `bright`
    entry: Float[Tensor, "3 H W"]  # mm
    exit: Float[Tensor, "3 H W"]  # mm
    structures: Bool[Tensor, "S H W"]  # which structures each ray meets
    camera: Camera
    camera_from_bone: Float[Tensor, "4 4"]
    coefficients: Float[Tensor, " K"]  # standard deviations
    drawn: Mapping[str, float | bool | str] = field(default_factory=dict)  # what else was drawn at random

    @property
    def covered(self) -> Bool[Tensor, "H W"]:
        """Pixels whose rays meet the bone."""
        return self.structures.any(0)
