"""Path lengths and materials -> what an X-ray detector measures: attenuation, energies, blur, noise.

Scattered radiation is left out: an anti-scatter grid is assumed to be perfect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shapefit.camera import Camera
from shapefit.materials import attenuation_coefficient
from shapefit.spectra import Spectrum

TRUNCATE = 4.0  # standard widths at which the blur ends


@dataclass(frozen=True)
class Detector:
    """What turns photons into an image.

    A photon counts if the scintillator stops it, for its energy unless `counting`; light and fluorescence
    that leave the scintillator are not modelled.
    """

    scintillator: float = 0.4  # mm of solid caesium iodide: 180 mg/cm^2, usual in panels and intensifiers
    counting: bool = False  # a photon counts as one, whatever its energy
    blur: float = 0.0  # mm on the detector, standard width of the point spread

    def response(self, energies: np.ndarray) -> np.ndarray:
        """Mean signal of a photon by energy in keV, on any scale."""
        absorbed = -np.expm1(-attenuation_coefficient("caesium iodide", energies) * self.scintillator)
        return absorbed if self.counting else absorbed * energies


PANEL = Detector()


def attenuation(paths: Float[Tensor, "B S H W"], mu: Float[Tensor, "S"]) -> Float[Tensor, "B 1 H W"]:
    """Line integral of attenuation, sum over s of mu_s L_s (unitless), of paths in mm and mu in 1/mm.

    Paths are added as they are, where structures overlap, too: whoever nests one matter in another first
    takes the inner path from the outer one, as `material_paths` does.
    """
    # not a matrix product: autocast would round it to half precision
    return (paths * mu.to(paths)[:, None, None]).sum(1, keepdim=True)


def detector_signal(
    paths: Float[Tensor, "B S H W"],
    materials: Sequence[str],
    spectrum: Spectrum,
    detector: Detector = PANEL,
) -> Float[Tensor, "B 1 H W"]:
    """Expected signal behind paths (mm) through materials, as a share of that of the open beam.

    Beer-Lambert's law for each energy of the spectrum, weighted with the photons and the detector's response;
    for one energy this is exp(-attenuation). Differentiable in the paths; energies are gone through one by
    one, also in the backward pass, so that memory does not grow with their number. In float32 the signal
    becomes 0 from a line integral of about 100. The detector's blur is not part of it: see `detector_blur`.
    Raises ValueError unless there is one known material for every channel of the paths.
    """
    if len(materials) != paths.shape[1]:
        raise ValueError(f"{paths.shape[1]} structures need as many materials, got {len(materials)}")
    shares, coefficients = _energy_table(tuple(materials), spectrum, detector)
    signal = torch.zeros_like(paths[:, :1])
    for share, mu in zip(shares, torch.tensor(coefficients, dtype=torch.float64).to(paths), strict=True):
        if torch.is_grad_enabled() and paths.requires_grad:
            signal = signal + share * checkpoint(
                _through, paths, mu, use_reentrant=False, preserve_rng_state=False
            )
        else:
            signal += share * _through(paths, mu)
    return signal


@torch.compiler.assume_constant_result  # for torch.compile
def _energy_table(materials, spectrum, detector):
    """Share of each energy in the signal of the open beam, and the materials' coefficients in 1/mm there."""
    energies = np.array(spectrum.energies)
    weights = np.array(spectrum.weights) * detector.response(energies)
    mu = np.stack([attenuation_coefficient(material, energies) for material in materials], 1)
    return (weights / weights.sum()).tolist(), mu.tolist()


def _through(paths: Tensor, mu: Tensor) -> Tensor:
    return torch.exp(-attenuation(paths, mu))


def detector_blur(signal: Float[Tensor, "B C H W"], sigma: float, camera: Camera) -> Float[Tensor, "B C H W"]:
    """The image behind a Gaussian point spread of standard width `sigma` mm on the detector.

    Its modulation transfer is exp(-2 (pi f sigma)^2) at f cycles per mm. Differentiable; the image goes on
    mirrored beyond its edges, so an even image stays as it is. Raises ValueError for a negative width.
    """
    if not sigma >= 0:
        raise ValueError(f"the blur must have a width of 0 mm or more, got {sigma:g}")
    for axis, pitch in ((-2, camera.dely), (-1, camera.delx)):
        signal = _gaussian(signal, sigma / float(pitch), axis)
    return signal


def _gaussian(signal: Tensor, sigma: float, axis: int) -> Tensor:
    reach = int(TRUNCATE * sigma + 0.5)
    if reach == 0:
        return signal
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    size = signal.shape[axis]
    place = np.arange(-reach, size + reach) % (2 * size)  # ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
    mirrored = torch.from_numpy(np.minimum(place, 2 * size - 1 - place)).to(signal.device)
    padded = signal.index_select(axis, mirrored)
    # tap by tap, which keeps nothing for the backward pass
    blurred = torch.zeros_like(signal)
    for n, tap in enumerate(taps.tolist()):
        blurred = blurred + tap * padded.narrow(axis, n, size)
    return blurred


def poisson_noise(
    signal: Float[Tensor, "B C H W"], photons: float, generator: torch.Generator | None = None
) -> Float[Tensor, "B C H W"]:
    """The signal as counted with `photons` detected per pixel of the open beam, on the same scale.

    Each pixel's mean stays and its variance is signal / photons. (An integrating detector's is some per cent
    larger: its photons differ in energy.) A generator with a seed makes the noise repeatable. Not
    differentiable: the result is a constant. Raises ValueError unless `photons` is positive.
    """
    if not photons > 0:
        raise ValueError(f"noise needs a positive number of photons per pixel, got {photons:g}")
    return torch.poisson(signal.detach().clamp(min=0) * photons, generator) / photons
