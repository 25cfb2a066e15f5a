"""What the evaluator's answers mean for a node: tables."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

import pytest

from agentflow.db.queries.gates import DueGate
from agentflow.workload import ErrorInfo
from scheduler.evaluator import EvalResult
from scheduler.judging import decide_branch, decide_gate, take_turns

GATE = DueGate(uuid.UUID(int=1), 0, -1, 1, datetime(2026, 1, 1, tzinfo=UTC))
ERROR = EvalResult(error=ErrorInfo(type="Timeout", message="the expression took longer than 1 s"))

CONDITIONS = [(True, "ready"), (False, "skipped"), (None, "skipped"), (1, "failed"), ("", "failed"), ([], "failed")]


@pytest.mark.parametrize(("value", "state"), CONDITIONS)
def test_a_condition_is_true_or_false_and_nothing_else(value, state):
    assert decide_gate(GATE, EvalResult(value=value)).state == state


LISTS = [([1], "deferred", 1), ([], "skipped", 0), ([None] * 10_000, "deferred", 10_000), ([0] * 10_001, "failed", 0),
         ({}, "failed", 0), (None, "failed", 0), (True, "failed", 0), ("abc", "failed", 0), (3.5, "failed", 0)]  # fmt: skip


@pytest.mark.parametrize(("value", "state", "count"), LISTS, ids=lambda value: str(value)[:9])
def test_a_node_is_mapped_over_a_list_and_nothing_else(value, state, count):
    result = decide_gate(GATE, EvalResult(value=value), mapped=True)
    assert (result.state, result.count) == (state, count)


CASES = {"cases": [{"when": "?", "to": ["a"]}, {"when": "?", "to": ["b", "c"]}]}
BRANCHES = [
    ([True, True], CASES, ["a"]),
    ([False, True], CASES, ["b", "c"]),
    ([None, True], CASES, ["b", "c"]),
    ([False, False], CASES, []),
    ([False, False], CASES | {"default": ["d"]}, ["d"]),
    ([True, "text"], CASES, ["a"]),  # what comes after the first true case is not looked at
    ([False, "text"], CASES, None),
    ([7, True], CASES, None),
]


@pytest.mark.parametrize(("values", "config", "chosen"), BRANCHES)
def test_a_branch_takes_its_first_true_case(values, config, chosen):
    result = decide_branch(GATE, config, EvalResult(value=values))
    assert (result.state, result.output) == (("failed", None) if chosen is None else ("success", json.dumps(chosen)))


@pytest.mark.parametrize("mapped", [True, False])
def test_an_error_fails_the_node_with_that_error(mapped):
    result = decide_gate(GATE, ERROR, mapped=mapped)
    assert result.state == "failed"
    assert json.loads(str(result.error))["type"] == "Timeout"
    assert decide_branch(GATE, CASES, ERROR).state == "failed"


def test_versions_take_turns():
    places = [(1, 10), (1, 11), (1, 12), (2, 20), (1, 13), (3, 30), (2, 21)]
    assert take_turns(places) == [10, 20, 30, 11, 21, 12, 13]
    assert take_turns([]) == []
