"""The harness of study_coverage.py, short: it passes what is right and catches both planted faults.

Two hundred replications cannot tell the coverage of standard errors x 0.9, 92.2 %, from 95 %; the sum of squares of
the standardised errors, 600 degrees of freedom, has a standard deviation of 6 % and is 23 % too large.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def found(study):
    return study(replications=200, sets=500, moments=4)


def test_intervals_cover_and_v_is_the_covariance_of_the_estimates(found):
    assert found["none"].unverified == 0
    assert found["none"].passes
    assert found["none"].j_pvalue >= 1e-3


@pytest.mark.parametrize("fault", ["rows counted for sets", "standard errors x 0.9"])
def test_planted_faults_are_caught(found, fault):
    assert not found[fault].passes
    assert found[fault].spread_pvalue < 1e-4
