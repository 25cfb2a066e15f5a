"""Objects to be deleted: noted in the transaction that drops their rows, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

_ADD = text("INSERT INTO object_trash (prefix) SELECT unnest(CAST(:prefixes AS text[])) ON CONFLICT DO NOTHING")
_FIND = text("SELECT prefix FROM object_trash ORDER BY at LIMIT :limit")
_REMOVE = text("DELETE FROM object_trash WHERE prefix = :prefix")


def discard_objects(connection: Connection, prefixes: Sequence[str]) -> None:
    """Let a scheduler delete all objects below these prefixes once this transaction is committed."""
    connection.execute(_ADD, {"prefixes": list(prefixes)})


def discarded(connection: Connection, limit: int = 100) -> list[str]:
    """Prefixes whose objects are to be deleted, the oldest first."""
    return list(connection.scalars(_FIND, {"limit": limit}))


def forget_discarded(connection: Connection, prefix: str) -> None:
    """Nothing is left below this prefix."""
    connection.execute(_REMOVE, {"prefix": prefix})
