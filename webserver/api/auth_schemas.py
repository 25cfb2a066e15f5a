"""What the API takes and answers about logging in."""

from __future__ import annotations

import uuid
from typing import Literal

from pydantic import Field

from agentflow.access.passwords import LONGEST
from webserver.arguments import Body, Path
from webserver.pages import Answer


class LoginBody(Body):
    """Who wants to come in."""

    email: str = Field(max_length=320)
    password: str = Field(max_length=LONGEST, repr=False)


class LinkBody(Body):
    """A one-time link."""

    token: str = Field(max_length=200, repr=False)
    password: str | None = Field(None, max_length=LONGEST, repr=False, description="The new one, if it sets one")


class RefreshBody(Body):
    """What follows an access token."""

    refresh_token: str = Field(max_length=200, repr=False)


class PasswordBody(Body):
    """Another password for oneself."""

    old_password: str = Field(max_length=LONGEST, repr=False)
    new_password: str = Field(max_length=LONGEST, repr=False)


class Tokens(Answer):
    """For programs."""

    access_token: str = Field(description="`Authorization: Bearer …`")
    refresh_token: str = Field(description="Good once, for the next pair; using it twice ends the session")
    expires_in: int = Field(description="Seconds that the access token is good for")
    token_type: Literal["Bearer"]


class BrowserSession(Answer):
    """Cookies are set; scripts may not read the session's."""

    csrf_token: str = Field(
        description="To be sent as `X-CSRF-Token` with every change; the cookie `agentflow_csrf` too"
    )


class MyWorkspace(Answer):
    """Where somebody may work."""

    name: str
    role: Literal["viewer", "operator", "editor", "admin"]


class Me(Answer):
    """Who the request is from, and what they may do."""

    kind: Literal["user", "key", "session", "system"]
    id: str
    name: str = Field(description="As the audit log has it: `user:ada@example.org`")
    email: str | None
    display_name: str | None
    workspace: str
    role: Literal["viewer", "operator", "editor", "admin"] | None = Field(description="In this workspace")
    instance_admin: bool
    scopes: list[str] | None = Field(description="Of an API key")
    workspaces: list[MyWorkspace]


class SessionItem(Answer):
    """A session of one's own."""

    id: str
    kind: Literal["browser", "token"]
    current: bool = Field(description="The one of this request")
    address: str
    user_agent: str
    created_at: str
    used_at: str
    expires_at: str


class SessionList(Answer):
    """Open sessions, the one used last first."""

    items: list[SessionItem]
    next_cursor: None


class SessionPath(Path):
    """A session."""

    id: uuid.UUID
