"""What an X-ray tube gives out: photons by energy, behind filters of aluminium and copper.

The tube's spectra (`tube_spectra.csv`) were computed with SpekPy 2.5.4 (Poludniowski et al. 2021, Med. Phys.
48:3630) for a tungsten anode of 12 degrees and 2.5 mm of aluminium, and are held in bins of 2 keV;
`scripts/make_spectra.py` makes them again. Filters beyond that are Beer-Lambert's law with our own tables.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from scipy.optimize import brentq

from shapefit.materials import HIGHEST, LOWEST, air_absorption, attenuation_coefficient

TUBE_ALUMINIUM = 2.5  # mm that the tabulated spectra have passed
# IEC 61267 radiation qualities as (kV, mm of aluminium in all): the filtration that gives this tube the
# standard's nominal first half-value layer; `spectrum(*RQR[5])` is RQR 5
RQR = {
    2: (40.0, 2.63), 3: (50.0, 2.58), 4: (60.0, 2.74), 5: (70.0, 2.85), 6: (80.0, 2.97), 7: (90.0, 3.10),
    8: (100.0, 3.23), 9: (120.0, 3.53), 10: (150.0, 4.06),
}  # fmt: skip


@dataclass(frozen=True)
class Spectrum:
    """Photons of an X-ray beam by energy; `Spectrum((60.0,))` is a beam of one energy.

    Raises ValueError for lengths that differ, an energy outside the tables (10 to 150 keV), a negative
    weight, or no photon at all.
    """

    energies: tuple[float, ...]  # keV
    weights: tuple[float, ...] = (1.0,)  # numbers of photons, on any scale

    def __post_init__(self):
        if len(self.energies) != len(self.weights):
            raise ValueError(f"{len(self.energies)} energies but {len(self.weights)} weights in a spectrum")
        if not self.energies or not all(LOWEST <= energy <= HIGHEST for energy in self.energies):
            raise ValueError(
                f"a spectrum needs energies from {LOWEST:g} to {HIGHEST:g} keV, got {self.energies}"
            )
        weights = np.array(self.weights)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError("the weights of a spectrum are numbers of photons: not negative, not all 0")

    @property
    def mean_energy(self) -> float:
        """keV per photon."""
        return float(np.average(self.energies, weights=self.weights))

    def filtered(self, material: str, thickness: float) -> "Spectrum":
        """The same beam behind `thickness` mm of a material of `shapefit.materials`."""
        mu = attenuation_coefficient(material, np.array(self.energies))
        return Spectrum(self.energies, tuple((np.array(self.weights) * np.exp(-mu * thickness)).tolist()))


def spectrum(kv: float, aluminium: float = 3.0, copper: float = 0.0) -> Spectrum:
    """The beam of a tungsten tube at `kv` (40 to 150, in steps of 10) behind mm of aluminium and copper.

    `aluminium` is the whole filtration, at least 2.5 mm: what a tube and its collimator have. Fluoroscopy
    adds 0.1 to 0.9 mm of copper. Raises ValueError for a voltage or filters that are not there.
    """
    table = _tube()
    if kv not in table:
        volts = ", ".join(f"{v:g}" for v in table)
        raise ValueError(f"no spectrum for a tube voltage of {kv:g} kV; expected one of {volts}")
    if not aluminium >= TUBE_ALUMINIUM or not copper >= 0:
        raise ValueError(
            f"filters must be at least {TUBE_ALUMINIUM:g} mm of aluminium and 0 mm of copper, "
            f"got {aluminium:g} and {copper:g}"
        )
    return table[kv].filtered("aluminium", aluminium - TUBE_ALUMINIUM).filtered("copper", copper)


def half_value_layer(beam: Spectrum, material: str = "aluminium", share: float = 0.5) -> float:
    """Millimetres of a material behind which a share of the beam's air kerma is left (narrow beam).

    Air kerma is taken as photons times energy times the mass energy-absorption coefficient of air. The
    second half-value layer is that for a share of 0.25 less that for 0.5.
    """
    energies = np.array(beam.energies)
    kerma = np.array(beam.weights) * energies * air_absorption(energies)
    mu = attenuation_coefficient(material, energies)
    # the least attenuated energy bounds the thickness
    most = -np.log(share) / mu[kerma > 0].min()
    return float(brentq(lambda t: kerma @ np.exp(-mu * t) - share * kerma.sum(), 0.0, most * (1 + 1e-9)))


@cache
def _tube() -> dict[float, Spectrum]:
    """The tabulated spectra by tube voltage in kV, without the bins above it."""
    text = (files("shapefit") / "tube_spectra.csv").read_text()
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    values = np.array(rows[1:], dtype=np.float64)
    table = {}
    for n, kv in enumerate(rows[0][1:], start=1):
        there = values[:, n] > 0
        table[float(kv)] = Spectrum(tuple(values[there, 0].tolist()), tuple(values[there, n].tolist()))
    return table
