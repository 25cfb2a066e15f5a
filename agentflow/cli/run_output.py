"""How a run is shown and followed, for `run`, `trigger --wait` and `runs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import typer

from agentflow.cli import output, progress_rows, style
from agentflow.cli.output import Column
from agentflow.clock import utc_now
from agentflow.states import NodeRunState, RunState

if TYPE_CHECKING:
    from agentflow.cli.context import Api

_ERRORS_SHOWN = 10  #: Failed nodes told one by one after a run; the rest is counted.


def follow(api: Api, run_id: str, *, goes_on: bool = False) -> output.Document:
    """Show progress until the run has ended; returns its last document. What goes away meanwhile is waited for.

    Args:
        api: Where the run is known.
        run_id: Of the run.
        goes_on: Whether Ctrl-C ends only the watching, not the run, which is then said.
    """
    from agentflow.cli.following import following
    from agentflow.cli.progress import watch

    with following(api) as follower:
        try:
            return watch(lambda: follower.show(run_id), follower.wait)
        except KeyboardInterrupt:
            if goes_on:
                output.note(f"the run goes on; `agentflow runs cancel {run_id}` stops it")
            raise


def finish(document: output.Document, *, as_json: bool) -> NoReturn:
    """Print how a run ended and leave: 0 for success, 1 for anything else."""
    success = document["state"] == RunState.SUCCESS  # failures that later nodes handled are no news then
    output.emit(document, as_json=as_json, human=lambda: None if success else print_failures(document))
    raise typer.Exit(0 if success else 1)


def print_failures(document: output.Document) -> None:
    """On stderr: which nodes failed, why, and where their log is."""
    from rich.text import Text

    console = output.stderr()
    failed = [node for node in progress_rows.work_items(document["nodes"]) if node["state"] == NodeRunState.FAILED]
    for node in failed[:_ERRORS_SHOWN]:
        name = progress_rows.node_name(node)
        text = Text.assemble((f"{name}: ", "bold red"), progress_rows.error_line(node["error"]) or "failed")
        console.print(text, soft_wrap=True)
    if len(failed) > _ERRORS_SHOWN:
        output.note(f"and {len(failed) - _ERRORS_SHOWN} more failed nodes")
    if failed:
        output.note(f"the log: agentflow logs {document['id']} {failed[0]['node']}")


def _state(row: output.Document) -> Any:
    return style.state_text(row["state"], encoding=output.stdout().encoding)


def _took(row: output.Document) -> str:
    return output.duration_text(progress_rows.seconds_of(row, utc_now()))


RUN_COLUMNS = [
    Column("ID", lambda row: row["id"], keep=9),
    Column("WORKFLOW", lambda row: row["workflow"], keep=8),
    Column("VERSION", lambda row: str(row["version"]), keep=2, right=True),
    Column("STATE", _state, keep=7),
    Column("TRIGGERED BY", lambda row: row["triggered_by"], keep=3),
    Column("LOGICAL DATE", lambda row: output.short_time(row["logical_date"]), keep=1),
    Column("CREATED", lambda row: output.short_time(row["created_at"]), keep=5),
    Column("TOOK", _took, keep=6, right=True),
]
_NODE_COLUMNS = [
    Column("NODE", progress_rows.node_name, keep=9),
    Column("STATE", _state, keep=8),
    Column("ATTEMPT", lambda row: str(row["attempt"]), keep=3, right=True),
    Column("EXECUTOR", lambda row: row["executor"], keep=1),
    Column("STARTED", lambda row: output.short_time(row["started_at"]), keep=2),
    Column("TOOK", _took, keep=6, right=True),
    Column("DUE", progress_rows.due_text, keep=4),
    Column("ERROR", lambda row: progress_rows.error_line(row["error"]), keep=5),
]

_SUB_RUN_COLUMNS = [
    Column("SUB-RUN", lambda row: row["address"], keep=9),
    Column("STATE", _state, keep=8),
    Column("ID", lambda row: row["id"], keep=9),
]


def print_run(document: output.Document) -> None:
    """A run and its nodes on stdout."""
    import json

    output.print_fields(
        [
            ("run", document["id"]),
            ("workflow", f"{document['workflow']}  version {document['version']}"),
            ("state", _state(document)),
            ("triggered by", document["triggered_by"]),
            ("params", json.dumps(document["params"], ensure_ascii=False)),
            ("logical date", document["logical_date"]),
            ("created", document["created_at"]),
            ("started", document["started_at"]),
            ("finished", document["finished_at"]),
            ("took", _took(document)),
            ("note", document.get("note")),
        ]
    )
    output.say("")
    output.print_table(_NODE_COLUMNS, document["nodes"], empty="no node runs yet")
    subs = [sub for node in document["nodes"] for sub in node.get("sub_runs", ())]
    if subs:
        output.say("")
        output.print_table(_SUB_RUN_COLUMNS, subs, empty="")
