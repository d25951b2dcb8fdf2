"""Scores go to a table and come back bit for bit."""

import pytest
import torch

from shapefit.io.scores import read_scores, write_scores

CASES = ("z001", 'z001~, "mirrored"', "ü")


def test_scores_come_back_bit_for_bit(tmp_path):
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    std = torch.tensor([41.25, 1 / 3, 1e-7, 2.0], dtype=torch.float64)
    write_scores(tmp_path / "s.csv", CASES, scores, std)
    found = read_scores(tmp_path / "s.csv")
    assert found.cases == CASES
    assert torch.equal(found.scores, scores) and torch.equal(found.std, std)
    head = (tmp_path / "s.csv").read_text().splitlines()[0]
    assert head.startswith("case,mode_1 (std 41.25 mm),mode_2 (std 0.333")


def test_no_cases_are_a_table_too(tmp_path):
    write_scores(tmp_path / "s.csv", (), torch.zeros(0, 2), torch.ones(2))
    assert read_scores(tmp_path / "s.csv").scores.shape == (0, 2)


def test_counts_that_disagree_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scores are \(2, 3\) for 3 cases and 3 modes"):
        write_scores(tmp_path / "s.csv", CASES, torch.zeros(2, 3), torch.ones(3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable table"),
        ("name,mode_1 (std 1.0 mm)\na,1\n", "expected case, mode_1"),
        ("case,mode_2 (std 1.0 mm)\na,1\n", "expected case, mode_1"),
        ("case,pc1\na,1\n", "expected case, mode_1"),
        ("case,mode_1 (std 1.0 mm)\na,x\n", "rows that are not 1 numbers"),
        ("case,mode_1 (std 1.0 mm)\na,1,2\n", "rows that are not 1 numbers"),
        ("case,mode_1 (std wide mm)\na,1\n", "rows that are not 1 numbers"),
    ],
)
def test_other_tables_are_refused_with_the_file_and_the_reason(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"s\.csv.*{message}"):
        read_scores(tmp_path / "s.csv")
