"""What is known of bones by name: TotalSegmentator's labels, what lies where, how many holes there are."""

TOTALSEGMENTATOR = "totalsegmentator"  # stands for all bones of the table that a file holds

_VERTEBRAE = [
    "S1",
    *(f"{region}{n}" for region, last in (("L", 5), ("T", 12), ("C", 7)) for n in range(last, 0, -1)),
]
_PAIRED = ["humerus", "scapula", "clavicula", "femur", "hip"]

# Labels of the bones in the task `total` of TotalSegmentator, version 2 (its file map_to_binary.py at 2.18.0,
# Apache-2.0; those of the pelvis are as in 2.0). Version 1 and the task `total_mr` number them otherwise.
TOTALSEGMENTATOR_BONES: dict[str, int] = {
    "sacrum": 25,
    **{f"vertebrae_{name}": 26 + n for n, name in enumerate(_VERTEBRAE)},
    **{
        f"{name}_{side}": 69 + 2 * n + k
        for n, name in enumerate(_PAIRED)
        for k, side in enumerate(("left", "right"))
    },
    "skull": 91,
    **{f"rib_{side}_{n}": 91 + 12 * k + n for k, side in enumerate(("left", "right")) for n in range(1, 13)},
    "sternum": 116,
    "costal_cartilages": 117,
}

# Tunnels through a healthy bone: the obturator foramen of a hip. A sacrum has as many as its foramina and its
# canal make (17 if all are open), which differs from one person and one segmentation to the next.
TUNNELS: dict[str, int] = {
    "hip": 1,
    "femur": 0,
    "humerus": 0,
    "clavicula": 0,
    "rib": 0,
    "patella": 0,
    "tibia": 0,
}

# (from, to, direction of RAS): the middle of the second lies there as seen from the middle of the first.
# Both sides of a paired bone count together.
RELATIONS: tuple[tuple[str, str, str], ...] = (
    ("sacrum", "hip", "A"),
    ("hip", "sacrum", "S"),
    ("femur", "hip", "S"),
    ("sacrum", "vertebrae", "S"),
    ("sacrum", "skull", "S"),
    ("hip", "skull", "S"),
    ("vertebrae", "skull", "S"),
    ("vertebrae", "sternum", "A"),
    ("scapula", "sternum", "A"),
    ("scapula", "clavicula", "A"),
    ("tibia", "femur", "S"),
    ("femur", "patella", "A"),
)
DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Letter -> axis of RAS and sign along it."""
WORDS = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "top", "I": "bottom"}


def side_of(name: str) -> str | None:
    """ "left" or "right" if the name says it as one of its words, else None."""
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    return next((side for side in ("left", "right") if side in words), None)


def counterpart(name: str) -> str | None:
    """The name of the same bone on the other side; None for a bone without sides."""
    side = side_of(name)
    if side is None:
        return None
    other = {"left": "right", "right": "left"}[side]
    place = name.lower().index(side)
    return name[:place] + other + name[place + len(side) :]


def kind_of(name: str) -> str:
    """The bone without its side and number: hip of hip_left, rib of rib_left_3, vertebrae of vertebrae_L5."""
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    kept = [word for word in words if word not in ("left", "right") and not word.isdecimal()]
    return "vertebrae" if kept[:1] == ["vertebrae"] else "_".join(kept)


def same_name(name: str) -> str:
    """A name without what people write differently: capitals, blanks, hyphens."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")
