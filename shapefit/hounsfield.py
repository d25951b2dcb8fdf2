"""CT numbers (Hounsfield units) -> matter: shares of water and cortical bone, and attenuation at an energy.

    HU = 1000 (mu / mu_water - 1)    at the effective energy of the CT, with mu = 0 for air

says what a voxel takes away at that energy alone. What it takes away at another depends on what it is made
of, taken here as a mixture by volume of nothing and water (-1000 to 0 HU), of water and cortical bone (0 HU
to that of cortical bone: 1559 at 70 keV), and as denser cortical bone beyond, metal too. At the CT's own
energy that is the definition above, at every HU. The two matters are those of `shapefit.materials`.
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from shapefit.grid import pieces
from shapefit.materials import attenuation_coefficient

AIR = -1000.0  # HU
# HU that nothing has. Noise and resampling reach -1200; what is lower fills the picture beside a scanner's
# field of view (-2000, -2048, -3024 ...). Scales extended for metal end at 30710
LOWEST, HIGHEST = -1500.0, 32000.0


def cortical_bone_hu(effective_energy: float = 70.0) -> float:
    """HU of cortical bone in a CT of that effective energy in keV."""
    bone = attenuation_coefficient("cortical bone", effective_energy)
    return 1000 * float(bone / attenuation_coefficient("water", effective_energy) - 1)


def water_and_bone(
    hu: Num[Tensor, "I *grid"],
    effective_energy: float = 70.0,
    threshold: float | None = None,
    padding: float | None = None,
) -> tuple[Float[Tensor, "I *grid"], Float[Tensor, "I *grid"]]:
    """Shares of water and of cortical bone by volume, from 0, in float32; not differentiable.

    They add up to 1 between 0 HU and cortical bone's, to less below and to more beyond. Arguments and errors
    are those of `attenuation_from_hu`.
    """
    _require_hu(hu, threshold, padding)
    bone_hu = cortical_bone_hu(effective_energy)
    water, bone = (torch.empty(hu.shape, dtype=torch.float32, device=hu.device) for _ in range(2))
    for piece, *out in zip(*(pieces(array) for array in (hu.detach(), water, bone)), strict=True):
        for target, share in zip(out, _shares(piece, bone_hu, threshold, padding), strict=True):
            target.copy_(share)
    return water, bone


def attenuation_from_hu(
    hu: Num[Tensor, "I *grid"],
    energy: float = 60.0,
    threshold: float | None = None,
    padding: float | None = None,
    effective_energy: float = 70.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "I *grid"]:
    """Linear attenuation in 1/mm of HU at an energy in keV: 0 at -1000 and below, water's at 0.

    `threshold`: HU below which everything counts as air, for bone alone. `padding`: HU at and below which a
    voxel lies outside the scanner's field of view, and counts as air. `effective_energy` is that of the CT,
    keV. Worked out piece by piece: needs little more memory than the result. Not differentiable.
    Raises ValueError for HU above 32000, for HU below -1500 that neither `threshold` nor `padding` explains,
    and for energies outside 10 to 150 keV. Values that are no HU but lie in that range cannot be told.
    """
    _require_hu(hu, threshold, padding)
    bone_hu = cortical_bone_hu(effective_energy)
    mu = [float(attenuation_coefficient(material, energy)) for material in ("water", "cortical bone")]
    result = torch.empty(hu.shape, dtype=dtype, device=hu.device)
    for piece, out in zip(pieces(hu.detach()), pieces(result), strict=True):
        water, bone = _shares(piece, bone_hu, threshold, padding)
        out.copy_(water.mul_(mu[0]).add_(bone, alpha=mu[1]))
    return result


def _shares(
    hu: Tensor, bone_hu: float, threshold: float | None, padding: float | None
) -> tuple[Tensor, Tensor]:
    hu = hu.to(torch.float32)
    share = hu / bone_hu
    # denser than bone: as much of it as gives the HU, without water
    bone = torch.where(hu > bone_hu, (hu + 1000) / (bone_hu + 1000), share.clamp(min=0))
    water = torch.where(hu > 0, 1 - share, 1 + hu / 1000).clamp(min=0)
    air = _air(hu, threshold, padding)
    return water.masked_fill_(air, 0.0), bone.masked_fill_(air, 0.0)


def _air(hu: Tensor, threshold: float | None, padding: float | None) -> Tensor:
    """Where the caller says that there is air."""
    air = torch.zeros_like(hu, dtype=torch.bool)
    if threshold is not None:
        air |= hu < threshold
    if padding is not None:
        air |= hu <= padding
    return air


def _require_hu(hu: Tensor, threshold: float | None, padding: float | None) -> None:
    low, high = (float(end) for end in torch.aminmax(hu.detach()))
    if high > HIGHEST:
        raise ValueError(
            f"values reach {high:g}, but Hounsfield units end at {HIGHEST:g}: "
            "apply the file's rescale slope and intercept, or clamp what is damaged"
        )
    if low >= LOWEST:
        return
    low = [piece[(piece < LOWEST) & ~_air(piece, threshold, padding)] for piece in pieces(hu.detach())]
    left = torch.cat(low)
    if len(left):
        raise ValueError(
            f"{len(left)} voxels are below {LOWEST:g} HU (down to {float(left.min()):g}), which nothing is: "
            "if they fill the picture beside the scanner's field of view, count them as air with "
            f"padding={float(left.max()):g}"
        )
