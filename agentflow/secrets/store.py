"""Secrets as stored: set, listed by name, deleted. Each function runs in the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog import BY_NAME, audit, check_name, delete_named, list_named, workspace_id
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.errors import UsageError
from agentflow.keys import KeyRing
from agentflow.secrets.envelope import Place, seal

VALUE_MAX = 64 * 2**10  #: Bytes of a value.
TABLE = "secret"

_LIST = text(f"""
SELECT name, key_id, updated_at, updated_by FROM secret WHERE workspace_id = :workspace {BY_NAME}
""")  # noqa: S608 - text of ours
#: Without `excluded`: that would be reading, and the webserver may write these columns only (agentflow.db.tenancy).
_SET = text("""
INSERT INTO secret (workspace_id, name, ciphertext, key_id, wrapped_key, updated_by)
VALUES (:workspace, :name, :ciphertext, :key_id, :wrapped_key, :actor)
ON CONFLICT (workspace_id, name) DO UPDATE SET ciphertext = :ciphertext, key_id = :key_id,
  wrapped_key = :wrapped_key, updated_at = clock_timestamp(), updated_by = :actor
""")
_DELETE = text("DELETE FROM secret WHERE workspace_id = :workspace AND name = :name")


def list_secrets(
    connection: Connection,
    *,
    name: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of names of secrets, who set them and under which key they are, never values; see `list_named`."""
    rows, following = list_named(
        connection, _LIST, "secrets", name=name, limit=limit, cursor=cursor, workspace=workspace
    )
    return [dict(row._mapping) | {"updated_at": iso(row.updated_at)} for row in rows], following  # noqa: SLF001


def set_secret(
    connection: Connection,
    name: str,
    value: str,
    *,
    ring: KeyRing,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Create or replace a secret.

    Raises:
        UsageError: The name is not an identifier, or the value is empty or too large.
    """
    check_name(name, "secret")
    check_value(value, f"the secret `{name}`")
    owner = workspace_id(connection, workspace)
    sealed = seal(ring, Place(TABLE, owner, name), value)
    connection.execute(
        _SET,
        {
            "workspace": owner,
            "name": name,
            "ciphertext": sealed.ciphertext,
            "key_id": sealed.key_id,
            "wrapped_key": sealed.wrapped_key,
            "actor": actor,
        },
    )
    audit(connection, owner, actor, "secret.set", name, key_id=sealed.key_id)
    return {"name": name, "changed": True}


def delete_secret(
    connection: Connection, name: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Delete a secret.

    Raises:
        NotFound: No such secret.
    """
    return delete_named(connection, _DELETE, "secret", name, actor=actor, workspace=workspace)


def check_value(value: str, what: str) -> None:
    """Refuse what cannot be a secret value.

    Raises:
        UsageError: It is empty, too large, or no text that a process could be given.
    """
    if not value:
        raise UsageError(f"The value of {what} is empty.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"The value of {what} is not UTF-8 text.", hint="store binary data as base64") from None
    if size > VALUE_MAX:
        raise UsageError(f"The value of {what} has {size:,} bytes; at most {VALUE_MAX:,} are kept.")
    if "\0" in value:
        raise UsageError(f"The value of {what} contains a NUL character.", hint="store binary data as base64")
