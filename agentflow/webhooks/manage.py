"""Tokens and signing secrets of webhook triggers: listed, made anew, revoked. Each runs in the caller's transaction."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog import BY_NAME, audit, find_workflow, list_named, workspace_id
from agentflow.clock import iso
from agentflow.errors import NotFound, UsageError
from agentflow.keys import KeyRing
from agentflow.secrets.envelope import Place, seal
from agentflow.spec.check_triggers import UNNAMED
from agentflow.webhooks.signature import new_secret

CURSOR = "webhooks"
TABLE = "webhook"
TOKEN_PREFIX = "whk_"  # noqa: S105 - only the beginning of every token
_SHOWN = 8  #: Characters of a token that are kept readable.

_LIST = text(f"""
SELECT * FROM (
SELECT w.name || '/' || coalesce(t.config ->> 'name', :unnamed) AS name, w.name AS workflow, t.paused,
  h.prefix, h.key_id IS NOT NULL AS signed, h.rotated_at, h.rotated_by, h.used_at
FROM trigger t JOIN workflow w ON w.id = t.workflow_id
LEFT JOIN webhook h ON h.workflow_id = w.id AND h.trigger_name = coalesce(t.config ->> 'name', :unnamed)
WHERE w.workspace_id = :workspace AND w.source <> 'adhoc' AND t.type = 'webhook' AND t.active
) AS hook WHERE true {BY_NAME}""").bindparams(unnamed=UNNAMED)  # noqa: S608 - ours
_TRIGGERS = text("""
SELECT coalesce(config ->> 'name', :unnamed) FROM trigger
WHERE workflow_id = :workflow AND type = 'webhook' AND active ORDER BY 1
""")
#: What opens doors without `excluded`, which would be reading it (agentflow.db.tenancy).
_SET = text("""
INSERT INTO webhook (workspace_id, name, workflow_id, trigger_name, token_hash, prefix, ciphertext, key_id, wrapped_key,
  rotated_by)
VALUES (:workspace, :name, :workflow, :trigger, :hash, :prefix, :ciphertext, :key_id, :wrapped_key, :actor)
ON CONFLICT (workspace_id, name) DO UPDATE SET workflow_id = excluded.workflow_id, token_hash = :hash,
  prefix = excluded.prefix, ciphertext = :ciphertext, key_id = :key_id, wrapped_key = :wrapped_key, rotated_at = clock_timestamp(), rotated_by = excluded.rotated_by, used_at = NULL
""")
_REVOKE = text("DELETE FROM webhook WHERE workspace_id = :workspace AND name = :name")


def token_hash(token: str) -> bytes:
    """As it is stored; a token has 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(token.encode()).digest()


def list_webhooks(
    connection: Connection, *, limit: int | None = None, cursor: str | None = None, workspace: str
) -> tuple[list[dict[str, Any]], str | None]:
    """Webhook triggers of published workflows, with what may be told of their tokens."""
    rows, following = list_named(connection, _LIST, CURSOR, name=None, limit=limit, cursor=cursor, workspace=workspace)
    return [row._asdict() | {"rotated_at": iso(row.rotated_at), "used_at": iso(row.used_at)} for row in rows], following


def rotate_webhook(
    connection: Connection,
    workflow: str,
    trigger: str | None = None,
    *,
    ring: KeyRing | None,
    actor: str,
    workspace: str,
) -> dict[str, Any]:
    """Make a new token, shown only in this answer; the one before is dead at once.

    Args:
        connection: In a transaction.
        workflow: Its name.
        trigger: The trigger's name; None: the workflow's only webhook.
        ring: Deliveries must be signed, with a new secret that this encrypts; None: they need not.
        actor: Who does it.
        workspace: Whose workflow it is.

    Raises:
        NotFound: No such workflow, or it has no such webhook.
        UsageError: It has several, and none is named.
    """
    found = find_workflow(connection, workflow, workspace=workspace, lock="keep")
    trigger = _only(list(connection.scalars(_TRIGGERS, {"workflow": found.id, "unnamed": UNNAMED})), workflow, trigger)
    name = f"{workflow}/{trigger}"
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    signing = new_secret() if ring is not None else None
    sealed = seal(ring, Place(TABLE, found.workspace_id, name), signing) if ring is not None and signing else None
    connection.execute(
        _SET,
        {
            "workspace": found.workspace_id,
            "name": name,
            "workflow": found.id,
            "trigger": trigger,
            "hash": token_hash(token),
            "prefix": token[: len(TOKEN_PREFIX) + _SHOWN],
            "ciphertext": sealed.ciphertext if sealed else None,
            "key_id": sealed.key_id if sealed else None,
            "wrapped_key": sealed.wrapped_key if sealed else None,
            "actor": actor,
        },
    )
    audit(connection, found.workspace_id, actor, "webhook.rotated", name, signed=sealed is not None)
    return {"name": name, "changed": True, "token": token, "path": f"/api/v1/hooks/{token}", "signing_secret": signing}


def _only(names: list[str], workflow: str, wanted: str | None) -> str:
    if wanted is None and len(names) > 1:
        raise UsageError(f"{workflow!r} has several webhooks.", hint=f"name one of {', '.join(names)}")
    if not names or (wanted is not None and wanted not in names):
        raise NotFound(
            f"{workflow!r} has no webhook{f' {wanted!r}' if wanted else ''}.",
            hint="add `{type: webhook}` to its triggers" if not names else f"it has {', '.join(names)}",
        )
    return wanted or names[0]


def revoke_webhook(connection: Connection, name: str, *, actor: str, workspace: str) -> dict[str, Any]:
    """Forget the token: the address answers 404 from then on.

    Raises:
        NotFound: There is no token of this name.
    """
    owner = workspace_id(connection, workspace)
    if connection.execute(_REVOKE, {"workspace": owner, "name": name}).rowcount == 0:
        raise NotFound(
            f"There is no webhook {name!r} with a token.", hint="`agentflow webhooks list` shows what there is"
        )
    audit(connection, owner, actor, "webhook.revoked", name)
    return {"name": name, "changed": True}
