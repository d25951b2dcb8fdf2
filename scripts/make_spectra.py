"""Make shapefit/tube_spectra.csv, the tube spectra that shapefit.spectra reads.

Needs SpekPy, which is no dependency of shapefit (in an environment of its own: pip install spekpy==2.5.4):

    python scripts/make_spectra.py shapefit/tube_spectra.csv

Tungsten anode of 12 degrees behind 2.5 mm of aluminium, 40 to 150 kV. Also printed: the aluminium in all
that gives each quality RQR of IEC 61267 its nominal first half-value layer (the table RQR in
shapefit.spectra), with the mean energy and the homogeneity coefficient that come out.
"""

import sys
from pathlib import Path

import numpy as np
import spekpy

ANODE, ALUMINIUM, BIN, LOWEST = 12.0, 2.5, 2.0, 10.0  # degrees, mm, keV, keV
# number: kV, nominal first half-value layer in mm of aluminium
RQR = {
    2: (40, 1.42), 3: (50, 1.78), 4: (60, 2.19), 5: (70, 2.58), 6: (80, 3.01), 7: (90, 3.48),
    8: (100, 3.97), 9: (120, 5.00), 10: (150, 6.57),
}  # fmt: skip


def tube(kv: int, aluminium: float) -> spekpy.Spek:
    spectrum = spekpy.Spek(kvp=kv, th=ANODE, dk=0.5)
    spectrum.filter("Al", aluminium)
    return spectrum


def binned(kv: int) -> np.ndarray:
    """Photons per cm^2 and mAs at 1 m in each bin of 2 keV from 10 keV up to the tube's voltage."""
    energies, photons = tube(kv, ALUMINIUM).get_spectrum(diff=False)
    edges = np.arange(LOWEST, kv + BIN, BIN)
    return np.histogram(energies, edges, weights=photons)[0]


def filtration(kv: int, layer: float) -> float:
    """Millimetres of aluminium with which the first half-value layer is `layer` mm."""
    low, high = 1.0, 8.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if tube(kv, middle).get_hvl1() < layer else (low, middle)
    return low


def main(path: Path) -> None:
    volts = range(40, 151, 10)
    columns = [binned(kv) for kv in volts]
    lines = [
        f"# X-ray tube spectra: photons per cm^2 and mAs at 1 m in bins of {BIN:g} keV, by tube kV.",
        f"# Tungsten anode, {ANODE:g} degrees, {ALUMINIUM:g} mm aluminium. Computed with SpekPy "
        f"{spekpy.__version__}, physics spekpy-v2-casim",
        "# (Poludniowski et al. 2021, Med. Phys. 48:3630), by scripts/make_spectra.py.",
        ",".join(["keV", *map(str, volts)]),
    ]
    for n in range(len(columns[-1])):
        counts = [f"{column[n]:.4g}" if n < len(column) else "0" for column in columns]
        lines.append(",".join([f"{LOWEST + (n + 0.5) * BIN:g}", *counts]))
    path.write_text("\n".join(lines) + "\n")
    for number, (kv, layer) in RQR.items():
        aluminium = filtration(kv, layer)
        made = tube(kv, aluminium)
        print(
            f"RQR {number}: {kv} kV, {aluminium:.2f} mm Al, mean {made.get_emean():.1f} keV, "
            f"homogeneity {made.get_hc():.3f}"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
