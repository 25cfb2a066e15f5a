"""Explains every statement that an engine sends, right before it is sent: its plan, and what it really reads.

Each is prepared and executed once more under EXPLAIN (ANALYZE, BUFFERS), with the connection's own settings, so a
scheduler's statements are seen with the generic plans that it uses; what that changes is rolled back.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event

from agentflow.db.models.history import PARTITIONED
from agentflow.db.statement import Statement

_PARTITION = re.compile(rf"({'|'.join(PARTITIONED)})_(\d{{4}}_\d\d|default)")
_PARAMETER = re.compile(r"%\((\w+)\)s")
#: As psycopg declares them; texts, and what stands for null, are left to the statement.
_TYPES = {bool: "boolean", float: "double precision", datetime: "timestamptz", uuid.UUID: "uuid"}
_EXPLAINABLE = re.compile(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", re.IGNORECASE)


@dataclass(slots=True)
class Explained:
    """What one statement costs, the worst of all times that it was sent."""

    sql: str
    calls: int = 0
    rows: int = 0  #: Rows of history partitions that were looked at, filtered ones too.
    buffers: int = 0  #: Pages that were looked at.
    scans: set[str] = field(default_factory=set)  #: Partitions that were walked through from end to end.

    def add(self, plan: Mapping[str, Any]) -> None:
        """Take in one more plan."""
        self.calls += 1
        nodes = list(_nodes(plan))
        self.rows = max(self.rows, sum(_rows(node) for node in nodes if _is_history(node)))
        self.buffers = max(self.buffers, plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0))
        self.scans |= {node["Relation Name"] for node in nodes if _is_history(node) and _is_walk(node)}


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _is_history(node: Mapping[str, Any]) -> bool:
    return "Relation Name" in node and "Scan" in node["Node Type"] and bool(_PARTITION.fullmatch(node["Relation Name"]))


def _rows(node: Mapping[str, Any]) -> int:
    removed = sum(node.get(f"Rows Removed by {by}", 0) for by in ("Filter", "Index Recheck"))
    return round(node["Actual Loops"] * (node["Actual Rows"] + removed))


def _is_walk(node: Mapping[str, Any]) -> bool:
    """A scan without a condition on an index that stops at nothing: it was executed, and read the table's end."""
    if not node["Actual Loops"]:
        return False
    return node["Node Type"] == "Seq Scan" or ("Index Cond" not in node and "Index" in node["Node Type"])


class Explainer:
    """Explains what is sent while it is `watching`."""

    def __init__(self) -> None:
        self.found: dict[str, Explained] = {}
        self._busy = False

    @contextmanager
    def watching(self, *engines: Engine) -> Iterator[None]:
        """Explain everything that these engines send; statements of `Statement` are seen on whatever connection."""
        run = Statement.run

        def watched(statement: Statement, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
            self._explain(connection, statement._sql.decode(), [parameters[name] for name in statement._names])
            return run(statement, connection, parameters)

        def sent(connection, _cursor, sql, parameters, _context, _many) -> None:
            if _EXPLAINABLE.match(sql) and isinstance(parameters, Mapping):  # not many at once
                self._explain(connection, *_numbered(sql, parameters))

        Statement.run = watched
        for engine in engines:
            event.listen(engine, "before_cursor_execute", sent)
        try:
            yield
        finally:
            Statement.run = run
            for engine in engines:
                event.remove(engine, "before_cursor_execute", sent)

    def _explain(self, connection: Connection, sql: str, values: Sequence[Any]) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with psycopg.ClientCursor(driver) as cursor:
            cursor.execute("SAVEPOINT explained")
            types = f"({', '.join(map(_type, values))})" if values else ""
            marks = f"({', '.join(['%s'] * len(values))})" if values else ""
            cursor.execute(f"PREPARE explained{types} AS {sql}")
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE explained{marks}", values)
            (plans,) = cursor.fetchone()
            cursor.execute("DEALLOCATE explained")
            cursor.execute("ROLLBACK TO SAVEPOINT explained")
            cursor.execute("RELEASE SAVEPOINT explained")
        (plan,) = plans if isinstance(plans, list) else json.loads(plans)
        key = " ".join(sql.split())
        self.found.setdefault(key, Explained(key)).add(plan["Plan"])


def _type(value: Any) -> str:
    if type(value) is int:
        return "integer" if abs(value) < 2**31 else "bigint"
    return _TYPES.get(type(value), "unknown")


def _numbered(sql: str, parameters: Any) -> tuple[str, list[Any]]:
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PARAMETER.sub(number, sql).replace("%%", "%"), [parameters[name] for name in names]
