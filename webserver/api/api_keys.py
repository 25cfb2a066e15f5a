"""`/api-keys` of the workspace, and `/workspaces`."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, Literal

from pydantic import AwareDatetime, Field
from sqlalchemy import Connection

from agentflow.access import Principal, Role, workspaces
from agentflow.access import api_keys as store
from agentflow.clock import utc_now
from webserver.access import current_principal, instance_admin, requires, signed_in
from webserver.arguments import Body, Path
from webserver.auth.authenticate import rights_changed
from webserver.database import do_as_auth
from webserver.pages import Answer, Page, PageQuery, page
from webserver.resource import Resource

Scope = Literal["read", "run", "edit", "admin"]


class ApiKey(Answer):
    """A key, without itself."""

    id: int
    name: str
    prefix: str = Field(description="Its first characters")
    scopes: list[Scope]
    user: str | None = Field(description="Whose it is: it does no more than they may; null: nobody's")
    created_at: str
    created_by: str
    expires_at: str | None
    used_at: str | None = Field(description="To the minute")
    revoked_at: str | None


class NewApiKey(ApiKey):
    """The only answer that holds it."""

    key: str = Field(description="Send it as `X-API-Key`; it is not shown again")


class ApiKeyPage(Page[ApiKey]):
    """Keys, the newest first."""


class ApiKeyQuery(PageQuery):
    """Which keys."""

    revoked: bool = Field(False, description="Also those that were revoked")


class ApiKeyPath(Path):
    """A key."""

    id: int = Field(ge=1, lt=2**63)


class ApiKeyBody(Body):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=200, description="What it is for")
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    expires_at: AwareDatetime | None = None
    shared: bool = Field(False, description="Belongs to nobody: it outlives its maker's account")


class WorkspaceItem(Answer):
    """A workspace."""

    name: str
    created_at: str
    role: Literal["viewer", "operator", "editor", "admin"] | None = Field(description="One's own there")
    members: int


class WorkspacePage(Page[WorkspaceItem]):
    """Workspaces by name."""


class WorkspaceBody(Body):
    """A workspace to be made."""

    name: str = Field(max_length=100)


class Made(Answer):
    """It is there."""

    name: str
    changed: bool


api_keys = Resource("api-keys", "What programs send instead of logging in.")
workspace_resource = Resource("workspaces", "Tenants: what is in one is not seen from another.")


@api_keys.get("/api-keys", responses={200: ApiKeyPage})
@requires(Role.ADMIN)
def list_api_keys(query: ApiKeyQuery) -> dict[str, Any]:
    """List the workspace's keys, without themselves."""
    workspace = current_principal().workspace
    return page(
        *do_as_auth(
            lambda connection: store.list_api_keys(
                connection, workspace=workspace, revoked=query.revoked, limit=query.limit, cursor=query.cursor
            )
        )
    )


@api_keys.post("/api-keys", responses={201: NewApiKey, 409: None})
@requires(Role.ADMIN)
def create_api_key(body: ApiKeyBody) -> tuple[dict[str, Any], int]:
    """Make a key for this workspace. It stands in this answer alone."""
    principal = current_principal()
    expires: datetime | None = body.expires_at

    def make(connection: Connection) -> dict[str, Any]:
        return store.create_api_key(
            connection,
            body.name,
            scopes=body.scopes,
            user=None if body.shared else _user_of(connection, principal),
            expires_at=expires,
            now=utc_now(),
            actor=principal.name,
            workspace=principal.workspace,
        )

    return do_as_auth(make), 201


@api_keys.delete("/api-keys/<int:id>", responses={204: None})
@requires(Role.ADMIN)
def revoke_api_key(path: ApiKeyPath) -> tuple[str, int]:
    """Stop a key for good."""
    principal = current_principal()
    do_as_auth(
        lambda connection: store.revoke_api_key(
            connection, path.id, actor=principal.name, workspace=principal.workspace
        )
    )
    rights_changed()
    return "", 204


@workspace_resource.get("/workspaces", responses={200: WorkspacePage})
@signed_in
def list_workspaces(query: PageQuery) -> dict[str, Any]:
    """List one's own workspaces; administrators of the instance see all."""
    principal = current_principal()

    def look(connection: Connection) -> tuple[list[dict[str, Any]], str | None]:
        list_them = partial(workspaces.list_workspaces, connection, limit=query.limit, cursor=query.cursor)
        if principal.kind == "key":
            found, following = list_them(everything=True, name=principal.workspace)
            here = None if principal.role is None else principal.role.value
            return [one | {"role": here} for one in found], following
        return list_them(user=int(principal.id), everything=principal.instance_admin)

    return page(*do_as_auth(look))


@workspace_resource.post("/workspaces", responses={201: Made, 409: None})
@instance_admin
def create_workspace(body: WorkspaceBody) -> tuple[dict[str, Any], int]:
    """Make a workspace, with a default pool."""
    actor = current_principal().name
    return do_as_auth(lambda connection: workspaces.create_workspace(connection, body.name, actor=actor)), 201


def _user_of(connection: Connection, principal: Principal) -> int | None:
    """Whose a new key is: its maker's, or of whom the key is that makes it."""
    return store.owner_of(connection, int(principal.id)) if principal.kind == "key" else int(principal.id)
