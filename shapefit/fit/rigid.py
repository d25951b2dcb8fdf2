"""The rigid pose of a known bone or CT from X-rays: many starts on coarse images, the best on fine ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trimesh
from jaxtyping import Float, Float64
from torch import Tensor

from shapefit.settings import RegisterSettings
from shapefit.view import View
from shapefit.volume import Volume

NAMES = ("coarse", "middle", "fine")


@dataclass(frozen=True)
class RigidFit:
    """The rigid pose of a bone or CT found in X-rays. Poses in mm, RAS."""

    world_from_bone: Float64[Tensor, "4 4"]
    world_from_camera: Float64[Tensor, "N 4 4"]  # as given; for one view without a pose, that assumed
    losses: list[float]  # per view: 0 for a perfect match, about 1 without any likeness
    terms: list[dict[str, float]]  # per view
    converged: bool
    reason: str  # why, in words
    history: list[dict]  # stage, step, loss, and the best candidate's pose: world_from_bone as rows
    candidates: list[dict]  # the coarse images' best: start, loss, world_from_bone; the best first
    seconds: float


def register_views(
    matter: Volume | Mapping[str, trimesh.Trimesh],
    views: Sequence[View],
    settings: RegisterSettings | None = None,
    progress: Callable[[str, float], None] | None = None,
    init: Float[Tensor, "4 4"] | None = None,
) -> RigidFit:
    """The pose world_from_bone at which a CT (attenuation, 1/mm) or closed meshes (mm) explain X-rays best.

    Every view has a pose `world_from_camera`, unless there is only one: then the world is the bone's own
    frame with the camera placed as `settings.view` says. The search begins at `init` (the identity if
    absent: the bone lies where its file's coordinates say) and looks within `settings.translation_range` and
    `settings.rotation_range` of it. A registration that does not explain the images is returned with
    `converged=False` and the reason. Raises ValueError for no views, views without a pose beside others, a CT
    in Hounsfield units, meshes that are open, an `init` that is not rigid, and a bone that an X-ray
    misses at its start.
    Method: patch-wise and gradient correlation, starts spread by Sobol's sequence, judged on coarse images,
    refined by Gauss-Newton steps on sparse patches from coarse to fine.
    """
    began = time.monotonic()
    settings = settings or RegisterSettings()
    raise NotImplementedError


def likeness(
    matter: Volume | Mapping[str, trimesh.Trimesh],
    views: Sequence[View],
    poses: Float[Tensor, "B 4 4"],
    settings: RegisterSettings | None = None,
    pixels: int = 128,
) -> Float[Tensor, "B"]:
    """The loss that `register_views` descends, at poses world_from_bone, on images of `pixels` pixels."""
    raise NotImplementedError
