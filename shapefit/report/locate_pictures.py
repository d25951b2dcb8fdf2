"""Pictures of what a scene-coordinate network sees: entry and exit points, their spread, structures."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from shapefit.report.colours import DISTANCE_SCALE, even_steps, rgb
from shapefit.scene.coordinates import Coordinates

MAPS = ("structures", "entry", "exit", "std")  # in the order in which they are shown
TOP_STD = 20.0  # mm at which the colours of the spread end
_PALE = 0.62  # how far the X-ray under a map is lifted towards white


def coordinate_maps(
    seen: Coordinates,
    grey: UInt8[ndarray, "H W"],
    box: Float[ndarray, "2 3"],
    colours: Sequence[str],
) -> dict[str, UInt8[ndarray, "H W 3"]]:
    """What a network sees in one image, painted over the X-ray `grey`: a picture for each of `MAPS`.

    A point of the template is painted by its place in `box` (its lowest and highest coordinates, mm): red
    grows to the patient's right, green to the front, blue to the head. The spread is the root mean square of
    the standard deviations of entry and exit. `colours` are those of the network's structures; where the
    network sees no bone, the X-ray remains.
    """
    if len(seen.structures) != 1:
        raise ValueError(f"maps are drawn of one image at a time, got {len(seen.structures)}")
    structures = seen.structures[0].double().cpu().numpy()
    covered = structures.max(0)
    pale = np.repeat((255 - (1 - _PALE) * (255 - grey.astype(np.float64)))[..., None], 3, axis=2)
    spread = ((seen.entry_std[0].double() ** 2 + seen.exit_std[0].double() ** 2) / 2).sqrt().cpu().numpy()
    painted = {
        "entry": _places(seen.entry[0].double().cpu().numpy(), box),
        "exit": _places(seen.exit[0].double().cpu().numpy(), box),
        "std": _steps(spread / TOP_STD),
    }
    maps = {name: _over(pale, colour, covered) for name, colour in painted.items()}
    drawn = np.repeat(grey[..., None].astype(np.float64), 3, axis=2)
    for probability, colour in zip(structures, colours, strict=True):
        flat = np.broadcast_to(np.array(rgb(colour), np.float64), (*probability.shape, 3))
        drawn = _mixed(drawn, flat, 0.55 * probability)
    return {"structures": _bytes(drawn)} | maps


def _places(points: Float[ndarray, "3 M N"], box: Float[ndarray, "2 3"]) -> Float[ndarray, "M N 3"]:
    """The colours of points, 0 to 255."""
    share = (np.moveaxis(points, 0, -1) - box[0]) / np.maximum(box[1] - box[0], 1e-6)
    return 255 * (0.06 + 0.9 * np.clip(share, 0, 1))


def _steps(share: Float[ndarray, "M N"]) -> Float[ndarray, "M N 3"]:
    steps = np.array([rgb(colour) for colour in even_steps(DISTANCE_SCALE[1:], 64)], np.float64)
    return steps[np.round(np.clip(np.nan_to_num(share, nan=1.0), 0, 1) * 63).astype(int)]


def _over(
    ground: Float[ndarray, "H W 3"], colour: Float[ndarray, "M N 3"], covered: Float[ndarray, "M N"]
) -> UInt8[ndarray, "H W 3"]:
    """Colours over a picture, sharp where the network is half sure that there is bone."""
    return _bytes(_mixed(ground, colour, np.clip(4 * (covered - 0.5) + 0.5, 0, 1)))


def _mixed(
    ground: Float[ndarray, "H W 3"], colour: Float[ndarray, "M N 3"], share: Float[ndarray, "M N"]
) -> Float[ndarray, "H W 3"]:
    """Enlarged with their share, so that values from where there is no bone do not run into the bone."""
    height, width = ground.shape[:2]
    weight = _resized(share, height, width)
    total = [
        _resized(share * np.nan_to_num(channel), height, width) for channel in np.moveaxis(colour, -1, 0)
    ]
    return ground * (1 - weight[..., None]) + np.stack(total, -1)


def _resized(values: Float[ndarray, "M N"], height: int, width: int) -> Float[ndarray, "H W"]:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64)


def _bytes(values: Float[ndarray, "H W 3"]) -> UInt8[ndarray, "H W 3"]:
    return np.round(np.clip(values, 0, 255)).astype(np.uint8)
