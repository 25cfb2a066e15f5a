"""Which workflows have changed: what a watcher of definitions reads (docs/live.md)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from agentflow.clock import iso

NAMES_MAX = 500  #: Workflows in one message; beyond, the watcher reads the list anew.

_OURS = "FROM workflow w WHERE w.workspace_id = :workspace AND w.source <> 'adhoc'"
_ROWS = text(f"""
SELECT w.name, w.title, w.published_version, w.paused, w.pause_reason, w.missing, w.tags, w.updated_at
{_OURS} AND w.name = ANY(CAST(:names AS text[])) ORDER BY w.name
""")
#: One number for all of them, to see at little cost that nothing has changed.
_MARK = text(f"SELECT CAST(coalesce(sum(hash_record_extended(ROW(w.id, w.updated_at), 0)), 0) AS text) {_OURS}")
_STAMPS = text(f"SELECT w.name, w.updated_at {_OURS}")


@dataclass(slots=True)
class Known:
    """What a watcher has been told of a workspace's workflows."""

    mark: str
    stamps: dict[str, datetime]

    def tell(self, names: Collection[str], stamps: dict[str, datetime]) -> None:
        """Take over what is told of these workflows now; those without a stamp are gone."""
        for name in names:
            self.stamps.pop(name, None)
        self.stamps |= stamps


def workflow_rows(
    connection: Connection, workspace: int, names: Collection[str]
) -> tuple[list[dict[str, Any]], dict[str, datetime]]:
    """These workflows as they are now, and when each was changed last; those that do not exist are left out."""
    rows = connection.execute(_ROWS, {"workspace": workspace, "names": list(names)}).all()
    return [_document(row) for row in rows], {row.name: row.updated_at for row in rows}


def look_at_workflows(connection: Connection, workspace: int, known: Known | None) -> tuple[list[str], Known]:
    """The names of workflows that were changed, made or deleted since `known`, and what is known then."""
    # What is changed between the two statements is found by the next look: the mark is the older one.
    mark = str(connection.scalar(_MARK, {"workspace": workspace}))
    if known is not None and known.mark == mark:
        return [], known
    stamps = {row.name: row.updated_at for row in connection.execute(_STAMPS, {"workspace": workspace})}
    if known is None:
        return [], Known(mark, stamps)
    changed = {
        name for name, at in stamps.items() if known.stamps.get(name) != at
    } | known.stamps.keys() - stamps.keys()
    return sorted(changed), Known(mark, known.stamps)


def _document(row: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.title,
        "version": row.published_version,
        "etag": f'"{row.published_version}"',
        "paused": row.paused,
        "pause_reason": row.pause_reason,
        "missing": row.missing,
        "tags": row.tags,
        "updated_at": iso(row.updated_at),
    }
