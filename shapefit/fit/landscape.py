"""The loss around a registration's answer: along each degree of freedom, and over pairs of them.

A pose near the answer is six numbers: degrees about the axes of a camera through the bone's centre, then mm
along them (x along the image's columns, y along its rows, z away from the source).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from shapefit import se3
from shapefit.settings import LandscapeSettings

FREEDOMS = ("rx", "ry", "rz", "tx", "ty", "tz")
PLANES = (("tx", "ty"), ("rx", "ry"), ("rx", "tz"))
RIPPLE = 0.03  # share of a slice's rise by which the loss may fall again within the basin
_BATCH = 256  # poses that are handed over together

Losses = Callable[[Float64[Tensor, "B 4 4"]], Tensor]


class Line(NamedTuple):
    """The loss along one degree of freedom."""

    axis: str
    offsets: list[float]  # degrees or mm
    losses: list[float]


class Plane(NamedTuple):
    """The loss over two degrees of freedom: losses[n][m] at across[m] and along[n]."""

    axes: tuple[str, str]  # across, along
    across: list[float]
    along: list[float]
    losses: list[list[float]]


class Basin(NamedTuple):
    """What a slice says of the minimum that an answer lies in."""

    low: float  # degrees or mm: to here the loss rises without falling again
    high: float
    at: float  # of the minimum, between samples by a parabola
    rise: float  # loss at the lower of the two ends, less that of the minimum
    open: tuple[bool, bool]  # whether the slice ends before the basin does, at the low and the high end
    others: list[tuple[float, float]]  # further minima: place, loss less that of this one


class Landscape(NamedTuple):
    """Slices of the loss around a pose."""

    answer: Float64[Tensor, "4 4"]  # world_from_bone
    centre: Float64[Tensor, "3"]  # of the bone at the answer, world mm: what rotations go about
    axes: Float64[Tensor, "3 3"]  # columns: x, y, z of the camera in the world
    loss: float  # at the answer
    lines: list[Line]
    planes: list[Plane]


def loss_landscape(
    losses: Losses,
    answer: Float64[Tensor, "4 4"],
    centre: Float64[Tensor, "3"],
    axes: Float64[Tensor, "3 3"],
    settings: LandscapeSettings,
    progress: Callable[[str, float], None] | None = None,
) -> Landscape:
    """Slices of the loss around an answer world_from_bone.

    `losses` gives one loss per pose world_from_bone; `centre` (world mm) is the point that rotations turn
    about, `axes` the camera's axes in the world, as columns. Raises ValueError for fewer than 5 samples.
    """
    if min(settings.samples, settings.grid) < 5:
        raise ValueError(f"a slice needs at least 5 samples, got {min(settings.samples, settings.grid)}")
    reach = {axis: (settings.turn if axis[0] == "r" else settings.shift) for axis in FREEDOMS}
    reach["tz"] = settings.depth
    wanted: list[Tensor] = [torch.zeros(1, 6, dtype=torch.float64)]
    ticks = {axis: _ticks(reach[axis], settings.samples) for axis in FREEDOMS}
    coarse = {axis: _ticks(reach[axis], settings.grid) for axis in FREEDOMS}
    for axis in FREEDOMS:
        wanted.append(_offsets({axis: ticks[axis]}))
    for a, b in PLANES:
        along, across = torch.meshgrid(coarse[b], coarse[a], indexing="ij")
        wanted.append(_offsets({a: across.flatten(), b: along.flatten()}))
    poses = poses_at(torch.cat(wanted), answer, centre, axes)
    found: list[float] = []
    for n in range(0, len(poses), _BATCH):
        found += losses(poses[n : n + _BATCH]).detach().double().cpu().flatten().tolist()
        if progress:
            progress("landscape", min(1.0, (n + _BATCH) / len(poses)))
    rest = iter(found)
    here = next(rest)
    lines = [Line(axis, ticks[axis].tolist(), [next(rest) for _ in ticks[axis]]) for axis in FREEDOMS]
    planes = [
        Plane(
            (a, b),
            coarse[a].tolist(),
            coarse[b].tolist(),
            [[next(rest) for _ in coarse[a]] for _ in coarse[b]],
        )
        for a, b in PLANES
    ]
    return Landscape(answer, centre, axes, here, lines, planes)


def poses_at(
    offsets: Float64[Tensor, "B 6"],
    answer: Float64[Tensor, "4 4"],
    centre: Float64[Tensor, "3"],
    axes: Float64[Tensor, "3 3"],
) -> Float64[Tensor, "B 4 4"]:
    """Poses world_from_bone at offsets (degrees, mm) from an answer: turned about a centre, then shifted."""
    twist = torch.zeros(len(offsets), 6, dtype=torch.float64)
    twist[:, :3] = torch.deg2rad(offsets[:, :3]) @ axes.T
    motion = se3.exp(twist)
    motion[:, :3, 3] = centre - (motion[:, :3, :3] @ centre) + offsets[:, 3:] @ axes.T
    return motion @ answer


def offsets_of(
    poses: Float64[Tensor, "B 4 4"],
    answer: Float64[Tensor, "4 4"],
    centre: Float64[Tensor, "3"],
    axes: Float64[Tensor, "3 3"],
) -> Float64[Tensor, "B 6"]:
    """The inverse of `poses_at`: rotation vectors in degrees and mm, in the camera's axes."""
    motion = poses @ se3.inverse(answer)
    turn = se3.log(motion)[:, :3] @ axes
    shift = (se3.transform(motion, centre[None])[:, 0] - centre) @ axes
    return torch.cat([torch.rad2deg(turn), shift], 1)


