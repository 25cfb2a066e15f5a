"""The CHECK constraints of the history tables: each refuses what it must, and lets every state of a real life pass."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from agentflow.db.models import Attempt, NodeRun, Run
from agentflow.states import (
    ATTEMPT_FINAL,
    NODE_RUN_FINAL,
    NODE_RUN_SLOTTED,
    RUN_FINAL,
    AttemptState,
    NodeRunState,
    RunState,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)
RUN = {
    "workspace_id": 1,
    "workflow_id": 1,
    "version_id": 1,
    "state": "running",
    "triggered_by": "manual",
    "params": {},
    "actor": "test",
    "started_at": NOW,
}
NODE = {
    "node_no": 0,
    "map_index": -1,
    "version_id": 1,
    "group_id": 1,
    "state": "pending",
    "priority": 0,
    "pool_slots": 1,
    "n_up": 2,
}
ATTEMPT = {
    "node_no": 0,
    "map_index": -1,
    "attempt": 1,
    "state": "running",
    "token_hash": b"x",
    "executor": "stub",
    "scheduler_id": uuid.UUID(int=1),
    "queued_at": NOW,
}
TABLES = {"run": (Run, "id", RUN), "node_run": (NodeRun, "run_id", NODE), "attempt": (Attempt, "run_id", ATTEMPT)}


def put(connection, table, **values):
    model, key, row = TABLES[table]
    connection.execute(insert(model).values(**row | {key: uuid.uuid4()} | values))


@pytest.mark.parametrize(
    ("table", "values", "constraint"),
    [
        ("run", {"state": "paused"}, "ck_run_state_known"),
        ("run", {"triggered_by": "magic"}, "ck_run_triggered_by_known"),
        *(("run", {"state": state.value}, "ck_run_finished_iff_final") for state in RUN_FINAL),
        ("run", {"finished_at": NOW}, "ck_run_finished_iff_final"),
        ("run", {"state": "queued"}, "ck_run_queued_not_started"),
        ("run", {"open_nodes": -1}, "ck_run_counters"),
        ("run", {"failed_leaves": -1}, "ck_run_counters"),
        ("node_run", {"state": "done"}, "ck_node_run_state_known"),
        *(("node_run", {"state": state.value}, "ck_node_run_finished_iff_final") for state in NODE_RUN_FINAL),
        ("node_run", {"finished_at": NOW}, "ck_node_run_finished_iff_final"),
        ("node_run", {"state": "ready"}, "ck_node_run_ready_has_time"),
        ("node_run", {"state": "retrying"}, "ck_node_run_retrying_has_due"),
        ("node_run", {"state": "deferred"}, "ck_node_run_deferred_has_reason"),
        *(
            ("node_run", {"state": state.value, **rest}, "ck_node_run_slotted_has_attempt")
            for state in NODE_RUN_SLOTTED
            for rest in ({}, {"attempt": 1}, {"executor": "stub"})
        ),
        ("node_run", {"up_success": -1}, "ck_node_run_upstream_counters"),
        ("node_run", {"up_success": 2, "up_skipped": 1}, "ck_node_run_upstream_counters"),
        ("node_run", {"up_failed": 1, "up_upstream_failed": 2}, "ck_node_run_upstream_counters"),
        ("attempt", {"state": "ready"}, "ck_attempt_state_known"),
        *(("attempt", {"state": state.value}, "ck_attempt_finished_iff_final") for state in ATTEMPT_FINAL),
        ("attempt", {"finished_at": NOW}, "ck_attempt_finished_iff_final"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(connection, table, values, constraint):
    with pytest.raises(IntegrityError, match=constraint):
        put(connection, table, **values)


@pytest.mark.parametrize("state", RunState)
def test_every_state_of_a_run_can_be_stored(connection, state):
    started = {} if state is not RunState.QUEUED else {"started_at": None}
    put(connection, "run", state=state.value, finished_at=NOW if state in RUN_FINAL else None, **started)


@pytest.mark.parametrize("state", NodeRunState)
def test_every_state_of_a_node_run_can_be_stored(connection, state):
    put(
        connection,
        "node_run",
        state=state.value,
        finished_at=NOW if state in NODE_RUN_FINAL else None,
        ready_at=NOW,
        resume_at=NOW if state in {NodeRunState.RETRYING, NodeRunState.DEFERRED} else None,
        attempt=1,
        executor="stub",
        up_success=1,
        up_skipped=1,
    )


@pytest.mark.parametrize("state", AttemptState)
def test_every_state_of_an_attempt_can_be_stored(connection, state):
    put(connection, "attempt", state=state.value, finished_at=NOW if state in ATTEMPT_FINAL else None)


def test_an_attempt_number_is_used_once(connection):
    run = uuid.uuid4()
    put(connection, "attempt", run_id=run)
    with pytest.raises(IntegrityError, match="attempt"):
        put(connection, "attempt", run_id=run)
