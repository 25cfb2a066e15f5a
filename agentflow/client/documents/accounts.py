"""People, keys, workspaces."""

from __future__ import annotations

from typing import TypedDict


class MyWorkspace(TypedDict):
    """Where somebody may work."""

    name: str
    role: str


class Me(TypedDict):
    """Who the caller is, and what they may do."""

    kind: str
    id: str
    name: str
    email: str | None
    display_name: str | None
    workspace: str
    role: str | None
    instance_admin: bool
    scopes: list[str] | None
    workspaces: list[MyWorkspace]


class Membership(TypedDict):
    """A role somewhere."""

    workspace: str
    role: str


class User(TypedDict):
    """A person, or a program with an address."""

    id: int
    email: str
    name: str
    disabled: bool
    instance_admin: bool
    has_password: bool
    has_oidc: bool
    created_at: str
    created_by: str
    memberships: list[Membership]


class Granted(TypedDict):
    """A role that was given."""

    email: str
    workspace: str
    role: str | None
    changed: bool


class ApiKey(TypedDict):
    """A key, without itself."""

    id: int
    name: str
    prefix: str
    scopes: list[str]
    user: str | None
    created_at: str
    created_by: str
    expires_at: str | None
    used_at: str | None
    revoked_at: str | None


class NewApiKey(ApiKey):
    """A key with itself: shown once."""

    key: str


class Workspace(TypedDict):
    """A workspace."""

    name: str
    created_at: str
    role: str | None
    members: int
