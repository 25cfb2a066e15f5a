"""Connections: a type, plain fields that people may read, and secret fields that nobody may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog import BY_NAME, audit, check_name, delete_named, list_named, workspace_id
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.errors import UsageError
from agentflow.keys import KeyRing
from agentflow.secrets.envelope import Place, seal
from agentflow.secrets.store import check_value

TABLE = "connection"

_LIST = text(f"""
SELECT name, type, config, secret_fields, updated_at, updated_by FROM connection
WHERE workspace_id = :workspace {BY_NAME}
""")  # noqa: S608 - text of ours
#: The encrypted columns without `excluded`, which would be reading them (agentflow.db.tenancy).
_SET = text("""
INSERT INTO connection (workspace_id, name, type, config, secret_fields, ciphertext, key_id, wrapped_key, updated_by)
VALUES (:workspace, :name, :type, CAST(:config AS json), CAST(:secret_fields AS text[]), :ciphertext, :key_id,
  :wrapped_key, :actor)
ON CONFLICT (workspace_id, name) DO UPDATE SET type = excluded.type, config = excluded.config,
  secret_fields = excluded.secret_fields, ciphertext = :ciphertext, key_id = :key_id,
  wrapped_key = :wrapped_key, updated_at = clock_timestamp(), updated_by = excluded.updated_by
""")
_DELETE = text("DELETE FROM connection WHERE workspace_id = :workspace AND name = :name")


def list_connections(
    connection: Connection,
    *,
    name: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of connections with their plain fields and the names of their secret ones; see `list_named`."""
    rows, following = list_named(
        connection, _LIST, "connections", name=name, limit=limit, cursor=cursor, workspace=workspace
    )
    return [dict(row._mapping) | {"updated_at": iso(row.updated_at)} for row in rows], following  # noqa: SLF001


def set_connection(
    connection: Connection,
    name: str,
    *,
    type: str,  # noqa: A002 - the word of the interface
    config: Mapping[str, Any],
    secrets: Mapping[str, str],
    ring: KeyRing | None,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Create or replace a connection whole: fields that are not given are gone.

    Args:
        connection: The caller's transaction.
        name: Of the connection.
        type: What it connects to: `http`, `postgres`, …
        config: Plain fields.
        secrets: Secret fields; stored encrypted together.
        ring: The keys; may be None when there are no secret fields.
        actor: For the audit log.
        workspace: Its tenant.

    Raises:
        UsageError: A name is not an identifier, or a secret value is empty or too large, or a field is given twice.
    """
    check_name(name, "connection")
    check_name(type, "connection type")
    for field_name in (*config, *secrets):
        check_name(field_name, "field")
    for field_name, value in secrets.items():
        check_value(value, f"the field `{field_name}`")
    if twice := sorted(config.keys() & secrets.keys()):
        raise UsageError(f"The field `{twice[0]}` is given twice, plain and secret.")
    owner = workspace_id(connection, workspace)
    sealed = None
    if secrets:
        assert ring is not None, "secret fields need keys"
        sealed = seal(ring, Place(TABLE, owner, name), json.dumps(dict(secrets)))
    connection.execute(
        _SET,
        {
            "workspace": owner,
            "name": name,
            "type": type,
            "config": json.dumps(dict(config)),
            "secret_fields": sorted(secrets),
            "ciphertext": sealed.ciphertext if sealed else None,
            "key_id": sealed.key_id if sealed else None,
            "wrapped_key": sealed.wrapped_key if sealed else None,
            "actor": actor,
        },
    )
    audit(connection, owner, actor, "connection.set", name, type=type, fields=sorted({*config, *secrets}))
    return {"name": name, "changed": True}


def delete_connection(
    connection: Connection, name: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Delete a connection.

    Raises:
        NotFound: No such connection.
    """
    return delete_named(connection, _DELETE, "connection", name, actor=actor, workspace=workspace)
