"""One colour per structure, the same in every report, apart for colour-blind eyes too."""

from collections.abc import Sequence

# Okabe and Ito (2008), ordered so that neighbours also differ in lightness on grey X-rays and on white.
PALETTE = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#0072B2", "#F0E442")
UNSEEN = "#C9C8C4"  # what no view shows
REFERENCE = "#3A3A3C"  # the truth, where it is drawn over a result

# Distances: light is near, dark is far; lightness alone tells the order.
DISTANCE_SCALE = ("#F4EFE6", "#F6C88B", "#EC8A4F", "#C8442F", "#7A1426", "#2E0614")


def structure_colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of each structure, by its place in the model; after seven they begin again."""
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(names)}


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#RRGGBB" as three bytes."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
