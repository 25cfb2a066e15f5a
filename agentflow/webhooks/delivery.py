"""A delivery: found by its token, checked, turned into a queued run once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog import audit
from agentflow.db.notify import notify_ready
from agentflow.db.queries.locks import database_now
from agentflow.errors import Conflict, NotFound, ParamError, Problem
from agentflow.keys import KeyRing
from agentflow.runs.create import QUEUE_MAX, insert_run
from agentflow.secrets.envelope import Place, Sealed, unseal
from agentflow.spec import check_params
from agentflow.spec.check_triggers import UNNAMED
from agentflow.states import TriggeredBy
from agentflow.webhooks.manage import TABLE, token_hash

KEPT = 24  #: Hours that a delivery's id is remembered.


class WebhookPaused(Conflict):
    """The workflow or the trigger is paused."""

    word = "paused"


class Replayed(Conflict):
    """This delivery has been taken already."""

    word = "replayed"


class QueueFull(Conflict):
    """Too many runs of the workflow are queued."""

    word = "queue-full"


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a token leads."""

    workspace_id: int
    workspace: str
    name: str
    workflow_id: int
    trigger_name: str
    sealed: Sealed | None = field(repr=False)

    def signing_secret(self, ring: KeyRing) -> str:
        """The secret that deliveries are signed with.

        Raises:
            SecretUnreadable: It cannot be decrypted.
        """
        assert self.sealed is not None
        return unseal(ring, Place(TABLE, self.workspace_id, self.name), self.sealed)


_FIND = text("""
SELECT h.workspace_id, s.name AS workspace, h.name, h.workflow_id, h.trigger_name, h.ciphertext, h.key_id, h.wrapped_key
FROM webhook h JOIN workspace s ON s.id = h.workspace_id WHERE h.token_hash = :hash
""")


def find_hook(connection: Connection, token: str) -> Hook:
    """The webhook of a token; nothing of its workflow is looked at yet.

    Raises:
        NotFound: Nobody has this token.
    """
    row = connection.execute(_FIND, {"hash": token_hash(token)}).one_or_none()
    if row is None:
        raise no_hook()
    sealed = Sealed(row.ciphertext, row.key_id, row.wrapped_key) if row.ciphertext is not None else None
    return Hook(row.workspace_id, row.workspace, row.name, row.workflow_id, row.trigger_name, sealed)


def no_hook() -> NotFound:
    """Told alike for what never was and what is gone."""
    return NotFound("There is no webhook at this address.", hint="its token may have been replaced")


_TRIGGER = text("""
SELECT t.id, t.config, t.paused OR w.paused AS paused, w.missing, w.name, w.published_version_id AS version,
  v.spec -> 'params' AS params,
  (SELECT count(*) FROM run r WHERE r.workflow_id = w.id AND r.state = 'queued' AND r.backfill_id IS NULL) AS queued
FROM workflow w JOIN workflow_version v ON v.id = w.published_version_id
JOIN trigger t ON t.workflow_id = w.id AND t.type = 'webhook' AND t.active
  AND coalesce(t.config ->> 'name', :unnamed) = :trigger
WHERE w.id = :workflow FOR KEY SHARE OF w
""")
_FORGET = text("""
DELETE FROM webhook_delivery
WHERE workspace_id = :workspace AND name = :name AND at < clock_timestamp() - make_interval(hours => :kept)
""")
_REMEMBER = text("""
INSERT INTO webhook_delivery (workspace_id, name, delivery_id, run_id) VALUES (:workspace, :name, :delivery, :run)
ON CONFLICT DO NOTHING
""")
_BEFORE = text("""
SELECT run_id FROM webhook_delivery WHERE workspace_id = :workspace AND name = :name AND delivery_id = :delivery
""")
_USED = text("""
UPDATE webhook SET used_at = clock_timestamp()
WHERE workspace_id = :workspace AND name = :name AND (used_at IS NULL OR used_at < clock_timestamp() - interval '1 min')
""")


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of it."""

    run_id: uuid.UUID
    workflow: str


def deliver(
    connection: Connection, hook: Hook, payload: Any, *, ids: Sequence[str] = (), into: str | None = None
) -> Delivered:
    """Queue a run for a delivery whose token, and signature if it needs one, are good.

    Args:
        connection: In a transaction.
        hook: Where the token leads.
        payload: The body's JSON, null for none: an object of params.
        ids: What tells this delivery from others; each is taken only once.
        into: Instead the whole payload is the value of this param.

    Raises:
        NotFound: The workflow has no such trigger any more.
        WebhookPaused: Workflow or trigger is paused; runs are not made up later.
        QueueFull: Its queue is full.
        Replayed: The delivery was taken before.
        ParamError: The payload does not fit the params.
    """
    key = {"workflow": hook.workflow_id, "trigger": hook.trigger_name, "unnamed": UNNAMED}
    row = connection.execute(_TRIGGER, key).one_or_none()
    if row is None or row.missing:
        raise no_hook()
    if row.paused:
        raise WebhookPaused(f"{row.name!r} is paused and takes no deliveries.", hint="unpause it, then send it again")
    if row.queued >= QUEUE_MAX:
        raise QueueFull(f"{row.queued} runs of {row.name!r} are queued.", hint="send it again later")
    params = check_params(row.params or {}, dict(row.config.get("params", {})) | _given(payload, into))
    now = database_now(connection)
    run_id = insert_run(
        connection,
        workspace=hook.workspace_id,
        workflow=hook.workflow_id,
        version=row.version,
        params=params,
        triggered_by=TriggeredBy.WEBHOOK,
        now=now,
        actor=f"webhook:{hook.name}",
        trigger=row.id,
    )
    if ids:
        _take_once(connection, hook, ids, run_id)
    key = {"workspace": hook.workspace_id, "name": hook.name}
    connection.execute(_USED, key)
    audit(connection, hook.workspace_id, f"webhook:{hook.name}", "run.created", str(run_id), workflow=row.name)
    notify_ready(connection)
    return Delivered(run_id, row.name)


def _given(payload: Any, into: str | None) -> dict[str, Any]:
    if into is not None:
        return {into: payload}
    if payload is None:
        return {}
    if not isinstance(payload, dict):
        raise ParamError(
            [Problem("must be a JSON object whose keys are params", "body", hint="or name one param: ?into=payload")]
        )
    return payload


def _take_once(connection: Connection, hook: Hook, ids: Sequence[str], run_id: uuid.UUID) -> None:
    key = {"workspace": hook.workspace_id, "name": hook.name}
    connection.execute(_FORGET, key | {"kept": KEPT})
    for delivery in sorted(ids):  # in one order, or two deliveries might wait for each other
        if connection.execute(_REMEMBER, key | {"delivery": delivery, "run": run_id}).rowcount == 0:
            before = connection.scalar(_BEFORE, key | {"delivery": delivery})
            raise Replayed(f"The delivery {delivery!r} has started the run {before} already.")
