"""How a scene network looks at a view: at the pixels that it was trained for, more than once.

What a network gets wrong changes when the image is moved by less than a pixel of its lowest level, or seen
in a mirror; where the bone is does not. The mean of several looks is nearer to it than each (Wang et al.
2019, Neurocomputing 338), and how far they lie apart is a part of their variance, which is that of their
mixture (Lakshminarayanan et al. 2017, NeurIPS).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from shapefit.camera import Camera
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.mirror import counterparts, mirrored_points
from shapefit.scene.network import SceneNetwork, decode, network_input
from shapefit.settings import LocateSettings
from shapefit.view import View

# of a pixel of the lowest level, by which each look moves on: evenly spread, however many there are (R2
# sequence: Roberts 2018, "The unreasonable effectiveness of quasirandom sequences")
_STEP = (0.7548776662, 0.5698402910)


def look(
    network: SceneNetwork, view: View, looks: int = LocateSettings().looks
) -> tuple[Coordinates, Camera]:
    """What the network sees in a view, and the camera of that picture: the view's with other pixels.

    The view is resampled so that its longer side has `network.pixels` (area mean of the valid pixels),
    keeping its shape to the nearest pixel. The answer is the mean of so many looks, of which the first is at
    the image where it is. If the network has learned from mirrored X-rays too, every second one is in a
    mirror, and an even number sees in a mirrored image what it sees in the image, mirrored.
    Pixels that are not valid get an answer too, from what surrounds them. The answer lies on the CPU,
    wherever the network is. Raises ValueError for less than one look.
    """
    if looks < 1:
        raise ValueError(f"a network looks at least once, got {looks} looks")
    rows, columns = view.image.shape
    scale = network.pixels / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    image, valid = _resample(view, height, width)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        seen = [_glance(network, image, valid, place) for place in _places(network, looks)]
    network.train(was_training)
    mean = mean_look([Coordinates(*(part.clone() for part in one)) for one in seen])
    return mean, view.camera.resized(height, width)


def mean_look(seen: Sequence[Coordinates]) -> Coordinates:
    """Mean and standard deviation of the mixture of several looks at the same images."""
    if len(seen) == 1:
        return seen[0]

    def moments(points: Sequence[Tensor], stds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        mean = torch.stack(list(points)).mean(0)
        apart = torch.stack([(point - mean).square().mean(1) for point in points])
        return mean, (torch.stack([std.square() for std in stds]) + apart).mean(0).sqrt()

    entry, entry_std = moments([one.entry for one in seen], [one.entry_std for one in seen])
    exit, exit_std = moments([one.exit for one in seen], [one.exit_std for one in seen])
    probability = torch.stack([one.structures for one in seen]).mean(0)
    return Coordinates(entry, exit, entry_std, exit_std, probability)


class _Place(NamedTuple):
    """Where an image stands in what the network is shown, and whether in a mirror."""

    down: int  # pixels
    right: int
    mirrored: bool


def _places(network: SceneNetwork, looks: int) -> Iterator[_Place]:
    for number in range(looks):
        moved, mirrored = divmod(number, 2) if network.mirrored else (number, 0)
        down, right = (math.floor(network.multiple * (moved * step % 1)) for step in _STEP)
        yield _Place(down, right, bool(mirrored))


def _glance(
    network: SceneNetwork, image: Float[Tensor, "h w"], valid: Bool[Tensor, "h w"], place: _Place
) -> Coordinates:
    """One look."""
    height, width = image.shape
    if place.mirrored:
        image, valid = image.flip(-1), valid.flip(-1)
    beyond = (-(width + place.right) % network.multiple, -(height + place.down) % network.multiple)
    border = (place.right, beyond[0], place.down, beyond[1])
    given = network_input(pad(image, border)[None], pad(valid, border)[None])
    raw = network(given.to(network.template.device)).cpu()
    seen = decode(raw[:, :, place.down : place.down + height, place.right : place.right + width])
    return _as_in_a_mirror(seen, network.structures) if place.mirrored else seen


def _as_in_a_mirror(seen: Coordinates, structures: Sequence[str]) -> Coordinates:
    return Coordinates(
        mirrored_points(seen.entry),
        mirrored_points(seen.exit),
        seen.entry_std.flip(-1),
        seen.exit_std.flip(-1),
        seen.structures.flip(-1)[:, counterparts(structures)],
    )


def _resample(view: View, height: int, width: int) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Mean of the valid pixels within each new pixel; valid where they fill half of it."""
    assert view.valid is not None  # View fills it in
    rows = _overlap(view.image.shape[0], height)
    columns = _overlap(view.image.shape[1], width)
    share = view.valid.to(torch.float32)
    image = torch.where(view.valid, view.image.to(torch.float32), 0.0)
    filled = rows @ share @ columns.T
    mean = rows @ image @ columns.T / filled.clamp_min(1e-6)
    return mean, filled >= 0.5


def _overlap(old: int, new: int) -> Float[Tensor, "new old"]:
    """Share of each new pixel that each old one takes, along one axis; the linear interpolant if finer."""
    if new > old:
        place = ((torch.arange(new) + 0.5) * old / new - 0.5).clamp(0, old - 1)
        return (1 - (place[:, None] - torch.arange(old)).abs()).clamp_min(0)
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    start, stop = torch.arange(old), torch.arange(1, old + 1)
    overlap = torch.minimum(edges[1:, None], stop) - torch.maximum(edges[:-1, None], start)
    return (overlap.clamp_min(0) * new / old).to(torch.float32)
