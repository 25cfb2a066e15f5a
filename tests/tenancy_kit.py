"""Rows of two workspaces in every table, and connections in the roles that the webserver takes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from agentflow.db.models import Model
from agentflow.db.tenancy import AUTH, SCHEDULER, WEB
from agentflow.ids import uuid7

NOW = datetime(2026, 11, 15, tzinfo=UTC)
ROLES = (WEB, AUTH, SCHEDULER)


def act_as(connection: Connection, role: str, workspace: int | None = None) -> None:
    """Take a role for the rest of the transaction."""
    connection.execute(
        text("SELECT set_config('role', :role, true), set_config('app.workspace', :workspace, true)"),
        {"role": role, "workspace": "" if workspace is None else str(workspace)},
    )


def put(connection: Connection, table: str, **values: Any) -> Any:
    """Insert a row; what must be there and is not given is made up. Returns the first column of its key."""
    columns = Model.metadata.tables[table].columns
    for column in columns:
        if column.name not in values and not column.nullable and column.server_default is None:
            values[column.name] = _made_up(column)
    row = {name: value for name, value in values.items() if value is not None or name in values}
    names = ", ".join(row)
    marks = ", ".join(f"CAST(:{name} AS {columns[name].type.compile(postgresql.dialect())})" for name in row)
    key = next(column.name for column in columns if column.primary_key)
    return connection.scalar(text(f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING {key}"), row)


def _made_up(column: Any) -> Any:
    kind = column.type.python_type
    made = {int: 1, str: "x", bool: False, datetime: NOW, bytes: b"x", float: 1.0, uuid.UUID: uuid.uuid4(), list: []}
    return made.get(kind, "{}")


def fill(connection: Connection, workspace: int) -> dict[str, Any]:
    """One row in every table that a workspace owns rows of, and of its own accounts; returns some of the keys."""
    mark = f"w{workspace}"
    workflow = put(connection, "workflow", workspace_id=workspace, name="same-name", source="api")
    pool = put(connection, "pool", workspace_id=workspace, name="own", slots=1)
    bundle = put(connection, "bundle", hash=mark)
    version = put(connection, "workflow_version", workflow_id=workflow, version=1, bundle_hash=bundle)
    group = put(connection, "dispatch_group", workflow_id=workflow, pool_id=pool)
    put(connection, "version_node", version_id=version, node_no=0, group_id=group, trigger_rule="all_success")
    put(connection, "version_edge", version_id=version, up_no=0, down_no=1)
    for table in ("variable", "secret", "source_file", "dag_folder", "audit_event"):
        put(connection, table, workspace_id=workspace)
    put(connection, "workflow_draft", workflow_id=workflow, workspace_id=workspace)
    put(connection, "idempotency_key", workspace_id=workspace)
    put(connection, "webhook", workspace_id=workspace, workflow_id=workflow, name="h", token_hash=mark.encode())
    put(connection, "webhook_delivery", workspace_id=workspace, name="h")
    put(connection, "connection", workspace_id=workspace, name="c")
    trigger = put(connection, "trigger", workflow_id=workflow)
    put(connection, "backfill", workspace_id=workspace, workflow_id=workflow, state="running", reprocess="none")
    put(connection, "event_source", trigger_id=trigger, workspace_id=workspace, workflow="same-name")
    put(connection, "event_arrival", trigger_id=trigger, workflow="same-name")
    put(connection, "fire", trigger_id=trigger, outcome="run")
    put(connection, "manual_date", workflow_id=workflow)
    run = put(
        connection, "run", id=uuid7(NOW), workspace_id=workspace, workflow_id=workflow, version_id=version,
        state="queued", triggered_by="cli",
    )  # fmt: skip
    one = {"run_id": run, "node_no": 0, "map_index": -1}
    put(connection, "node_run", **one, state="pending", version_id=version, group_id=group, n_up=0)
    put(connection, "attempt", **one, attempt=1, state="queued")
    put(connection, "output", **one)
    put(connection, "log_chunk", **one, attempt=1, chunk_no=0)
    put(connection, "run_event", run_id=run, seq=1)
    put(connection, "run_end", run_id=run)
    put(connection, "run_waiter", **one, awaited_run_id=uuid7())
    return {"run": run, "workflow": workflow, "version": version}
