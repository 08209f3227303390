"""`make compare`: its report on the numbers of two revisions, and a revision that doesn't exist."""

from __future__ import annotations

import pytest

from benchmarks.compare import CompareError, checkout, table


def test_the_table_has_the_ratio_of_medians() -> None:
    """A ratio is that of the medians; per CPU second each run's rate is divided by its own share first."""
    before = {("ours", "pairs"): [100.0, 300.0, 110.0], ("ours", "pairs cpu"): [0.5, 1.0, 0.5]}
    now = {("ours", "pairs"): [220.0, 240.0, 10.0], ("ours", "pairs cpu"): [0.5, 0.5, 0.5]}
    row = table(before, now).splitlines()[2]
    assert row == "| ours | pairs | 110 (100–300) | 220 (10–240) | 2.00 | 2.00 |"


def test_a_measurement_of_one_side_is_left_out() -> None:
    """What only one of the trees measures can't be compared."""
    assert len(table({}, {("ours", "pairs"): [1.0]}).splitlines()) == 2


def test_a_revision_that_there_is_not() -> None:
    """The message says what git was asked for."""
    with pytest.raises(CompareError, match="no revision 'nowhere'"), checkout("nowhere"):
        pass
