"""The ordeal in the short form that continuous integration can afford; `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.ordeal import ordeal, table

SEED = 20261130


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_nothing_is_lost_and_nothing_runs_twice_unseen_in_a_short_storm() -> None:
    outcome = ordeal(seed=SEED, seconds=30.0, runs=60, schedulers=3)
    print(table(outcome))
    assert outcome.verdict.complaints == []
    assert sum(outcome.blows.values()) >= 5
