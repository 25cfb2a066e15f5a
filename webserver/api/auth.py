"""`/auth`: logging in and out, and who one is."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from sqlalchemy import Connection

from agentflow.access import Principal, sessions, users, workspaces
from agentflow.access.accounts import record
from agentflow.clock import utc_now
from agentflow.errors import NotFound
from webserver.access import current_principal, public, signed_in
from webserver.api.auth_schemas import (
    BrowserSession,
    LinkBody,
    LoginBody,
    Me,
    PasswordBody,
    RefreshBody,
    SessionList,
    SessionPath,
    Tokens,
)
from webserver.auth import login as entrance
from webserver.auth.authenticate import current_session, rights_changed
from webserver.auth.cookies import check_origin, clear_cookies
from webserver.auth.login import Visitor
from webserver.database import do_as_auth
from webserver.errors import Forbidden, Unauthenticated
from webserver.keys import keys
from webserver.resource import Resource
from webserver.state import current_web

auth = Resource("auth", "Logging in and out, sessions, who one is.")


@auth.post("/auth/login", responses={200: Tokens, 401: None})
@public
def login(body: LoginBody) -> dict[str, Any]:
    """Log a program in: an access token and a refresh token."""
    return entrance.tokens_of(entrance.by_password(body.email, body.password, Visitor.of(request), "token"))


@auth.post("/auth/session", responses={200: BrowserSession, 401: None, 403: None})
@public
def login_browser(body: LoginBody) -> Response:
    """Log a browser in: cookies, of which scripts cannot read the session's."""
    check_origin(request, current_web().settings)
    return _browser(entrance.by_password(body.email, body.password, Visitor.of(request), "browser"))


@auth.post("/auth/link", responses={200: BrowserSession, 401: None, 403: None})
@public
def login_by_link(body: LinkBody) -> Response:
    """Log a browser in by a one-time link, and set a password if the link is for that."""
    check_origin(request, current_web().settings)
    return _browser(entrance.by_link(body.token, body.password, Visitor.of(request), "browser"))


@auth.post("/auth/refresh", responses={200: Tokens, 401: None})
@public
def refresh(body: RefreshBody) -> dict[str, Any]:
    """Use up a refresh token for the next pair. One that was used before ends the session: somebody has stolen it."""
    now = utc_now()

    def rotate(connection: Connection) -> sessions.Rotation:
        found = sessions.rotate(connection, keys(), body.refresh_token, now=now)
        if found.outcome == "reused":
            record(connection, "system", "user.refresh_reused", found.email)
        return found

    found = do_as_auth(rotate)
    if found.outcome == "reused":
        rights_changed()
    if found.session is None:
        raise Unauthenticated("The refresh token is not valid any more.", hint="log in again")
    return entrance.tokens_of(found.session)


@auth.post("/auth/logout", responses={204: None})
@signed_in
def logout() -> tuple[Response, int]:
    """End the session of this request."""
    session = current_session()
    if session is None:
        raise Forbidden("An API key has no session.", hint="revoke the key instead")
    do_as_auth(lambda connection: sessions.revoke_session(connection, session.id, because="logout", now=utc_now()))
    rights_changed()
    answer = Response(status=204)
    clear_cookies(answer, request)
    return answer, 204


@auth.get("/auth/me", responses={200: Me})
@signed_in
def me() -> dict[str, Any]:
    """Who the request is from, and what they may do."""
    principal = current_principal()
    user = None if principal.kind == "key" else int(principal.id)

    def look(connection: Connection) -> dict[str, Any]:
        if user is None:
            return {"email": None, "display_name": None, "workspaces": _only_here(principal)}
        shown = users.show_user(connection, user)
        found, _ = workspaces.list_workspaces(connection, user=user, everything=principal.instance_admin)
        mine = [{"name": one["name"], "role": "admin" if principal.instance_admin else one["role"]} for one in found]
        return {"email": shown["email"], "display_name": shown["name"] or None, "workspaces": mine}

    return {
        "kind": principal.kind,
        "id": principal.id,
        "name": principal.name,
        "workspace": principal.workspace,
        "role": None if principal.role is None else principal.role.value,
        "instance_admin": principal.instance_admin,
        "scopes": None if principal.scopes is None else sorted(principal.scopes),
        **do_as_auth(look),
    }


@auth.put("/auth/password", responses={204: None})
@signed_in
def change_password(body: PasswordBody) -> tuple[str, int]:
    """Give oneself another password; all other sessions end."""
    user = _myself()
    entrance.change_password(user, body.old_password, body.new_password, Visitor.of(request), keep=current_session())
    return "", 204


@auth.get("/auth/sessions", responses={200: SessionList})
@signed_in
def list_sessions() -> dict[str, Any]:
    """List one's own open sessions."""
    user, current = _myself(), current_session()
    found = do_as_auth(lambda connection: sessions.list_sessions(connection, user, now=utc_now()))
    mine = None if current is None else str(current.id)
    return {"items": [item | {"current": item["id"] == mine} for item in found], "next_cursor": None}


@auth.delete("/auth/sessions/<id>", responses={204: None})
@signed_in
def end_session(path: SessionPath) -> tuple[str, int]:
    """End a session of one's own."""
    user, now = _myself(), utc_now()

    def end(connection: Connection) -> bool:
        found = sessions.find_session(connection, path.id)
        if found is None or found.user_id != user:
            return False
        return sessions.revoke_session(connection, found.id, because="ended by its user", now=now)

    if not do_as_auth(end):
        raise NotFound("You have no such open session.")
    rights_changed()
    return "", 204


def _browser(session: sessions.OpenSession) -> Response:
    answer = jsonify({})
    csrf = entrance.let_browser_in(answer, request, session)
    answer.set_data(jsonify({"csrf_token": csrf}).get_data())
    return answer


def _myself() -> int:
    principal = current_principal()
    if principal.kind == "key":
        raise Forbidden("A key cannot do this: it needs a login.")
    return int(principal.id)


def _only_here(principal: Principal) -> list[dict[str, str]]:
    return [] if principal.role is None else [{"name": principal.workspace, "role": principal.role.value}]
