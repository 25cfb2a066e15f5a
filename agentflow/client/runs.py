"""`client.runs`: start, watch and change runs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from agentflow.client.documents import (
    Attempt,
    Cleared,
    Done,
    LogLine,
    NewRun,
    NodeRun,
    Page,
    Run,
    RunWithNodes,
    Why,
)
from agentflow.client.http import Http, address
from agentflow.client.pages import each, page

LINES = 5000  #: Log lines that the API gives at once.


def last_step(within: str | None) -> tuple[str | None, int | None]:
    """The node and index that an address ends with; no node for that of a whole sub-run."""
    found = re.search(r"(?:^|\.)(?!sub\[)([^.\[\]]+)(?:\[(\d+)\])?$", within or "")
    return (None, None) if found is None else (found[1], None if found[2] is None else int(found[2]))


class Runs:
    """Executions of workflows."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def page(
        self,
        *,
        workflow: str | None = None,
        states: Sequence[str] = (),
        triggered_by: Sequence[str] = (),
        backfill: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        logical_from: datetime | None = None,
        logical_to: datetime | None = None,
        search: str | None = None,
        hidden: bool = False,
        limit: int = 25,
        cursor: str | None = None,
    ) -> Page[Run]:
        """A page of runs, the newest first."""
        query = {
            "workflow": workflow,
            "state": list(states),
            "triggered_by": list(triggered_by),
            "backfill": backfill,
            "created_from": created_from,
            "created_to": created_to,
            "logical_from": logical_from,
            "logical_to": logical_to,
            "search": search,
            "hidden": hidden,
        }
        return page(self._http, "/runs", query, limit=limit, cursor=cursor)

    def list(self, *, workflow: str | None = None, states: Sequence[str] = ()) -> Iterator[Run]:
        """Every run of a workflow, or of all, the newest first; pages are read as they are needed."""
        return each(self._http, "/runs", {"workflow": workflow, "state": list(states)})

    def create(
        self,
        workflow: str,
        params: Mapping[str, Any] | None = None,
        *,
        logical_date: datetime | None = None,
        note: str | None = None,
        idempotency_key: str | None = None,
    ) -> NewRun:
        """Start a run of the published version.

        Args:
            workflow: Its name.
            params: By name.
            logical_date: The date the run stands for; unique per workflow.
            note: A remark.
            idempotency_key: The same key starts no second run within 24 hours; a fresh one by default, so that a
                request whose answer was lost is safely sent again.
        """
        body: dict[str, Any] = {"params": dict(params or {})}
        if logical_date is not None:
            body["logical_date"] = logical_date.isoformat()
        if note is not None:
            body["note"] = note
        answer = self._http.call(
            "POST",
            address("workflows", workflow, "runs"),
            body=body,
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            repeatable=True,
        )
        return cast("NewRun", answer.json())

    def get(self, run_id: str, within: str | None = None) -> Run:
        """A run without its nodes; or the sub-run that an address within it leads into."""
        return cast("Run", self._http.get(address("runs", run_id), {"address": within}))

    def nodes(self, run_id: str, *, node: str | None = None, states: Sequence[str] = ()) -> Iterator[NodeRun]:
        """The node runs of a run, in the order of its workflow."""
        return each(self._http, address("runs", run_id, "nodes"), {"node": node, "state": list(states)})

    def show(self, run_id: str, address: str | None = None) -> RunWithNodes:
        """A run with its nodes; with an address the run that it leads into, with no other nodes than it names."""
        run = self.get(run_id, address)
        node, index = last_step(address)
        found = self.nodes(run["id"], node=node)
        return {**run, "nodes": [each for each in found if index is None or each["map_index"] == index]}

    def attempts(self, run_id: str, node: str) -> Iterator[Attempt]:
        """The attempts of a node run, the first one first."""
        return each(self._http, address("runs", run_id, "nodes", node, "attempts"))

    def logs(
        self,
        run_id: str,
        node: str | None = None,
        attempt: int | None = None,
        *,
        after: int = 0,
        until: int | None = None,
    ) -> Iterator[LogLine]:
        """Log lines in order of node, index, attempt and line, read as they are asked for.

        Args:
            run_id: Of the run.
            node: Only of this address.
            attempt: Only of this one.
            after: Only lines behind this number, of each attempt.
            until: Only lines up to this number, of each attempt.
        """
        query = {"node": node, "attempt": attempt, "after": after, "until": until, "limit": LINES}
        cursor: str | None = None
        while True:
            part = self._http.get(address("runs", run_id, "logs"), {**query, "cursor": cursor})
            yield from part["items"]
            cursor = part["next_cursor"]
            if cursor is None:
                return

    def output(self, run_id: str, node: str) -> Iterator[bytes]:
        """The whole JSON that a node returned, piece by piece."""
        with self._http.stream(address("runs", run_id, "nodes", node, "output")) as pieces:
            yield from pieces

    def why(self, run_id: str, node: str) -> Why:
        """Why a node is not running, and what to do."""
        return cast("Why", self._http.get(address("runs", run_id, "nodes", node, "why")))

    def cancel(self, run_id: str) -> Done:
        """Request that a run stops."""
        return cast("Done", self._act(run_id, "cancel"))

    def clear(
        self,
        run_id: str,
        *,
        nodes: Sequence[str] | None = None,
        upstream: bool = False,
        downstream: bool = False,
        only_failed: bool = False,
        newest_version: bool = False,
        dry_run: bool = False,
        force: bool = False,
    ) -> Cleared:
        """Run nodes of a run again."""
        body: dict[str, Any] = {
            "upstream": upstream,
            "downstream": downstream,
            "only_failed": only_failed,
            "newest_version": newest_version,
            "dry_run": dry_run,
            "force": force,
        }
        if nodes is not None:
            body["nodes"] = list(nodes)
        return cast("Cleared", self._act(run_id, "clear", body))

    def mark(self, run_id: str, node: str, state: str) -> Done:
        """Set the state of a node by hand: success, failed or skipped."""
        path = address("runs", run_id, "nodes", node, "mark")
        return cast("Done", self._http.call("POST", path, body={"state": state}).json())

    def rerun(self, run_id: str, *, newest_version: bool = False) -> NewRun:
        """Start a new run with the params of this one."""
        return cast("NewRun", self._act(run_id, "rerun", {"newest_version": newest_version}))

    def note(self, run_id: str, text: str) -> Done:
        """Keep a remark with a run; an empty one removes it."""
        return cast("Done", self._act(run_id, "note", {"note": text}))

    def delete(self, run_id: str) -> Done:
        """Delete an ended run with its sub-runs, outputs and logs."""
        self._http.call("DELETE", address("runs", run_id))
        return {"id": run_id, "changed": True}

    def open(self, workflow: str, states: Sequence[str]) -> Sequence[str]:
        """Ids of a workflow's runs in these states (queued, running), the oldest first."""
        return [run["id"] for run in self.list(workflow=workflow, states=states)][::-1]

    def between(self, workflow: str, since: datetime, until: datetime) -> Sequence[str]:
        """Ids of a workflow's started runs whose logical date lies in [since, until), the oldest first."""
        query = {"workflow": workflow, "logical_from": since, "logical_to": until}
        found = [run for run in each(self._http, "/runs", query) if run["state"] != "queued"]
        return [run["id"] for run in sorted(found, key=lambda run: (run["logical_date"], run["id"]))]

    def _act(self, run_id: str, action: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._http.call("POST", address("runs", run_id, action), body=body).json()
