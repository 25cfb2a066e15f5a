"""`/users`: people, and their roles in the workspace of the request."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from sqlalchemy import Connection

from agentflow.access import Principal, Role, links, users, workspaces
from agentflow.clock import iso, utc_now
from agentflow.errors import NotFound
from webserver.access import current_principal, instance_admin, requires
from webserver.arguments import Body, Path
from webserver.auth.authenticate import rights_changed
from webserver.database import do_as_auth
from webserver.errors import Forbidden
from webserver.pages import Answer, Page, PageQuery, page
from webserver.resource import Resource

RoleWord = Literal["viewer", "operator", "editor", "admin"]


class MembershipItem(Answer):
    """A role somewhere."""

    workspace: str
    role: RoleWord


class User(Answer):
    """A person, or a program with an address."""

    id: int
    email: str
    name: str
    disabled: bool
    instance_admin: bool
    has_password: bool
    has_oidc: bool = Field(description="Comes in through an identity provider")
    created_at: str
    created_by: str
    memberships: list[MembershipItem] = Field(description="In this workspace; with `all`, in every one")


class UserPage(Page[User]):
    """Users, the oldest first."""


class UserQuery(PageQuery):
    """Which users."""

    search: str | None = Field(None, max_length=200, description="Part of the address or name")
    all: bool = Field(False, description="Of the whole instance, for its administrators")


class UserPath(Path):
    """A user."""

    id: int = Field(ge=1, lt=2**63)


class NewUser(Body):
    """A user to be made."""

    email: str = Field(max_length=320)
    name: str = Field("", max_length=200)
    role: RoleWord = Field("viewer", description="In the workspace of the request")
    instance_admin: bool = Field(False, description="Only an administrator of the instance may say so")


class UserChange(Body):
    """What to change."""

    name: str | None = Field(None, max_length=200)
    disabled: bool | None = None
    instance_admin: bool | None = None


class RoleBody(Body):
    """A role in the workspace of the request."""

    role: RoleWord


class Link(Answer):
    """Shown once."""

    token: str = Field(description="For `POST /auth/link`, together with the new password")
    expires_at: str


class UserWithLink(User):
    """A new user, with the link that sets their password."""

    link: Link


class Granted(Answer):
    """A role."""

    email: str
    workspace: str
    role: RoleWord | None
    changed: bool


resource = Resource("users", "People, their roles, their passwords.")


@resource.get("/users", responses={200: UserPage})
@requires(Role.ADMIN)
def list_users(query: UserQuery) -> dict[str, Any]:
    """List the members of the workspace."""
    principal = current_principal()
    if query.all and not principal.instance_admin:
        raise Forbidden("Only an administrator of the instance sees users of other workspaces.")
    where = None if query.all else principal.workspace
    return page(
        *do_as_auth(
            lambda connection: users.list_users(
                connection, workspace=where, search=query.search, limit=query.limit, cursor=query.cursor
            )
        )
    )


@resource.post("/users", responses={201: UserWithLink, 409: None})
@requires(Role.ADMIN)
def create_user(body: NewUser) -> tuple[dict[str, Any], int]:
    """Make a user with a role here. They set their password by the link in the answer."""
    principal = current_principal()
    if body.instance_admin and not principal.instance_admin:
        raise Forbidden("Only an administrator of the instance makes another one.")

    def make(connection: Connection) -> dict[str, Any]:
        made = users.create_user(
            connection, body.email, name=body.name, instance_admin=body.instance_admin, actor=principal.name
        )
        workspaces.grant_role(connection, made["id"], principal.workspace, Role(body.role), actor=principal.name)
        link = links.make_link(connection, made["id"], "reset", now=utc_now(), actor=principal.name)
        return _show(connection, made["id"], principal) | {"link": _told(link)}

    return do_as_auth(make), 201


@resource.get("/users/<int:id>", responses={200: User})
@requires(Role.ADMIN)
def show_user(path: UserPath) -> dict[str, Any]:
    """Show a member of the workspace; administrators of the instance see everybody."""
    principal = current_principal()
    return do_as_auth(lambda connection: _show(connection, path.id, principal))


@resource.patch("/users/<int:id>", responses={200: User, 409: None})
@instance_admin
def change_user(path: UserPath, body: UserChange) -> dict[str, Any]:
    """Change a user: name, disabled or not, administrator of the instance or not."""
    principal = current_principal()

    def change(connection: Connection) -> dict[str, Any]:
        users.update_user(
            connection,
            path.id,
            name=body.name,
            disabled=body.disabled,
            instance_admin=body.instance_admin,
            actor=principal.name,
        )
        return _show(connection, path.id, principal)

    changed = do_as_auth(change)
    rights_changed()
    return changed


@resource.delete("/users/<int:id>", responses={204: None, 409: None})
@instance_admin
def delete_user(path: UserPath) -> tuple[str, int]:
    """Delete a user with their sessions and keys; what they did stays in the audit log."""
    principal = current_principal()
    do_as_auth(lambda connection: users.delete_user(connection, path.id, actor=principal.name))
    rights_changed()
    return "", 204


@resource.post("/users/<int:id>/reset-password", responses={200: Link})
@instance_admin
def reset_password(path: UserPath) -> dict[str, Any]:
    """Void a user's password and sessions, and make a link that sets another password."""
    actor = current_principal().name
    link = do_as_auth(lambda connection: links.make_link(connection, path.id, "reset", now=utc_now(), actor=actor))
    rights_changed()
    return _told(link)


@resource.put("/users/<int:id>/role", responses={200: Granted})
@requires(Role.ADMIN)
def grant_role(path: UserPath, body: RoleBody) -> dict[str, Any]:
    """Change a member's role in the workspace; an administrator of the instance may bring in anybody."""
    principal = current_principal()

    def grant(connection: Connection) -> dict[str, Any]:
        _show(connection, path.id, principal)
        return workspaces.grant_role(connection, path.id, principal.workspace, Role(body.role), actor=principal.name)

    granted = do_as_auth(grant)
    rights_changed()
    return granted


@resource.delete("/users/<int:id>/role", responses={204: None})
@requires(Role.ADMIN)
def revoke_role(path: UserPath) -> tuple[str, int]:
    """Take a member out of the workspace; their keys here stop."""
    principal = current_principal()

    def revoke(connection: Connection) -> None:
        _show(connection, path.id, principal)
        workspaces.revoke_role(connection, path.id, principal.workspace, actor=principal.name)

    do_as_auth(revoke)
    rights_changed()
    return "", 204


def _show(connection: Connection, user: int, principal: Principal) -> dict[str, Any]:
    """A user as the caller may see them: elsewhere they look as if they did not exist."""
    found = users.show_user(connection, user, workspace=None if principal.instance_admin else principal.workspace)
    if not principal.instance_admin and not found["memberships"]:
        raise NotFound(f"There is no user {user}.")
    return found


def _told(link: dict[str, Any]) -> dict[str, Any]:
    return {"token": link["token"], "expires_at": iso(link["expires_at"])}
