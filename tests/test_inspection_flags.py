from dataclasses import replace

import pytest

from shapefit.anatomy import TOTALSEGMENTATOR_BONES, counterpart, kind_of, side_of
from shapefit.inspection import CaseFindings, GridFindings, StructureFindings
from shapefit.inspection_flags import flags_beside, flags_of, severity
from shapefit.settings import InspectSettings

SETTINGS = InspectSettings()
# of an adult whose world is RAS, mm
PLACES = {"sacrum": (0.0, -40.0, 40.0), "hip_left": (-70.0, 0.0, 0.0), "hip_right": (70.0, 0.0, 0.0)}


def bone(centre=(0.0, 0.0, 0.0), volume=300e3, tunnels=1, **more) -> StructureFindings:
    return StructureFindings(volume, centre, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), tunnels=tunnels, **more)


def pelvis(turn=(1, 1, 1), **changes) -> CaseFindings:
    """A sound pelvis, its axes turned, its structures changed by name."""
    structures = {
        name: bone(tuple(s * x for s, x in zip(turn, place, strict=True)), voxels=10_000)
        for name, place in PLACES.items()
    }
    return CaseFindings({name: replace(s, **changes.get(name, {})) for name, s in structures.items()})


def kinds(found: CaseFindings) -> list[str]:
    return [flag.kind for flag in flags_of(found, SETTINGS)]


def test_a_sound_pelvis_has_no_flags():
    assert kinds(pelvis()) == []


def test_exchanged_sides_are_told_and_so_is_what_may_have_happened():
    mirrored = flags_of(pelvis(turn=(-1, 1, 1)), SETTINGS)
    assert [flag.kind for flag in mirrored] == ["side", "side"]
    assert "hip_left lies to the patient's right of hip_right" in mirrored[0].reason
    assert "mirrored" in mirrored[1].reason
    lps = flags_of(pelvis(turn=(-1, -1, 1)), SETTINGS)
    assert {flag.kind for flag in lps} == {"side", "turned"}
    assert any("LPS is read as RAS" in flag.reason for flag in lps)


def test_what_lies_upside_down_or_back_to_front_is_turned():
    (flag,) = flags_of(pelvis(turn=(1, 1, -1)), SETTINGS)
    assert flag.kind == "turned" and "sacrum is not above hip" in flag.reason
    assert (flag.value, flag.threshold, flag.unit) == (-40.0, 0, "mm")
    (flag,) = flags_of(pelvis(turn=(1, -1, 1)), SETTINGS)
    assert flag.kind == "turned" and "hip is not in front of sacrum" in flag.reason


def test_one_side_alone_is_compared_with_the_middle():
    found = pelvis()
    alone = {name: found.structures[name] for name in ("sacrum", "hip_left")}
    assert kinds(CaseFindings(alone)) == []
    alone["hip_left"] = replace(alone["hip_left"], centre=(70.0, -40.0, 40.0))
    assert kinds(CaseFindings(alone)) == ["side", "side"]


def test_bones_that_cannot_be_compared_are_left_alone():
    assert kinds(CaseFindings({"hip_left": bone((70.0, 0.0, 0.0)), "screw": bone()})) == []


def test_a_patient_who_lies_askew_is_not_mirrored():
    # left and right along the patient's back and front
    found = pelvis(hip_left={"centre": (-5.0, 70.0, 0.0)}, hip_right={"centre": (5.0, -70.0, 0.0)})
    assert "side" not in kinds(found) and "turned" in kinds(found)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"open_edges": 14}, "open", "14 boundary edges"),
        ({"inside_out": True}, "open", "inside out"),
        ({"border": {"I": 400.0, "A": 3.0}}, "cropped", "bottom 400 mm^2"),
        ({"islands": (90.0, 60.0, 2.0)}, "island", "2 separate pieces: 90, 60 mm^3"),
        ({"cavities": (75.0,)}, "cavity", "1 enclosed void: 75 mm^3"),
        ({"tunnels": 3}, "hole", "3 tunnels through it, and 1 is usual"),
        ({"tunnels": 0}, "hole", "0 tunnels"),
        ({"voxels": 12}, "small", "12 voxels"),
    ],
)
def test_a_structure_is_flagged_with_its_number_and_reason(change, kind, words):
    (flag,) = flags_of(pelvis(hip_left=change), SETTINGS)
    assert (flag.kind, flag.structure) == (kind, "hip_left")
    assert words in flag.reason


def test_small_islands_cuts_and_missing_tunnels_of_a_cut_bone_are_let_pass():
    assert kinds(pelvis(hip_left={"islands": (40.0,), "cavities": (9.0,), "border": {"I": 12.0}})) == []
    assert kinds(pelvis(hip_left={"tunnels": 0, "border": {"I": 500.0}})) == ["cropped"]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (GridFindings((9, 9, 9), (1.0, 1.0, 5.0), 0.0, 0.0), "1 x 1 x 5 mm are coarse"),
        (GridFindings((9, 9, 9), (0.4, 0.4, 2.0), 0.0, 0.0), "are long"),
        (GridFindings((9, 9, 9), (1.0, 1.0, 1.0), 40.0, 0.0), "turned by 40 degrees"),
        (GridFindings((9, 9, 9), (1.0, 1.0, 1.0), 0.0, 8.0), "miss a right angle by 8.0 degrees"),
    ],
)
def test_a_poor_grid_is_flagged(grid, words):
    (flag,) = flags_of(replace(pelvis(), grid=grid), SETTINGS)
    assert flag.kind == "grid" and words in flag.reason


