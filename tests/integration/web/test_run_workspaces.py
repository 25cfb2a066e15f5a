"""A run is only there for its own workspace, whatever is asked about it."""

from __future__ import annotations

from functools import partial

import pytest

from agentflow import runs
from agentflow.errors import NotFound
from agentflow.runs.address import resolve_address

ASKED = {
    "show": runs.show_run,
    "cancel": partial(runs.cancel_run, actor="x"),
    "clear": partial(runs.clear_run, actor="x"),
    "rerun": partial(runs.rerun, actor="x"),
    "note": partial(runs.set_note, note="seen", actor="x"),
    "mark": partial(runs.mark_node, node="a", state="failed", actor="x"),
    "delete": partial(runs.delete_run, actor="x"),
    "address": partial(resolve_address, address="a"),
    "logs": lambda *arguments, **keys: list(runs.read_logs(*arguments, **keys)),
}


@pytest.fixture
def run(kit):
    kit.apply({"a": {}})
    kit.sql("INSERT INTO workspace (name) VALUES ('other') ON CONFLICT DO NOTHING")
    return kit.run()


@pytest.mark.parametrize("asked", ASKED)
def test_another_workspace_finds_nothing(kit, run, asked):
    before = kit.show(run)
    with pytest.raises(NotFound, match=run):
        kit.call(ASKED[asked], run, workspace="other")
    assert kit.show(run) == before
