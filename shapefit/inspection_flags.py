"""Findings -> flags: what a person must know of a segmentation before it goes into a model, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shapefit.anatomy import DIRECTIONS, RELATIONS, TUNNELS, WORDS, counterpart, kind_of, side_of
from shapefit.inspection import CaseFindings, StructureFindings
from shapefit.settings import InspectSettings

KINDS = {  # in the order of how much harm they do in a model; the first word of a chip
    "unreadable": "unreadable",
    "missing": "missing",
    "twin": "given twice",
    "side": "wrong side",
    "turned": "turned",
    "open": "open edges",
    "cropped": "cropped",
    "island": "islands",
    "hole": "holes",
    "cavity": "cavities",
    "volume": "volume outlier",
    "asymmetry": "asymmetry",
    "small": "tiny",
    "grid": "grid",
    "label": "unknown labels",
}


@dataclass(frozen=True)
class Flag:
    """One reason to look at a case."""

    kind: str  # of KINDS
    reason: str  # a sentence
    structure: str | None = None  # None: the whole case
    value: float | int | None = None  # what was found ...
    threshold: float | int | None = None  # ... and what would have been let pass; both in `unit`
    unit: str = ""


def flags_of(found: CaseFindings, settings: InspectSettings) -> list[Flag]:
    """What a case's own findings say, without a look at the others."""
    flags = [Flag("missing", f"{name} is not there", name) for name in found.missing]
    flags += _placed(found.structures, settings)
    for name, structure in found.structures.items():
        flags += _of_structure(name, structure, settings)
    return flags + _of_grid(found, settings)


def flags_beside(cases: Mapping[str, CaseFindings], settings: InspectSettings) -> dict[str, list[Flag]]:
    """What is unusual in a case beside the others: volumes, left against right, tunnels, what is there.

    Robust z-scores of Iglewicz and Hoaglin (1993): distance from the median in units of 1.4826 times the
    median absolute deviation, which is taken to be no less than the settings say. Nothing is said of a
    structure that fewer than `settings.cases` cases have. Cases that are the same are always told.
    """
    flags: dict[str, list[Flag]] = {case: [] for case in cases}
    alike: dict[tuple, list[str]] = {}
    for case, found in cases.items():
        look = tuple((name, s.volume, s.centre, s.high, s.tunnels) for name, s in found.structures.items())
        alike.setdefault(look, []).append(case)
    for look, same in alike.items():
        for case in same if look and len(same) > 1 else ():
            others = ", ".join(other for other in same if other != case)
            flags[case].append(Flag("twin", f"to all appearance the same as {others}"))
    for name in dict.fromkeys(name for found in cases.values() for name in found.structures):
        has = {case: found.structures[name] for case, found in cases.items() if name in found.structures}
        if len(has) < settings.cases:
            continue
        for case, found in cases.items():
            if case not in has and name not in found.missing and 2 * len(has) > len(cases):
                reason = f"{name} is not there, and {len(has)} of {len(cases)} cases have it"
                flags[case].append(Flag("missing", reason, name))
        logs = np.log([max(each.volume, 1e-9) for each in has.values()])
        for case, z, each in zip(has, _scores(logs, settings.spread), has.values(), strict=True):
            if abs(z) > settings.outlier:
                times = each.volume / float(np.exp(np.median(logs)))
                reason = f"{name} has {each.volume / 1000:.1f} cm^3, {times:.2f} times the median of the run"
                flags[case].append(Flag("volume", reason, name, float(z), settings.outlier, "robust z"))
        if side_of(name) == "left":
            _compare_sides(name, cases, settings, flags)
        if kind_of(name) not in TUNNELS:
            _compare_tunnels(name, has, settings, flags)
    return flags


def severity(flags: Sequence[Flag]) -> tuple[int, int]:
    """Sorts cases: those with the more harmful flags first, then those with more of them."""
    order = list(KINDS)
    return min((order.index(flag.kind) for flag in flags), default=len(order)), -len(flags)


