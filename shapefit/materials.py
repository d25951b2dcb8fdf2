"""How much X-ray energy matter takes away: linear attenuation in 1/mm.

Mass attenuation coefficients (total with coherent scattering, cm^2/g) and densities (g/cm^3) after
Hubbell & Seltzer, Tables of X-Ray Mass Attenuation Coefficients, NISTIR 5632 (2004), tables for
ICRU-44 cortical bone and soft tissue; trabecular bone is their mixture by mass.
"""

import math
from bisect import bisect_right

ENERGIES = (20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)  # keV
CORTICAL = (4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480)  # cm^2/g
SOFT = (0.8230, 0.3790, 0.2688, 0.2264, 0.2048, 0.1823, 0.1693, 0.1492)  # cm^2/g
TRABECULAR_SHARE = 0.3  # of trabecular bone's mass that is mineralised like cortex; the rest is marrow
DENSITY = {"cortical bone": 1.92, "trabecular bone": 1.18, "soft tissue": 1.06, "gas": 0.0}  # g/cm^3


def attenuation(material: str, energy: float) -> float:
    """Linear attenuation in 1/mm of a material at an energy in keV (20 to 150).

    Interpolated between the tabulated energies on log-log axes. Raises ValueError for an unknown
    material or an energy outside the tables.
    """
    if material not in DENSITY:
        raise ValueError(f"unknown material {material!r}; expected one of {', '.join(DENSITY)}")
    if not ENERGIES[0] <= energy <= ENERGIES[-1]:
        raise ValueError(
            f"energy {energy:g} keV is outside the tables: {ENERGIES[0]:g} to {ENERGIES[-1]:g} keV"
        )
    cortical, soft = _interpolate(CORTICAL, energy), _interpolate(SOFT, energy)
    mixed = TRABECULAR_SHARE * cortical + (1 - TRABECULAR_SHARE) * soft
    mass = {"cortical bone": cortical, "trabecular bone": mixed, "soft tissue": soft, "gas": 0.0}[material]
    return mass * DENSITY[material] / 10


def _interpolate(table: tuple[float, ...], energy: float) -> float:
    k = min(bisect_right(ENERGIES, energy), len(ENERGIES) - 1) - 1
    x0, x1 = math.log(ENERGIES[k]), math.log(ENERGIES[k + 1])
    share = (math.log(energy) - x0) / (x1 - x0)
    return math.exp((1 - share) * math.log(table[k]) + share * math.log(table[k + 1]))
