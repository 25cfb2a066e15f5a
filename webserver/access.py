"""Who may call what: every endpoint says it, or the app does not start (deny by default).

Checked before the request is read any further: whoever may not call learns nothing from the validation of a body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from flask import Flask, Request, g, request

from agentflow.access import Principal, Role
from webserver.errors import Forbidden, Unauthenticated

View = TypeVar("View", bound=Callable[..., Any])
#: Who a request is from; None when it does not say. Raises Unauthenticated for credentials that are wrong.
Authenticate = Callable[[Request], Principal | None]

_MARK = "__agentflow_access__"


@dataclass(frozen=True, slots=True)
class Access:
    """What an endpoint asks of the caller."""

    anonymous: bool = False  #: Nothing at all.
    role: Role | None = None  #: At least this, in the workspace of the request.
    instance_admin: bool = False

    def __str__(self) -> str:
        if self.anonymous:
            return "public"
        if self.instance_admin:
            return "instance-admin"
        return self.role.value if self.role is not None else "signed-in"


def _marker(access: Access) -> Callable[[View], View]:
    def mark(view: View) -> View:
        setattr(view, _MARK, access)
        return view

    return mark


def requires(role: Role) -> Callable[[View], View]:
    """The caller needs this role, or a higher one, in the workspace of the request."""
    return _marker(Access(role=role))


def public(view: View) -> View:
    """Everybody may call it, signed in or not."""
    return _marker(Access(anonymous=True))(view)


def signed_in(view: View) -> View:
    """Whoever is signed in may call it, member of the workspace or not."""
    return _marker(Access())(view)


def instance_admin(view: View) -> View:
    """The caller needs to administer the instance."""
    return _marker(Access(instance_admin=True))(view)


def access_of(view: object) -> Access | None:
    """What a view asks for; None when it was not marked."""
    return cast("Access | None", getattr(view, _MARK, None))


def current_principal() -> Principal:
    """Who the request is from.

    Raises:
        Unauthenticated: Nobody; a public view must not ask.
    """
    found: Principal | None = g.get("principal")
    if found is None:
        raise Unauthenticated
    return found


def authorise(access: Access, principal: Principal | None) -> None:
    """Let a call pass, or say why not.

    Raises:
        Unauthenticated: It needs somebody.
        Forbidden: It needs another role.
    """
    if access.anonymous:
        return
    if principal is None:
        raise Unauthenticated("This needs a login.", hint="send `Authorization: Bearer <token>` or `X-API-Key`")
    if access.instance_admin and not principal.instance_admin:
        raise Forbidden("This needs an administrator of the instance.")
    if access.role is not None and (principal.role is None or principal.role < access.role):
        has = "no role" if principal.role is None else f"the role {principal.role.value}"
        raise Forbidden(
            f"This needs the role {access.role.value}; you have {has} in the workspace {principal.workspace!r}.",
            hint="ask an admin of the workspace",
        )


def init_access(app: Flask, authenticate: Authenticate) -> None:
    """Check every request before anything else of it is read."""

    @app.before_request
    def check() -> None:
        if request.endpoint is None:
            return  # no such address: the answer is 404 or 405 for everybody
        access = access_of(app.view_functions[request.endpoint])
        assert access is not None, f"{request.endpoint} is not marked"
        g.principal = None if access.anonymous else authenticate(request)
        authorise(access, g.principal)


def require_marks(app: Flask) -> None:
    """Refuse an app with an endpoint that does not say who may call it.

    Raises:
        RuntimeError: Names them.
    """
    unmarked = sorted(name for name, view in app.view_functions.items() if access_of(view) is None)
    if unmarked:
        raise RuntimeError(f"endpoints without @requires or @public: {', '.join(unmarked)}")
