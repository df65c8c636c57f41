"""Coverage and size at full length, some minutes; not collected unless it is named:

python -m pytest -s tests/coverage/study_coverage.py
"""

from __future__ import annotations


def bench_coverage_of_nominal_intervals(study):
    """2,000 replications, N = 800, M = 6, K = 3; the same fits with planted faults must be caught."""
    found = study(replications=2000, sets=800)
    for name, outcome in found.items():
        print(f"\n{name}: {outcome}", end="")
    assert found["none"].unverified == 0
    assert found["none"].passes
    assert not found["rows counted for sets"].passes
    assert not found["standard errors x 0.9"].passes


def bench_size_of_j(study):
    """J rejects 5 % at N = 5,000."""
    found = study(replications=2000, sets=5000, first_seed=10_000)["none"]
    print(f"\n{found}", end="")
    assert found.j_pvalue >= 1e-3
    assert found.passes
