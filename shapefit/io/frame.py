"""The two patient frames that files use: RAS, which is ours, and LPS, half a turn about z away."""

import numpy as np
from jaxtyping import Float64

FRAMES = ("RAS", "LPS")


def to_ras(points: Float64[np.ndarray, "*N 3"], frame: str) -> Float64[np.ndarray, "*N 3"]:
    """Points (mm) of a file in RAS. It is a rotation, so faces stay counter-clockwise seen from outside.

    Raises ValueError for another frame than RAS and LPS.
    """
    if frame not in FRAMES:
        raise ValueError(f"unknown frame {frame!r}; expected RAS or LPS")
    # adding 0 makes -0 a plain 0
    return points * (-1.0, -1.0, 1.0) + 0.0 if frame == "LPS" else points
