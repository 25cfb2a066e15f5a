"""Moves everything encrypted under the primary key. Runs in the caller's transaction: all of it or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from agentflow.catalog import audit
from agentflow.keys import KeyRing
from agentflow.secrets.envelope import Place, Sealed, rewrap

TABLES = ("connection", "secret", "webhook")

_USED = text(" UNION ".join(f"SELECT key_id FROM {table} WHERE key_id IS NOT NULL" for table in TABLES))  # noqa: S608 - names of ours


@dataclass(frozen=True, slots=True)
class Rotation:
    """What was done."""

    key_id: str  #: Of the key under which everything is now.
    rewrapped: int  #: Rows that were under another key.


def rotate_keys(connection: Connection, *, ring: KeyRing, actor: str) -> Rotation:
    """Wrap the key of every secret and connection, of all workspaces, with the primary key; values stay as they are.

    Raises:
        SecretUnreadable: The key of one is not here, or its row is damaged; it is named, and nothing is changed.
    """
    moved: dict[int, int] = {}  # workspace -> rows
    for table in TABLES:
        for workspace in _rotate_table(connection, table, ring):
            moved[workspace] = moved.get(workspace, 0) + 1
    for workspace, rows in sorted(moved.items()):
        audit(connection, workspace, actor, "secrets.rotated", ring.primary.id, rows=rows)
    return Rotation(ring.primary.id, sum(moved.values()))


def keys_in_use(connection: Connection) -> set[str]:
    """Ids of the keys that something is encrypted with."""
    return set(connection.scalars(_USED))


def _rotate_table(connection: Connection, table: str, ring: KeyRing) -> list[int]:
    """The workspace of each row that was moved."""
    rows = connection.execute(
        text(f"""
        SELECT workspace_id, name, ciphertext, key_id, wrapped_key FROM {table} WHERE key_id <> :primary
        ORDER BY workspace_id, name FOR UPDATE"""),  # noqa: S608 - a name of ours
        {"primary": ring.primary.id},
    ).all()
    update = text(f"""
        UPDATE {table} SET key_id = :key_id, wrapped_key = :wrapped_key
        WHERE workspace_id = :workspace AND name = :name""")  # noqa: S608 - the same
    for row in rows:
        place = Place(table, row.workspace_id, row.name)
        sealed = rewrap(ring, place, Sealed(row.ciphertext, row.key_id, row.wrapped_key))
        connection.execute(
            update,
            {
                "key_id": sealed.key_id,
                "wrapped_key": sealed.wrapped_key,
                "workspace": row.workspace_id,
                "name": row.name,
            },
        )
    return [row.workspace_id for row in rows]
