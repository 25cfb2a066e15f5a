"""Drops months of history whose runs have all ended, and old audit events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import workspace_id
from agentflow.db.engine import is_retriable, transact
from agentflow.db.queries.locks import database_now
from agentflow.db.queries.months import (
    Month,
    bytes_of,
    count_old,
    delete_old,
    drop_month,
    months_before,
    open_runs_of,
    rows_of,
)
from agentflow.errors import Conflict
from agentflow.objects.store import ObjectStore
from agentflow.retention.archive import archive_month

log = logging.getLogger(__name__)

AUDIT_DAYS: Final = 400  #: Days that audit events and the proofs of fires are kept.
ADVISORY_LOCK: Final = 0x4146_5254  # "AFRT"
TRIES: Final = 30  #: Times that the moment without anybody at the tables is looked for.
_PAUSE: Final = 1.0  # seconds between them
#: Everybody waits behind us for so long, so it is short; now and then long enough for a vacuum to make way.
_LOCK, _LONG_LOCK, _LONG_EVERY = timedelta(milliseconds=200), timedelta(milliseconds=1500), 5
_LOCK_NOT_AVAILABLE: Final = "55P03"


class Pruner:
    """Prunes one database. Each month is a transaction of its own; what was dropped stays dropped if a later one fails."""

    def __init__(self, engine: Engine, store: ObjectStore, *, actor: str, archive: bool, tries: int = TRIES) -> None:
        """`archive`: rows and objects of a dropped month are kept in the store."""
        self._engine = engine
        self._store = store
        self._actor = actor
        self._archive = archive
        self._tries = tries
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End after the step at hand."""
        self._stopping.set()

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> dict[str, Any]:
        """Drop the months that have ended longer ago than `older_than`.

        Returns:
            `{changed, dry_run, cutoff, months: [{month, state, runs, rows, bytes, archived, open}], audit_events, fires}`;
            a month's state is `dropped`, `would-drop`, `open` (the runs that are listed block it; not counted then) or `busy` (others held
            the tables all the time: try again).

        Raises:
            Conflict: Somebody else prunes at this moment.
            ArchiveIncomplete, ObjectStoreUnreachable: The archive could not be written; that month is kept.
        """
        with self._alone():
            now = transact(self._engine, database_now)
            cutoff = now - older_than
            months = transact(self._engine, partial(months_before, cutoff=cutoff))
            told = [self._prune_month(month, dry_run=dry_run) for month in months if not self._stopping.is_set()]
            old = {what: self._delete_old(what, now, dry_run=dry_run) for what in ("audit_events", "fires")}
        dropped = any(month["state"] == "dropped" for month in told)
        changed = not dry_run and (dropped or any(old.values()))
        return {"changed": changed, "dry_run": dry_run, "cutoff": cutoff, "months": told} | old

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock of the database, in a connection that does nothing else."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}):
                raise Conflict("Somebody else prunes this database.", hint="wait until that is done")
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})

    def _prune_month(self, month: Month, *, dry_run: bool) -> dict[str, Any]:
        def look(connection: Connection) -> dict[str, Any]:
            still_open = open_runs_of(connection, month)
            rows = None if still_open else rows_of(connection, month)  # counting a month that stays is not worth it
            return {
                "month": f"{month.start:%Y-%m}",
                "state": "open" if still_open else "would-drop",
                "runs": None if rows is None else rows.get(f"run_{month.suffix}", 0),
                "rows": None if rows is None else sum(rows.values()),
                "bytes": bytes_of(connection, month),
                "archived": False,
                "open": still_open,
            }

        told = transact(self._engine, look)
        if told["open"] or dry_run:
            return told
        archived = archive_month(self._engine, self._store, month) if self._archive and told["rows"] else None
        state, still_open = self._drop(month, archived)
        told |= {"state": state, "open": still_open, "archived": archived is not None and state == "dropped"}
        log.info("month_pruned", extra={"month": told["month"], "state": state, "runs": told["runs"]})
        return told

    def _drop(self, month: Month, archived: dict[str, int] | None) -> tuple[str, list[dict[str, Any]]]:
        def once(connection: Connection, wait: timedelta) -> tuple[str, list[dict[str, Any]]]:
            if archived is not None and rows_of(connection, month) != archived:
                return "busy", []  # it has changed since it was archived: next time
            if not drop_month(connection, month, lock_timeout=wait, keep_objects=archived is not None):
                return "open", open_runs_of(connection, month)
            audit(connection, workspace_id(connection), self._actor, "history.pruned", f"{month.start:%Y-%m}")
            return "dropped", []

        for number in range(1, self._tries + 1):
            try:
                with self._engine.begin() as connection:
                    return once(connection, _LONG_LOCK if number % _LONG_EVERY == 0 else _LOCK)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE and not is_retriable(error):
                    raise
            if self._stopping.wait(_PAUSE if number < self._tries else 0):
                break
        return "busy", []

    def _delete_old(self, what: str, now: datetime, *, dry_run: bool) -> int:
        before = now - timedelta(days=AUDIT_DAYS)
        if dry_run:
            return transact(self._engine, partial(count_old, what=what, before=before))
        total = 0
        while not self._stopping.is_set():
            count = transact(self._engine, partial(delete_old, what=what, before=before))
            total += count
            if count == 0:
                break
        return total