def _of_structure(name: str, found: StructureFindings, settings: InspectSettings) -> list[Flag]:
    flags = []
    if found.open_edges:
        flags.append(
            Flag("open", f"{name} is open: {found.open_edges} boundary edges", name, found.open_edges, 0, "")
        )
    if found.inside_out:
        flags.append(Flag("open", f"{name} is inside out", name))
    cut = {side: area for side, area in found.border.items() if area > settings.border}
    if cut:
        where = ", ".join(f"{WORDS[side]} {area:.0f} mm^2" for side, area in cut.items())
        what = "ends flat" if found.voxels is None else "is cut by the end of the volume"
        flags.append(
            Flag("cropped", f"{name} {what}: {where}", name, max(cut.values()), settings.border, "mm^2")
        )
    for kind, what, sizes, limit in (
        ("island", "separate pieces", found.islands, settings.island),
        ("cavity", "enclosed voids", found.cavities, settings.cavity),
    ):
        large = [size for size in sizes if size > limit]
        if large:
            count = f"{len(large)} {what if len(large) > 1 else what[:-1]}"
            reason = f"{name} has {count}: {', '.join(f'{size:.0f}' for size in large[:3])}"
            reason += f"{' ...' if len(large) > 3 else ''} mm^3"
            flags.append(Flag(kind, reason, name, large[0], limit, "mm^3"))
    usual = TUNNELS.get(kind_of(name))
    tunnels = found.tunnels if found.tunnels is not None else usual
    if usual is not None and (tunnels > usual or (tunnels < usual and not cut)):  # a cut opens tunnels
        reason = f"{name} has {tunnels} tunnels through it, and {usual} is usual"
        flags.append(Flag("hole", reason, name, found.tunnels, usual, "tunnels"))
    if found.voxels is not None and found.voxels < settings.smallest:
        reason = f"{name} has {found.voxels} voxels only"
        flags.append(Flag("small", reason, name, found.voxels, settings.smallest, "voxels"))
    return flags


def _of_grid(found: CaseFindings, settings: InspectSettings) -> list[Flag]:
    flags = []
    if grid := found.grid:
        edges = " x ".join(f"{edge:.2g}" for edge in grid.spacing)
        coarse, ratio = max(grid.spacing), max(grid.spacing) / min(grid.spacing)
        if coarse > settings.spacing:
            flags.append(
                Flag("grid", f"voxels of {edges} mm are coarse", None, coarse, settings.spacing, "mm")
            )
        elif ratio > settings.anisotropy:
            flags.append(Flag("grid", f"voxels of {edges} mm are long", None, ratio, settings.anisotropy, ""))
        if grid.oblique > settings.oblique:
            reason = f"the grid is turned by {grid.oblique:.0f} degrees to the patient's axes"
            flags.append(Flag("grid", reason, None, grid.oblique, settings.oblique, "degrees"))
        if grid.sheared > 0.5:
            reason = f"the grid's axes miss a right angle by {grid.sheared:.1f} degrees"
            flags.append(Flag("grid", reason, None, grid.sheared, 0.5, "degrees"))
    if found.unexpected:
        labels = ", ".join(f"{label} ({count} voxels)" for label, count in list(found.unexpected.items())[:5])
        flags.append(
            Flag("label", f"labels that nobody asked for: {labels}", None, len(found.unexpected), 0, "")
        )
    return flags


def _placed(structures: Mapping[str, StructureFindings], settings: InspectSettings) -> list[Flag]:
    """Whether bones lie to each other as in a body whose world is RAS."""
    flags = []
    swapped = []
    for name, other, angle in _side_angles(structures):
        if angle > 180 - settings.facing:
            swapped.append(name)
            reason = (
                f"{name} lies to the patient's {'right' if side_of(name) == 'left' else 'left'} of {other}"
            )
            flags.append(Flag("side", reason, name, angle, 180 - settings.facing, "degrees"))
        elif angle > settings.facing:
            reason = f"{other} to {name} runs {angle:.0f} degrees askew to the patient's {side_of(name)}"
            flags.append(Flag("turned", reason, name, angle, settings.facing, "degrees"))
    wrong: dict[str, list[tuple[float, str]]] = {}
    for first, second, direction in RELATIONS:
        here, there = _middle(structures, first), _middle(structures, second)
        if here is None or there is None:
            continue
        axis, sign = DIRECTIONS[direction]
        along = float(sign * (there - here)[axis])
        if along < 0:
            wrong.setdefault(direction, []).append((along, f"{second} is not {_WHERE[direction]} {first}"))
    for direction, reasons in wrong.items():
        what = "upside down" if direction == "S" else "back to front"
        told = "; ".join(reason for _, reason in reasons)
        flags.append(Flag("turned", f"{what}? {told}", None, min(reasons)[0], 0, "mm"))
    if swapped and "A" in wrong:
        hint = "left and right, front and back are both exchanged, as when LPS is read as RAS"
        flags.append(Flag("side", hint))
    elif swapped:
        flags.append(Flag("side", "left and right are exchanged: in the names, or the picture is mirrored"))
    return flags


