"""Writes a month's rows into the object store, before they are dropped."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from agentflow.db.models.history import PARTITIONED
from agentflow.db.queries.months import Month, lines_of, rows_of
from agentflow.errors import AgentFlowError
from agentflow.objects.names import archive_prefix
from agentflow.objects.store import ObjectStore

CHUNK: Final = 32 * 2**20  #: Characters of JSON lines in one object.


class ArchiveIncomplete(AgentFlowError):
    """The archive does not hold what the database does."""

    word = "archive-incomplete"


def archive_month(engine: Engine, store: ObjectStore, month: Month, *, chunk: int = CHUNK) -> dict[str, int]:
    """Store all rows of a month as compressed JSON lines, read them back, and say how many there are by partition.

    One snapshot of the database is read. What an earlier, unfinished try has left is replaced.

    Raises:
        ArchiveIncomplete: The number of lines in the store is not that of the rows.
        ObjectStoreUnreachable: It could not be stored or read back; nothing is dropped then.
    """
    prefix = archive_prefix(month.suffix)
    store.delete_below(prefix)
    manifest: dict[str, Any] = {"month": f"{month.start:%Y-%m}", "tables": {}}
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        rows = rows_of(connection, month)
        manifest["schema"] = connection.scalar(text("SELECT version_num FROM alembic_version"))
        for table in rows:
            files = [
                _store(store, f"{prefix}/{table}.{number:05}.jsonl.gz", lines)
                for number, lines in enumerate(_chunks(connection, table, chunk))
            ]
            written = sum(count for _, count in files)
            if written != rows[table]:
                raise ArchiveIncomplete(f"{store.address} holds {written} of the {rows[table]} rows of {table}.")
            manifest["tables"][table] = {
                "of": next(name for name in PARTITIONED if table == f"{name}_{month.suffix}"),
                "rows": rows[table],
                "files": [name for name, _ in files],
            }
    store.put(f"{prefix}/manifest.json", json.dumps(manifest, indent=1).encode())
    return rows


def _chunks(connection: Connection, table: str, most: int) -> Iterator[list[str]]:
    lines: list[str] = []
    size = 0
    for line in lines_of(connection, table):
        lines.append(line)
        size += len(line)
        if size >= most:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _store(store: ObjectStore, name: str, lines: list[str]) -> tuple[str, int]:
    """Store some lines; the object's name, and how many lines are read back from it."""
    store.put(name, gzip.compress("".join(f"{line}\n" for line in lines).encode(), 3))
    return name, gzip.decompress(store.get(name)).count(b"\n")
