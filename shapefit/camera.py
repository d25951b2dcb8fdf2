"""The X-ray camera: the only place where geometric conventions are written down.

              source = camera origin
                 o----------> x  (columns j of the image)
                /|
               / |
              y  |                  world: patient RAS+, mm
       (rows i)  |  .-''-.          camera: x right, y down, z from the source
                 | (  bone )                through the detector, mm
                 |  '-..-'          image: as seen FROM THE SOURCE; pixel centres
                 v z                       are integers (row i, column j)
        _________|_________  detector, at z = sdd
                  principal point

- A transform is named `target_from_source`, 4x4, mm: `camera_from_world @ (X, 1)`.
- A world point X is seen at (u, v) = (column, row) with  z (u, v, 1) = K X_camera,

      K = [[sdd / delx, 0, cx], [0, sdd / dely, cy], [0, 0, 1]],
      cx = (width - 1) / 2 + x0 / delx,   cy = (height - 1) / 2 + y0 / dely.

- Angles are radians. Files with other conventions are converted once, in `io/`.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

VIEWS = ("ap", "pa", "lateral", "lateral-right")


@dataclass(frozen=True)
class Camera:
    """Intrinsic geometry of an X-ray camera. Lengths may be tensors, to take gradients in them.

    Raises ValueError for lengths that are not positive and finite, or an empty image.
    """

    sdd: float | Tensor  # source-to-detector distance, mm
    delx: float | Tensor  # pixel width on the detector, mm
    dely: float | Tensor  # pixel height on the detector, mm
    x0: float | Tensor  # principal point from the image centre along columns, mm
    y0: float | Tensor  # principal point from the image centre along rows, mm
    height: int  # rows
    width: int  # columns

    def __post_init__(self):
        for name in ("sdd", "delx", "dely"):
            value = _number(getattr(self, name))
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"camera {name} must be a positive length in mm, got {value:g}")
        for name in ("x0", "y0"):
            if not math.isfinite(_number(getattr(self, name))):
                raise ValueError(f"camera {name} must be a finite length in mm, got {getattr(self, name)}")
        for name in ("height", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"camera {name} must be a whole number of pixels from 1, got {value!r}")

    def intrinsics(
        self, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
    ) -> Float[Tensor, "3 3"]:
        """K: camera mm to homogeneous pixels (column z, row z, z). Differentiable in tensor fields."""
        lengths = (self.sdd, self.delx, self.dely, self.x0, self.y0)
        free = any(isinstance(length, Tensor) for length in lengths)
        if free:
            lengths = tuple(torch.as_tensor(length, dtype=dtype, device=device) for length in lengths)
        sdd, delx, dely, x0, y0 = lengths
        cx, cy = (self.width - 1) / 2 + x0 / delx, (self.height - 1) / 2 + y0 / dely
        rows = ((sdd / delx, 0.0, cx), (0.0, sdd / dely, cy), (0.0, 0.0, 1.0))
        if not free:
            return torch.tensor(rows, dtype=dtype, device=device)
        return torch.stack([torch.stack([torch.as_tensor(x).to(sdd) for x in row]) for row in rows])

    def resized(self, height: int, width: int) -> "Camera":
        """The same detector, sampled by another number of pixels."""
        return replace(
            self, height=height, width=width,
            delx=self.delx * self.width / width, dely=self.dely * self.height / height,
        )  # fmt: skip

    def project(
        self, camera_from_world: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*points 3"]
    ) -> Float[Tensor, "*projected 2"]:
        """World points (..., N, 3) in mm -> (column, row) in pixels."""
        p = homogeneous_pixels(self, camera_from_world, points)
        return p[..., :2] / p[..., 2:]


def _number(length: float | Tensor) -> float:
    return float(length.detach() if isinstance(length, Tensor) else length)


def homogeneous_pixels(
    camera: Camera, camera_from_world: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*points 3"]
) -> Float[Tensor, "*projected 3"]:
    """K X_camera = (column z, row z, z) of world points: what the mesh kernels take."""
    k = camera.intrinsics(points.dtype, points.device)
    rotation, translation = camera_from_world[..., :3, :3], camera_from_world[..., :3, 3]
    return points @ (k @ rotation).mT + (translation @ k.mT)[..., None, :]


def ray_lengths(
    camera: Camera, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Float[Tensor, "H W"]:
    """|K^-1 (j, i, 1)|: mm along each pixel's ray for every mm of depth."""
    k = camera.intrinsics(dtype, device)
    j = torch.arange(camera.width, dtype=dtype, device=device)
    i = torch.arange(camera.height, dtype=dtype, device=device)
    x, y = (j - k[0, 2]) / k[0, 0], (i - k[1, 2]) / k[1, 1]
    return (1 + x[None, :] ** 2 + y[:, None] ** 2).sqrt()


def world_from_view(view: str, center: Float[Tensor, "3"], source_to_center: float) -> Float[Tensor, "4 4"]:
    """Camera pose (world_from_camera) of a standard view of a patient whose axes are the world's (RAS).

    `center` (mm) lies on the principal ray, `source_to_center` mm from the source; the image's
    rows run towards the feet. "ap": the source in front of the patient, whose right side is on
    the left of the image; "pa": behind; "lateral": at the patient's left; "lateral-right".
    """
    beams = {  # direction of z, from the source through the patient
        "ap": (0.0, -1.0, 0.0),
        "pa": (0.0, 1.0, 0.0),
        "lateral": (1.0, 0.0, 0.0),
        "lateral-right": (-1.0, 0.0, 0.0),
    }
    if view not in beams:
        raise ValueError(f"unknown view {view!r}; expected one of {', '.join(VIEWS)}")
    z = torch.tensor(beams[view], dtype=torch.float64)
    y = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = torch.linalg.cross(y, z), y, z
    pose[:3, 3] = center.to(torch.float64) - source_to_center * z
    return pose
