"""`/auth/oidc`: logging a browser in with an identity provider."""

from __future__ import annotations

from typing import Any

from flask import Response, redirect, request
from pydantic import Field
from sqlalchemy import Connection

from agentflow.access import Role, sessions
from agentflow.access.accounts import record
from agentflow.access.identities import identify
from agentflow.access.users import show_user
from agentflow.clock import utc_now
from agentflow.errors import NotFound
from webserver.access import public
from webserver.arguments import Query
from webserver.auth.login import Visitor, let_browser_in
from webserver.auth.oidc import COOKIE, LIFETIME, Provider, known_only
from webserver.database import do_as_auth
from webserver.errors import Unauthenticated
from webserver.keys import keys
from webserver.resource import PREFIX, Resource
from webserver.state import current_web

_PATH = f"{PREFIX}/auth/oidc"

oidc = Resource("oidc", "Logging in with an identity provider.")


class CallbackQuery(Query):
    """What the provider sends the browser back with."""

    state: str = Field("", max_length=200)
    code: str = Field("", max_length=4000)
    error: str | None = Field(None, max_length=200)
    error_description: str | None = Field(None, max_length=2000)
    error_uri: str | None = Field(None, max_length=2000)
    session_state: str | None = Field(None, max_length=2000)
    iss: str | None = Field(None, max_length=2000)


@oidc.get("/auth/oidc/start", responses={302: None, 404: None})
@public
def begin_oidc_login() -> Response:
    """Send the browser to the provider."""
    address, cookie = _provider().start(keys())
    answer = _to(address)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=int(LIFETIME.total_seconds()),
        path=_PATH,
        secure=request.is_secure,
        httponly=True,
        samesite="Lax",  # the provider sends the browser back from its own site
    )
    return answer


@oidc.get("/auth/oidc/callback", responses={302: None, 401: None, 403: None, 404: None})
@public
def finish_oidc_login(query: CallbackQuery) -> Response:
    """Take the provider's answer, open a session, go to the start page."""
    provider = _provider()
    if query.error is not None or not query.code:
        raise Unauthenticated("The identity provider did not log you in.", hint="begin again")
    identity = provider.finish(keys(), request.cookies.get(COOKIE, ""), query.state, query.code)
    role, visitor = current_web().settings.oidc_default_role, Visitor.of(request)

    def enter(connection: Connection) -> sessions.OpenSession:
        user = known_only(
            identify(
                connection,
                identity.issuer,
                identity.subject,
                email=identity.email,
                name=identity.name,
                default_role=Role(role) if role else None,
            )
        )
        email = show_user(connection, user)["email"]
        record(connection, f"user:{email}", "user.logged_in", email, by="oidc", kind="browser")
        return sessions.open_session(
            connection, user, "browser", now=utc_now(), address=visitor.address, user_agent=visitor.user_agent
        )

    session = do_as_auth(enter)
    answer = _to("/")
    let_browser_in(answer, request, session)
    answer.delete_cookie(COOKIE, path=_PATH, secure=request.is_secure, httponly=True, samesite="Lax")
    return answer


def _provider() -> Provider:
    settings = current_web().settings
    if not settings.oidc_issuer:
        raise NotFound("No identity provider is set up here.", hint="AGENTFLOW_OIDC_ISSUER names one")
    base = settings.base_url.rstrip("/") or request.host_url.rstrip("/")
    return Provider(settings, f"{base}{_PATH}/callback")


def _to(address: str) -> Response:
    answer: Any = redirect(address, 302)
    assert isinstance(answer, Response)
    answer.set_data(b"")
    return answer
