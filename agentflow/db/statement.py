"""Statements of the hot path, sent through psycopg itself.

SQLAlchemy's layers cost about 0.1 ms for a statement with twenty parameters, three times what psycopg and a local
server need for the rest of it; a hop is eight statements. Everything else stays on SQLAlchemy, whose connection,
pool and transaction these use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

_NAME = re.compile(r"(?<!:):([a-z_]+)\b")


class Statement:
    """SQL with `:name` parameters, prepared by the server once it has run a few times."""

    def __init__(self, sql: str) -> None:
        self._names: list[str] = []
        # Blanks are folded: no literal of ours holds more than one, and the text is hashed and compared at every run.
        self._sql = " ".join(_NAME.sub(self._number, sql).split()).encode()

    def _number(self, match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in self._names:
            self._names.append(name)
        return f"${self._names.index(name) + 1}"

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """All rows, with columns as attributes; no rows for a statement that returns none.

        Raises:
            sqlalchemy.exc.DBAPIError: As if SQLAlchemy had sent it, so that callers need to know one kind of error.
        """
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        try:
            with psycopg.RawCursor(driver, row_factory=namedtuple_row) as cursor:
                cursor.execute(self._sql, [parameters[name] for name in self._names])
                # Not `cursor.description`: that makes an object of each column.
                return cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else []
        except psycopg.Error as error:
            raise self._translated(connection, error, broken=driver.closed) from error

    def _translated(self, connection: Connection, error: psycopg.Error, *, broken: bool) -> BaseException:
        if broken:
            connection.invalidate(error)
        return DBAPIError.instance(
            self._sql.decode(), None, error, psycopg.Error, hide_parameters=True, connection_invalidated=broken
        )