_WHERE = {"A": "in front of", "S": "above"}


def _side_angles(structures: Mapping[str, StructureFindings]) -> list[tuple[str, str, float]]:
    """(bone, what it is compared with, degrees between where it lies from there and its side), once a pair.

    A bone without its counterpart is compared with the bones of the middle.
    """
    middle = [name for name in structures if side_of(name) is None and kind_of(name) in _MIDLINE]
    found = []
    for name in structures:
        side, other = side_of(name), counterpart(name)
        if side is None or (side == "right" and other in structures):
            continue
        if other is None or other not in structures:
            if not middle:
                continue
            other = middle[0]
        along = np.array(structures[name].centre) - np.array(structures[other].centre)
        length = float(np.linalg.norm(along))
        if length > 0:
            sign = 1.0 if side == "right" else -1.0
            found.append(
                (name, other, float(np.degrees(np.arccos(np.clip(sign * along[0] / length, -1, 1)))))
            )
    return found


_MIDLINE = ("sacrum", "vertebrae", "sternum", "skull")


def _middle(structures: Mapping[str, StructureFindings], kind: str) -> np.ndarray | None:
    """Centre of all bones of a kind; None unless both sides of a paired one are there."""
    own = [name for name in structures if kind_of(name) == kind]
    if not own or any(counterpart(name) not in structures for name in own if side_of(name)):
        return None
    return np.mean([structures[name].centre for name in own], axis=0)


def _scores(values: np.ndarray, least: float) -> np.ndarray:
    away = values - np.median(values)
    return away / max(1.4826 * float(np.median(np.abs(away))), least)


def _compare_sides(
    left: str, cases: Mapping[str, CaseFindings], settings: InspectSettings, flags: dict[str, list[Flag]]
) -> None:
    right = counterpart(left)
    both = [case for case, found in cases.items() if left in found.structures and right in found.structures]
    if len(both) < settings.cases:
        return
    pairs = [(cases[case].structures[left].volume, cases[case].structures[right].volume) for case in both]
    ratios = np.log([max(a, 1e-9) / max(b, 1e-9) for a, b in pairs])
    for case, z, (a, b) in zip(both, _scores(ratios, settings.asymmetry), pairs, strict=True):
        if abs(z) > settings.outlier:
            reason = f"{left} has {a / 1000:.1f} cm^3 and {right} {b / 1000:.1f}"
            flags[case].append(Flag("asymmetry", reason, left, float(z), settings.outlier, "robust z"))


def _compare_tunnels(
    name: str, has: Mapping[str, StructureFindings], settings: InspectSettings, flags: dict[str, list[Flag]]
) -> None:
    counted = {case: found.tunnels for case, found in has.items() if found.tunnels is not None}
    if len(counted) < settings.cases:
        return
    numbers = np.array(list(counted.values()), dtype=float)
    usual = float(np.median(numbers))
    away = settings.outlier * 1.4826 * float(np.median(np.abs(numbers - usual)))
    limit = usual + max(away, settings.tunnel_margin)
    for case, number in counted.items():
        if number > limit:
            reason = f"{name} has {number} tunnels through it, and the median of the run is {usual:.0f}"
            flags[case].append(Flag("hole", reason, name, number, limit, "tunnels"))
