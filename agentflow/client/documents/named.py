"""What a workspace keeps by name: pools, variables, secrets, connections, webhooks."""

from __future__ import annotations

from typing import Any, TypedDict

from agentflow.client.documents.common import Json


class Pool(TypedDict):
    """A pool."""

    name: str
    slots: int
    description: str
    used: int


class Variable(TypedDict):
    """A variable."""

    name: str
    value: Any
    updated_at: str


class Secret(TypedDict):
    """A secret, without its value."""

    name: str
    key_id: str
    updated_at: str
    updated_by: str


class Connection(TypedDict):
    """A connection, without the values of its secret fields."""

    name: str
    type: str
    config: Json
    secret_fields: list[str]
    updated_at: str
    updated_by: str


class Webhook(TypedDict):
    """A webhook trigger, without its token."""

    name: str
    workflow: str
    paused: bool
    prefix: str | None
    signed: bool
    rotated_at: str | None
    rotated_by: str | None
    used_at: str | None


class NewToken(TypedDict):
    """A webhook's token, shown once."""

    name: str
    changed: bool
    token: str
    path: str
    signing_secret: str | None
