"""`docs/state-machine.md` shows what `agentflow.states` allows, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentflow.states import ATTEMPT_FINAL, ATTEMPT_MOVES, NODE_RUN_FINAL, NODE_RUN_MOVES, RUN_FINAL, RUN_MOVES

PAGE = (Path(__file__).parents[2] / "docs" / "state-machine.md").read_text(encoding="utf-8")
MACHINES = {
    "Run": (RUN_MOVES, RUN_FINAL),
    "Node run": (NODE_RUN_MOVES, NODE_RUN_FINAL),
    "Attempt": (ATTEMPT_MOVES, ATTEMPT_FINAL),
}


def section(title):
    """The text below a heading."""
    return re.split(r"^## ", PAGE.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("title", MACHINES)
def test_the_chart_draws_every_move_and_no_other(title):
    moves, _ = MACHINES[title]
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", section(title), flags=re.MULTILINE))
    allowed = {(str(state), str(target)) for state, targets in moves.items() for target in targets}
    by_hand = {
        (str(state), str(target))
        for state in (NODE_RUN_FINAL if title == "Node run" else [])
        for target in moves[state]
    }  # told in words below the chart: clear and mark would hide everything else
    assert drawn == allowed - by_hand


@pytest.mark.parametrize("title", MACHINES)
def test_the_table_explains_every_state(title):
    moves, final = MACHINES[title]
    rows = dict(re.findall(r"^\| `(\w+)` \| (final)?", section(title), flags=re.MULTILINE))
    assert set(rows) == {str(state) for state in moves}
    assert {state for state, word in rows.items() if word} == {str(state) for state in final}


def test_what_people_may_do_to_final_node_runs_is_said():
    for state in NODE_RUN_FINAL:
        assert NODE_RUN_MOVES[state] == {"pending", "ready"} | (NODE_RUN_FINAL - {state})
    text = section("Node run")
    assert "A clear" in text
    assert "A mark" in text