def basin(offsets: Sequence[float], losses: Sequence[float]) -> Basin:
    """The minimum of a slice that 0 drains into, and how far around it the loss rises steadily.

    From the sample nearest 0 the way leads downhill to the minimum. From there, outwards, the basin ends
    where the loss is highest before it falls by more than 3 % of the slice's whole rise (less the plain
    before it, within 3 % of that height). A further minimum lies at least 3 % below the ridges between.
    """
    ripple = RIPPLE * (max(losses) - min(losses))
    bottom = min(range(len(offsets)), key=lambda n: abs(offsets[n]))
    while True:
        low = min(
            (n for n in (bottom - 1, bottom, bottom + 1) if 0 <= n < len(losses)), key=losses.__getitem__
        )
        if low == bottom or losses[low] == losses[bottom]:
            break
        bottom = low
    # a dip no deeper than the ripple is not where the way downhill ends
    left, right = _ridge(losses, bottom, -1, ripple), _ridge(losses, bottom, 1, ripple)
    bottom = min(range(left, right + 1), key=losses.__getitem__)
    left, right = _ridge(losses, bottom, -1, ripple), _ridge(losses, bottom, 1, ripple)
    fall = [-loss for loss in losses]
    others = []
    for ridge, step in ((left, -1), (right, 1)):
        while (valley := _ridge(fall, ridge, step, ripple)) != ridge:
            if losses[ridge] - losses[valley] > ripple:
                others.append((offsets[valley], losses[valley] - losses[bottom]))
            ridge = _ridge(losses, valley, step, ripple)
    ends = 0, len(losses) - 1
    foot = [
        next(n for n in range(bottom, ridge + step, step) if losses[n] >= losses[ridge] - ripple)
        for ridge, step in ((left, -1), (right, 1))
    ]
    return Basin(
        offsets[foot[0]],
        offsets[foot[1]],
        _vertex(offsets, losses, bottom),
        min(losses[left], losses[right]) - losses[bottom],
        (foot[0] == ends[0], foot[1] == ends[1]),
        sorted(others, key=lambda other: other[1]),
    )


def _ridge(losses: Sequence[float], start: int, step: int, ripple: float) -> int:
    """The highest place on the way from `start`, before the loss falls by more than the ripple."""
    best = place = start
    while 0 <= place < len(losses) and losses[place] >= losses[best] - ripple:
        best = place if losses[place] > losses[best] else best
        place += step
    return best


def _vertex(offsets: Sequence[float], losses: Sequence[float], n: int) -> float:
    """The lowest point of the parabola through a minimum and its two neighbours."""
    if not 0 < n < len(losses) - 1:
        return offsets[n]
    before, after = offsets[n] - offsets[n - 1], offsets[n + 1] - offsets[n]
    rise = (losses[n - 1] - losses[n]) / before, (losses[n + 1] - losses[n]) / after
    # the slopes halfway to both sides are -rise[0] and rise[1]
    share = rise[0] / (rise[0] + rise[1]) if rise[0] + rise[1] > 1e-15 else 0.5
    return offsets[n] - before / 2 + share * (before + after) / 2


def _ticks(reach: float, count: int) -> Float64[Tensor, "N"]:
    """An odd number of samples from -reach to reach, so that 0 is one of them."""
    half = count // 2
    # closer together near the answer, where the minimum's place is read
    steps = torch.linspace(-1, 1, 2 * half + 1, dtype=torch.float64)
    return reach * steps.sign() * (0.5 * steps.abs() + 0.5 * steps.square()) if half > 4 else reach * steps


def _offsets(named: dict[str, Tensor]) -> Float64[Tensor, "B 6"]:
    offsets = torch.zeros(len(next(iter(named.values()))), 6, dtype=torch.float64)
    for axis, values in named.items():
        offsets[:, FREEDOMS.index(axis)] = values
    return offsets
