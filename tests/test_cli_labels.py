"""Structures by name on the command line."""

import json
import sys

import nibabel
import numpy as np
import pytest
import small

from shapefit import cli
from shapefit.anatomy import TOTALSEGMENTATOR_BONES
from shapefit.cli.options import label_numbers
from shapefit.io.case import Case, model_labels
from shapefit.io.mesh import write_surfaces


def test_a_structure_comes_with_its_label_or_without():
    assert label_numbers(["sacrum=1", "hip_left", "Left Hip=12"]) == {
        "sacrum": 1, "hip_left": None, "Left Hip": 12,
    }  # fmt: skip


@pytest.mark.parametrize("entry", ["=1", "sacrum=one", "sacrum=", "sacrum=-1", "sacrum=1.5"])
def test_what_is_neither_is_an_error_that_shows_how(entry):
    with pytest.raises(ValueError, match="is not STRUCTURE=LABEL, as in sacrum=1, nor a structure's name"):
        label_numbers([entry])


def test_a_structure_twice_is_an_error():
    with pytest.raises(ValueError, match="gives sacrum twice"):
        label_numbers(["sacrum=1", "sacrum"])


def case(labels=None) -> Case:
    return Case("p", small.case_surfaces(0, 1), labels=labels)


def test_a_model_remembers_the_labels_of_the_files_that_it_was_made_of():
    as_in_file = {name: TOTALSEGMENTATOR_BONES[name] for name in small.LABELS}
    assert model_labels(dict.fromkeys(small.LABELS), case(as_in_file)) == as_in_file
    assert model_labels({"totalsegmentator": None}, case(as_in_file)) == as_in_file
    given = dict(small.LABELS)
    assert model_labels(given, case(given)) == given
    assert model_labels(given, case()) == given  # meshes, with numbers for later label maps
    assert model_labels(dict.fromkeys(small.LABELS), case()) is None  # meshes, by name alone
    assert model_labels(None, case()) is None
    # masks all have 1: numbers of no use
    assert model_labels(dict.fromkeys(small.LABELS), case(dict.fromkeys(small.LABELS, 1))) == {
        "sacrum": 1, "hip_left": 2, "hip_right": 3,
    }  # fmt: skip


def test_evaluate_finds_bones_by_name_in_a_totalsegmentator_file(monkeypatch, capsys, tmp_path):
    source = nibabel.load(small.write_label_map(tmp_path / "ours.nii.gz", 3, voxel=2.0))
    numbers = np.array([0, *(TOTALSEGMENTATOR_BONES[name] for name in small.LABELS)], np.uint8)
    theirs = numbers[np.asarray(source.dataobj)]
    nibabel.save(nibabel.Nifti1Image(theirs, source.affine), tmp_path / "theirs.nii.gz")
    write_surfaces(tmp_path / "result", small.case_surfaces(3))
    command = ["evaluate", tmp_path / "result", "--reference", tmp_path / "theirs.nii.gz", "--samples", 500]
    for n, labels in enumerate((["sacrum", "hip_left", "hip_right"], ["totalsegmentator"])):
        out = tmp_path / f"out{n}"
        arguments = ["shapefit", *command, "--labels", *labels, "-o", out]
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0, capsys.readouterr().err
        (record,) = json.loads((out / "metrics.json").read_text())["records"]
        assert set(record["structures"]) == set(small.LABELS)
        assert record["metrics"]["absolute"]["all"]["assd"] < 0.6
