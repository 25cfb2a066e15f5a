"""Runs on the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from agentflow import runs
from agentflow.cli.local.group import Document, Group
from agentflow.objects.store import open_store
from agentflow.states import RunState, TriggeredBy


class Runs(Group):
    """Executions of workflows."""

    def page(
        self,
        *,
        workflow: str | None = None,
        states: Sequence[RunState] = (),
        triggered_by: Sequence[TriggeredBy] = (),
        search: str | None = None,
        backfill: str | None = None,
        hidden: bool = False,
        limit: int = 25,
        cursor: str | None = None,
    ) -> Document:
        """A page of runs, the newest first."""
        find = partial(
            runs.list_runs,
            workflow=workflow,
            states=states,
            triggered_by=triggered_by,
            search=search,
            backfill=backfill,
            hidden=hidden,
            limit=limit,
            cursor=cursor,
            **self._where,
        )
        items, following = self._session.do(find)
        return {"items": items, "next_cursor": following}

    def create(
        self,
        workflow: str,
        params: Mapping[str, Any] | None = None,
        *,
        logical_date: datetime | None = None,
        note: str | None = None,
    ) -> Document:
        """Start a run of the published version."""

        def work(connection: Any) -> Document:
            return runs.create_run(
                connection,
                workflow,
                dict(params or {}),
                triggered_by=TriggeredBy.CLI,
                logical_date=logical_date,
                note=note,
                **self._who,
            )

        return self._session.do(work)

    def show(self, run_id: str, address: str | None = None) -> Document:
        """A run with its nodes; with an address the run that it leads into, with no other nodes than it names."""
        return self._session.do(partial(runs.show_run, run_id=run_id, address=address, **self._where))

    def show_patiently(self, run_id: str) -> Document:
        """As `show`; a database that goes away meanwhile is waited for."""
        return self._session.do_patiently(partial(runs.show_run, run_id=run_id, **self._where))

    def get(self, run_id: str) -> Document:
        """A run without its nodes."""
        return self._session.do(partial(runs.show_run_alone, run_id=run_id, **self._where))

    def logs(
        self,
        run_id: str,
        node: str | None = None,
        attempt: int | None = None,
        *,
        after: int = 0,
        until: int | None = None,
    ) -> Iterator[Document]:
        """Log lines in order of node, index, attempt and line."""
        with self._session.reading() as connection:
            yield from runs.read_logs(connection, run_id, node, attempt, after=after, until=until, **self._where)

    def output(self, run_id: str, node: str) -> Iterator[bytes]:
        """The whole JSON that a node returned, piece by piece."""
        found = self._session.do(partial(runs.find_output, run_id=run_id, node=node, **self._where))
        yield from runs.stream_output(self._session.do, open_store(self._session.settings), found)

    def why(self, run_id: str, node: str) -> Document:
        """Why a node is not running, and what to do."""
        return self._session.do(lambda connection: runs.why(connection, run_id, node, **self._where))

    def cancel(self, run_id: str) -> Document:
        """Request that a run stops."""
        return self._session.do(partial(runs.cancel_run, run_id=run_id, **self._who))

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
    ) -> Document:
        """Run nodes of a run again."""
        change = partial(
            runs.clear_run,
            run_id=run_id,
            nodes=nodes,
            upstream=upstream,
            downstream=downstream,
            only_failed=only_failed,
            newest_version=newest_version,
            dry_run=dry_run,
            force=force,
            **self._who,
        )
        return self._session.do(change)

    def mark(self, run_id: str, node: str, state: str) -> Document:
        """Set the state of a node by hand."""
        return self._session.do(partial(runs.mark_node, run_id=run_id, node=node, state=state, **self._who))

    def rerun(self, run_id: str, *, newest_version: bool = False) -> Document:
        """Start a new run with the params of this one."""
        return self._session.do(partial(runs.rerun, run_id=run_id, newest_version=newest_version, **self._who))

    def note(self, run_id: str, text: str) -> Document:
        """Keep a remark with a run."""
        return self._session.do(partial(runs.set_note, run_id=run_id, note=text, **self._who))

    def delete(self, run_id: str) -> Document:
        """Delete an ended run."""
        return self._session.do(partial(runs.delete_run, run_id=run_id, **self._who))

    def open(self, workflow: str, states: Sequence[RunState]) -> Sequence[str]:
        """Ids of a workflow's runs in these states, the oldest first."""
        return self._session.do(partial(runs.open_runs, workflow=workflow, states=states, **self._where))

    def between(self, workflow: str, since: datetime, until: datetime) -> Sequence[str]:
        """Ids of a workflow's started runs whose logical date lies in [since, until), the oldest first."""
        find = partial(runs.runs_between, workflow=workflow, since=since, until=until, **self._where)
        return self._session.do(find)
