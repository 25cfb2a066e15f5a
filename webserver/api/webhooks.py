"""`/webhooks`: tokens of webhook triggers, for people. `/hooks/{token}`: where other systems deliver."""

from __future__ import annotations

import time
from typing import Any

from flask import request
from flask_openapi3.models import RawModel
from pydantic import Field

from agentflow import webhooks as store
from agentflow.access import Role
from agentflow.errors import NotFound
from webserver.access import current_principal, public, requires
from webserver.api.named import list_all
from webserver.arguments import Body, Path, Query
from webserver.body import parse_body, read_bytes
from webserver.database import do, do_as_auth, do_in
from webserver.keys import keys
from webserver.pages import Answer, Page, PageQuery
from webserver.ratelimits import count_delivery, count_refusal
from webserver.resource import Resource


class Webhook(Answer):
    """A webhook trigger, without its token."""

    name: str = Field(description="`<workflow>/<trigger>`")
    workflow: str
    paused: bool
    prefix: str | None = Field(description="The token's first characters; null: it has none yet")
    signed: bool = Field(description="Whether deliveries must be signed")
    rotated_at: str | None
    rotated_by: str | None
    used_at: str | None = Field(description="When it last started a run, to the minute")


class WebhookPage(Page[Webhook]):
    """Webhook triggers by name."""


class WorkflowPath(Path):
    """A workflow."""

    name: str = Field(max_length=100)


class WebhookPath(WorkflowPath):
    """A webhook of a workflow."""

    trigger: str = Field(max_length=200)


class RotateBody(Body):
    """How the new token works."""

    trigger: str | None = Field(None, max_length=200, description="Which one, if the workflow has several webhooks")
    signed: bool = Field(False, description="Deliveries must be signed")


class NewToken(Answer):
    """Shown once."""

    name: str
    changed: bool
    token: str
    path: str = Field(description="Where to POST")
    signing_secret: str | None


class HookPath(Path):
    """A token."""

    token: str = Field(max_length=200)


class HookQuery(Query):
    """What to do with the body."""

    into: str | None = Field(None, max_length=100, description="The whole body is the value of this param")


class Accepted(Answer):
    """A run is queued."""

    run_id: str
    workflow: str


webhooks = Resource("webhooks", "Addresses that start runs, for systems that cannot sign in.")


@webhooks.get("/webhooks", responses={200: WebhookPage})
@requires(Role.VIEWER)
def list_webhooks(query: PageQuery) -> dict[str, Any]:
    """List webhook triggers, without tokens."""
    return list_all(store.list_webhooks, query)


@webhooks.post("/workflows/<name>/webhook", responses={200: NewToken})
@requires(Role.EDITOR)
def rotate_webhook(path: WorkflowPath, body: RotateBody) -> dict[str, Any]:
    """Make a new token; the one before is dead at once."""
    principal = current_principal()
    ring = keys() if body.signed else None
    return do(
        lambda connection: store.rotate_webhook(
            connection, path.name, body.trigger, ring=ring, actor=principal.name, workspace=principal.workspace
        )
    )


@webhooks.delete("/workflows/<name>/webhook/<trigger>", responses={204: None})
@requires(Role.EDITOR)
def revoke_webhook(path: WebhookPath) -> tuple[str, int]:
    """Forget a token: its address answers 404 from then on."""
    principal = current_principal()
    name = f"{path.name}/{path.trigger}"
    do(lambda connection: store.revoke_webhook(connection, name, actor=principal.name, workspace=principal.workspace))
    return "", 204


@webhooks.post("/hooks/<token>", responses={202: Accepted, 401: None, 409: None})
@public
def deliver(path: HookPath, query: HookQuery, raw: RawModel) -> tuple[dict[str, Any], int]:  # noqa: ARG001 - says that the body is read here
    """Start a run: a JSON body of params, signed if the webhook asks for that."""
    try:
        hook = do_as_auth(lambda connection: store.find_hook(connection, path.token))
    except NotFound:
        count_refusal()
        raise
    count_delivery(path.token)
    data = read_bytes(request)  # as it came: a signature is over bytes
    headers = {name.lower(): value for name, value in request.headers.items()}
    if hook.sealed is not None:
        store.verify(hook.signing_secret(keys()), headers, data, time.time())
    payload = parse_body(request, data)
    ids = store.delivery_ids(headers, data, signed=hook.sealed is not None)
    done = do_in(
        hook.workspace_id,
        lambda connection: store.deliver(connection, hook, payload, ids=ids, into=query.into),
    )
    return {"run_id": str(done.run_id), "workflow": done.workflow}, 202
