"""One colour per structure, the same in every report, apart for colour-blind eyes too."""

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator
from skimage.color import lab2rgb, rgb2lab

# Okabe and Ito (2008), ordered so that neighbours also differ in lightness on grey X-rays and on white.
PALETTE = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#0072B2", "#F0E442")
UNSEEN = "#C9C8C4"  # what no view shows
REFERENCE = "#3A3A3C"  # the truth, where it is drawn over a result

# Distances: light is near, dark is far; lightness alone tells the order.
DISTANCE_SCALE = ("#F4EFE6", "#F6C88B", "#EC8A4F", "#C8442F", "#7A1426", "#2E0614")
# Signed: blue below zero, red above, pale at zero; both arms darken alike.
BELOW = ("#F4EFE6", "#9CC4E4", "#2F74B5", "#0B2F66")
ABOVE = ("#F4EFE6", "#F3B98A", "#C8502F", "#6E1020")


def structure_colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of each structure, by its place in the model; after seven they begin again."""
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(names)}


def even_steps(stops: Sequence[str], count: int = 33) -> list[str]:
    """`count` colours along the path through `stops` at equal steps of CIELAB distance (CIE 1976).

    Equal differences of a value then look equally large.
    """
    path = rgb2lab(np.array([[rgb(stop) for stop in stops]]) / 255)[0]
    fine = np.linspace(0, len(path) - 1, 100 * count)
    path = np.stack([PchipInterpolator(range(len(path)), channel)(fine) for channel in path.T], axis=1)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, along[-1], count)
    lab = np.stack([np.interp(at, along, channel) for channel in path.T], axis=1)
    levels = np.round(np.clip(lab2rgb(lab[None])[0], 0, 1) * 255).astype(int)
    return [f"#{red:02X}{green:02X}{blue:02X}" for red, green, blue in levels]


def signed_steps(count: int = 33) -> list[str]:
    """An odd number of colours for values from far below zero to far above."""
    half = count // 2 + 1
    return [*even_steps(BELOW, half)[:0:-1], *even_steps(ABOVE, half)]


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#RRGGBB" as three bytes."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
