"""Which label is which structure: as headers of label maps say it, and TotalSegmentator's table."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel
import nrrd

from shapefit.anatomy import TOTALSEGMENTATOR, TOTALSEGMENTATOR_BONES, same_name
from shapefit.io.volume import NIFTI, NRRD

Structures = Mapping[str, int | None] | Sequence[str] | None
"""What to read: names with labels, or without (None) where the file or TotalSegmentator's table knows."""

_CARET = re.compile(r"<Label\s[^>]*?Key=\"(\d+)\"[^>]*>(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?</Label>", re.DOTALL)


class Place(NamedTuple):
    """Where a structure is in a label map."""

    layer: int
    label: int


def names_in_file(path: str | Path) -> dict[str, Place]:
    """Structure -> its place, as the header of a label map says; empty where it says nothing.

    Read are the segments of 3D Slicer's `.seg.nrrd` and the label table that TotalSegmentator (and Connectome
    Workbench) put into a NIfTI extension. Raises ValueError for a file that is not readable.
    """
    path = Path(path)
    name = path.name.lower()
    try:
        if name.endswith(NRRD):
            return _segments(nrrd.read_header(str(path)))
        if name.endswith(NIFTI):
            return _caret_labels(nibabel.load(path).header.extensions)
    except Exception as error:  # each library has errors of its own
        raise ValueError(f"{path} is not a readable label map: {error}") from error
    return {}


def places(
    asked: Structures, named: Mapping[str, Place], present: Sequence[Collection[int]], path: str | Path
) -> dict[str, Place]:
    """The place of each structure asked for. `named` is what the file says, `present` its labels by layer.

    A name without a number is looked up in the file; where that names nothing, in TotalSegmentator's table.
    "totalsegmentator" stands for its bones that occur; None for all that the file names and that occur.
    Structures that the file's names do not know are left out. Raises ValueError for a name that nothing
    knows, and for a number that does not say which layer it is of.
    """
    if asked is None:
        if not named:
            raise ValueError(f"{path} is a label map: say which label is what, as in sacrum=1 hip_left=2")
        return {name: place for name, place in named.items() if place.label in present[place.layer]}
    wanted = asked if isinstance(asked, Mapping) else dict.fromkeys(asked)
    known = {same_name(name): place for name, place in named.items()}
    found: dict[str, Place] = {}
    for name, label in wanted.items():
        if label is not None:
            found[name] = Place(_layer_of(label, name, present, path), label)
        elif name == TOTALSEGMENTATOR:
            for bone, number in TOTALSEGMENTATOR_BONES.items():
                place = known.get(bone) if named else Place(0, number)
                if place is not None and place.label in present[place.layer]:
                    found[bone] = place
        elif named:
            if same_name(name) in known:
                found[name] = known[same_name(name)]
        elif same_name(name) in TOTALSEGMENTATOR_BONES:
            found[name] = Place(0, TOTALSEGMENTATOR_BONES[same_name(name)])
        else:
            raise ValueError(
                f"{path} does not say which label is {name}, and TotalSegmentator has no bone of that name: "
                f"say which label is what, as in {name}=1"
            )
    return found


def _layer_of(label: int, name: str, present: Sequence[Collection[int]], path: str | Path) -> int:
    layers = [n for n, labels in enumerate(present) if label in labels]
    if len(layers) > 1:
        raise ValueError(
            f"{path} has label {label} ({name}) in {len(layers)} layers; ask for it by the segment's name"
        )
    return layers[0] if layers else 0


def _segments(header: Mapping) -> dict[str, Place]:
    """https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html"""
    layered = "list" in header.get("kinds", [])
    found: dict[str, Place] = {}
    numbers = [int(m[1]) for key in header if (m := re.fullmatch(r"Segment(\d+)_(?:Name|ID)", key))]
    for n in sorted(set(numbers)):
        name = str(header.get(f"Segment{n}_Name") or header[f"Segment{n}_ID"])
        # files of Slicer before 4.11 give each segment a layer of its own
        layer = int(header.get(f"Segment{n}_Layer", n if layered else 0))
        found[name] = Place(layer, int(header.get(f"Segment{n}_LabelValue", 1)))
    return found


def _caret_labels(extensions: Sequence) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for extension in extensions:
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        if "<LabelTable>" in text:
            found |= {name.strip(): Place(0, int(key)) for key, name in _CARET.findall(text) if int(key)}
    return found
