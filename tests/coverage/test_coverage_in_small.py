"""The harness of study_coverage.py, short: it passes what is right and catches the coarse one of the planted faults."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def found(study):
    return study(replications=120, sets=300)


def test_intervals_cover_and_rows_counted_for_sets_are_caught(found):
    assert found["none"].unverified == 0
    assert found["none"].passes
    assert not found["rows counted for sets"].passes


def test_a_tenth_off_the_standard_errors_shows_in_the_count(found):
    """Too small a study to reject it, but the same fits must cover no more often."""
    pairs = zip(found["standard errors x 0.9"].covered, found["none"].covered, strict=True)
    assert all(faulty <= right for faulty, right in pairs)
    assert sum(found["standard errors x 0.9"].covered) < sum(found["none"].covered)
