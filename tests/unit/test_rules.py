"""Trigger rules: the table of SEMANTICS section 1, and the SQL against the Python."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy import text

from agentflow.rules import Counts, Verdict, decide_rule, rule_sql
from agentflow.states import TriggerRule

W, G, S, U = Verdict.WAIT, Verdict.GO, Verdict.SKIP, Verdict.UPSTREAM_FAILED


@pytest.mark.parametrize(
    ("rule", "counts", "verdict"),
    [
        ("all_success", Counts(2, success=2), G),
        ("all_success", Counts(2, success=1), W),
        ("all_success", Counts(3, failed=1), U),  # at the first failure, not at the end
        ("all_success", Counts(2, upstream_failed=1), U),
        ("all_success", Counts(2, skipped=1), W),  # the other may still fail
        ("all_success", Counts(2, success=1, skipped=1), S),
        ("all_failed", Counts(2, failed=1, upstream_failed=1), G),
        ("all_failed", Counts(2, failed=1), W),
        ("all_failed", Counts(2, success=1, failed=1), U),
        ("all_failed", Counts(2, success=1), W),
        ("all_failed", Counts(2, success=2), S),
        ("all_done", Counts(3, success=1, failed=1, skipped=1), G),
        ("all_done", Counts(3, success=1, failed=1), W),
        ("all_done_min_one_success", Counts(2, success=1, failed=1), G),
        ("all_done_min_one_success", Counts(2, failed=2), U),
        ("all_done_min_one_success", Counts(2, skipped=2), S),
        ("all_done_min_one_success", Counts(2, success=1), W),
        ("one_success", Counts(9, success=1), G),
        ("one_success", Counts(2, failed=1), W),
        ("one_success", Counts(2, failed=1, skipped=1), U),
        ("one_success", Counts(2, skipped=2), S),
        ("one_failed", Counts(9, failed=1), G),
        ("one_failed", Counts(9, upstream_failed=1), G),
        ("one_failed", Counts(2, success=2), S),
        ("one_failed", Counts(2, success=1), W),
        ("one_done", Counts(9, failed=1), G),
        ("one_done", Counts(9, success=1), G),
        ("one_done", Counts(2, skipped=1), W),
        ("one_done", Counts(2, skipped=2), S),
        ("one_done", Counts(2, upstream_failed=1, skipped=1), U),
        ("none_failed", Counts(2, success=1, skipped=1), G),
        ("none_failed", Counts(2, skipped=2), G),
        ("none_failed", Counts(2, failed=1), U),
        ("none_failed", Counts(2, success=1), W),
        ("none_failed_min_one_success", Counts(2, success=1, skipped=1), G),
        ("none_failed_min_one_success", Counts(2, skipped=2), S),
        ("none_failed_min_one_success", Counts(2, failed=1), U),
        ("none_skipped", Counts(2, success=1, failed=1), G),
        ("none_skipped", Counts(2, success=1, skipped=1), S),
        ("none_skipped", Counts(2, skipped=1), W),
        ("none_skipped", Counts(2, failed=1, skipped=1), U),
        ("all_skipped", Counts(2, skipped=2), G),
        ("all_skipped", Counts(2, skipped=1), W),
        ("all_skipped", Counts(2, success=1, skipped=1), S),
        ("all_skipped", Counts(2, failed=1), U),
        ("always", Counts(5), G),
        ("all_success", Counts(0), G),  # without `needs` every rule is satisfied
        ("one_failed", Counts(0), G),
    ],
)
def test_a_rule_is_decided_as_soon_as_its_outcome_is_certain(rule, counts, verdict):
    assert decide_rule(TriggerRule(rule), counts) == verdict


def _all_counts(most: int) -> list[Counts]:
    return [
        Counts(n, *ended)
        for n in range(most + 1)
        for ended in itertools.product(range(n + 1), repeat=4)
        if sum(ended) <= n
    ]


@pytest.mark.parametrize("rule", list(TriggerRule))
def test_a_decision_never_changes_when_more_upstreams_end(rule):
    for counts in _all_counts(4):
        verdict = decide_rule(rule, counts)
        if verdict is W:
            continue
        for field in ("success", "failed", "upstream_failed", "skipped"):
            if counts.done < counts.n:
                later = Counts(**{**_as_dict(counts), field: getattr(counts, field) + 1})
                assert decide_rule(rule, later) == verdict, (counts, later)


@pytest.mark.parametrize("rule", list(TriggerRule))
def test_a_rule_is_decided_once_every_upstream_is_final(rule):
    for counts in _all_counts(4):
        if counts.done == counts.n:
            assert decide_rule(rule, counts) is not W


def test_the_sql_says_what_the_function_says(engine):
    expression = rule_sql(rule="rule", n="n_up", success="s1", failed="f1", upstream_failed="u1", skipped="k1")
    cases = [(rule, counts) for rule in TriggerRule for counts in _all_counts(4)]
    columns = {
        "rules": [rule.value for rule, _ in cases],
        "ns": [c.n for _, c in cases],
        "ss": [c.success for _, c in cases],
        "fs": [c.failed for _, c in cases],
        "us": [c.upstream_failed for _, c in cases],
        "ks": [c.skipped for _, c in cases],
    }
    statement = text(
        f"SELECT {expression} FROM unnest(CAST(:rules AS text[]), CAST(:ns AS int[]), CAST(:ss AS int[]),"
        " CAST(:fs AS int[]), CAST(:us AS int[]), CAST(:ks AS int[])) WITH ORDINALITY"
        " AS t(rule, n_up, s1, f1, u1, k1, i) ORDER BY i"
    )
    with engine.connect() as connection:
        said = list(connection.scalars(statement, columns))
    assert said == [decide_rule(rule, counts).value for rule, counts in cases]


def _as_dict(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in ("n", "success", "failed", "upstream_failed", "skipped")}