def test_what_is_missing_or_unknown_is_flagged():
    assert kinds(replace(pelvis(), missing=("femur_left",))) == ["missing"]
    assert kinds(replace(pelvis(), unexpected={9: 4000})) == ["label"]


def run(count: int, **odd) -> dict[str, CaseFindings]:
    """Cases whose sizes differ by a few percent, and one that is odd."""
    sizes = [1 + 0.02 * n for n in range(-(count // 2), count - count // 2)]
    cases = {
        f"p{n}": pelvis(**{name: {"volume": 300e3 * size} for name in PLACES}) for n, size in enumerate(sizes)
    }
    return cases | ({"odd": pelvis(**odd)} if odd else {})


def test_cases_that_resemble_one_another_have_no_flags_beside_each_other():
    assert not any(flags_beside(run(9), SETTINGS).values())


def test_a_case_of_twice_the_volume_is_an_outlier_and_only_it():
    flags = flags_beside(run(9, **{name: {"volume": 600e3} for name in PLACES}), SETTINGS)
    assert [case for case, found in flags.items() if found] == ["odd"]
    assert {flag.kind for flag in flags["odd"]} == {"volume"}  # both sides alike: no asymmetry
    assert all(flag.value > SETTINGS.outlier for flag in flags["odd"])
    assert "1.98 times the median" in flags["odd"][0].reason


def test_a_hip_that_lacks_a_third_is_asymmetric():
    flags = flags_beside(run(9, hip_left={"volume": 200e3}), SETTINGS)["odd"]
    assert "asymmetry" in {flag.kind for flag in flags}


def test_tunnels_of_a_sacrum_are_compared_with_the_run():
    cases = run(9, sacrum={"tunnels": 30})
    for n in range(9):
        cases[f"p{n}"].structures["sacrum"] = replace(cases[f"p{n}"].structures["sacrum"], tunnels=14 + n % 5)
    (flag,) = flags_beside(cases, SETTINGS)["odd"]
    assert flag.kind == "hole" and "30 tunnels" in flag.reason and "median of the run is 16" in flag.reason


def test_few_cases_are_not_compared():
    assert not any(flags_beside(run(3, hip_left={"volume": 3e3}), SETTINGS).values())


def test_what_most_cases_have_is_missing_in_one_that_lacks_it():
    cases = run(6)
    del cases["p3"].structures["sacrum"]
    (flag,) = flags_beside(cases, SETTINGS)["p3"]
    assert flag.kind == "missing" and "5 of 6 cases have it" in flag.reason
    # unless that has been said already
    cases["p3"] = replace(cases["p3"], missing=("sacrum",))
    assert flags_beside(cases, SETTINGS)["p3"] == []


def test_the_same_segmentation_given_twice_is_found():
    cases = run(4)
    cases["again"] = cases["p2"]
    flags = flags_beside(cases, SETTINGS)
    assert [(case, flag.kind) for case, found in flags.items() for flag in found] == [
        ("p2", "twin"), ("again", "twin"),
    ]  # fmt: skip
    assert "the same as again" in flags["p2"][0].reason


def test_cases_are_ordered_by_harm():
    def of(**changes):
        return severity(flags_of(pelvis(**changes), SETTINGS))

    order = [
        of(hip_left={"open_edges": 3}),
        of(hip_left={"islands": (99.0,)}),
        of(hip_left={"voxels": 9}),
        of(),
    ]
    assert order == sorted(order) and len(set(order)) == 4


def test_names_tell_side_and_kind():
    assert [side_of(name) for name in ("hip_left", "Left Hip", "rib_right_3", "sacrum")] == [
        "left", "left", "right", None,
    ]  # fmt: skip
    assert counterpart("rib_left_3") == "rib_right_3" and counterpart("sacrum") is None
    assert [kind_of(n) for n in ("hip_left", "rib_left_3", "vertebrae_L5", "Left Hip")] == [
        "hip", "rib", "vertebrae", "hip",
    ]  # fmt: skip


def test_every_bone_of_the_table_has_a_number_of_its_own():
    numbers = list(TOTALSEGMENTATOR_BONES.values())
    assert len(set(numbers)) == len(numbers) == 63
    known = {
        "sacrum": 25,
        "vertebrae_L5": 27,
        "vertebrae_C1": 50,
        "femur_right": 76,
        "hip_left": 77,
        "hip_right": 78,
    }
    known |= {"skull": 91, "rib_left_1": 92, "rib_right_12": 115, "costal_cartilages": 117}
    assert {name: TOTALSEGMENTATOR_BONES[name] for name in known} == known
