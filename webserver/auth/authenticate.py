"""From the credentials of a request to a principal.

One of: an access token (`Authorization: Bearer`), an API key (`X-API-Key`), the cookie of a browser's session. What the
database says of the bearer is believed for FRESH seconds and then asked again: a session, key or role that was taken
away stops working, also for tokens that are good by themselves.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from flask import Request, current_app, g
from sqlalchemy import Connection

from agentflow.access import Principal, api_keys, sessions
from agentflow.access.rights import key_principal, user_principal
from agentflow.access.sessions import OpenSession
from agentflow.access.tokens import is_ours, read_token
from agentflow.clock import utc_now
from webserver.auth.cookies import check_csrf, session_cookie
from webserver.auth.jwt import read_access_token
from webserver.database import do_as_auth
from webserver.errors import Unauthenticated
from webserver.keys import keys
from webserver.state import current_web

FRESH = 3.0  #: Seconds.
_MOST = 10_000  # bearers that are remembered
_WORKSPACE_MAX = 100  # characters
EXTENSION = "agentflow.auth"


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who was recognised, and by which session, if any."""

    principal: Principal
    session: OpenSession | None = None


class Memory:
    """Bearers that were recognised a moment ago."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, tuple[float, Bearer]] = OrderedDict()
        self._generation = 0

    @property
    def generation(self) -> int:
        """Changes whenever rights do: read it before the database is asked."""
        return self._generation

    def get(self, key: bytes) -> Bearer | None:
        """Whoever it was, if that is not too long ago."""
        with self._lock:
            at, bearer = self._found.get(key, (0.0, None))
            return bearer if bearer is not None and self._clock() - at < FRESH else None

    def put(self, key: bytes, bearer: Bearer, generation: int) -> None:
        """Remember, unless rights have changed since `generation`: what was read may be what held before."""
        with self._lock:
            if generation != self._generation:
                return
            self._found[key] = (self._clock(), bearer)
            self._found.move_to_end(key)
            while len(self._found) > _MOST:
                self._found.popitem(last=False)

    def forget(self) -> None:
        """Rights have changed: ask the database again."""
        with self._lock:
            self._generation += 1
            self._found.clear()


def memory() -> Memory:
    """The memory of the app at work."""
    return cast("Memory", current_app.extensions.setdefault(EXTENSION, Memory()))


def rights_changed() -> None:
    """What this process remembers of anybody's rights is void, for its sockets too; others hear of it (notify_rights)."""
    memory().forget()
    live = current_app.extensions.get("agentflow.live")
    if live is not None:
        live.guard.hurry()


def authenticate(request: Request) -> Principal | None:
    """Who a request is from; None when it does not say.

    Raises:
        Unauthenticated: The credentials are wrong, have expired or were revoked, or there are two kinds of them.
        NotFound: The workspace does not exist, or is not theirs.
        CsrfFailed: A cookie alone does not prove that a page of ours asks for a change.
    """
    header, api_key = request.headers.get("Authorization"), request.headers.get("X-API-Key")
    workspace = _workspace(request)
    if header is not None and api_key is not None:
        raise Unauthenticated("There are two credentials.", hint="send either Authorization or X-API-Key")
    if api_key is not None:
        return _remembered("key", api_key, workspace, lambda: _by_key(api_key, workspace)).principal
    if header is not None:
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer":
            raise Unauthenticated("Only bearer tokens are read here.", hint="send `Authorization: Bearer <token>`")
        return _by_access_token(token.strip(), workspace)
    cookie = session_cookie(request)
    return None if cookie is None else _by_cookie(request, cookie, workspace)


def current_session() -> OpenSession | None:
    """The session of the request at hand; None when a key was used."""
    return cast("OpenSession | None", g.get("session"))


def _workspace(request: Request) -> str | None:
    name = request.headers.get("X-Workspace")
    return name[: _WORKSPACE_MAX + 1].replace("\0", "") if name else None


def _remembered(kind: str, credential: str, workspace: str | None, look: Callable[[], Bearer | None]) -> Bearer:
    found = memory()
    key = hashlib.sha256(f"{kind}\0{credential}\0{workspace or ''}".encode("utf-8", "surrogateescape")).digest()
    bearer, generation = found.get(key), found.generation
    if bearer is None:
        bearer = look()
        if bearer is None:
            raise Unauthenticated(
                "The credentials are not valid, or not any more.", hint="log in again, or ask for another key"
            )
        found.put(key, bearer, generation)
    g.session = bearer.session
    return bearer


def _by_key(api_key: str, workspace: str | None) -> Bearer | None:
    now = utc_now()

    def look(connection: Connection) -> Bearer | None:
        row = api_keys.find_api_key(connection, api_key)
        principal = None if row is None else key_principal(row, workspace, now)
        if row is None or principal is None:
            return None
        api_keys.note_use(connection, row, now)
        return Bearer(principal)

    return do_as_auth(look)


def _by_access_token(token: str, workspace: str | None) -> Principal:
    claims = read_access_token(keys(), token)
    if claims is None:
        raise Unauthenticated("The access token is not valid, or has expired.", hint="refresh it, or log in again")

    def look(connection: Connection) -> Bearer | None:
        row = sessions.find_session(connection, claims.session)
        if row is None or row.kind != "token" or row.user_id != claims.user:
            return None
        return _by_session(connection, row, workspace)

    bearer = _remembered("token", claims.session.hex, workspace, lambda: do_as_auth(look))
    return bearer.principal


def _by_cookie(request: Request, cookie: str, workspace: str | None) -> Principal:
    ring = keys()

    def look(connection: Connection) -> Bearer | None:
        token = read_token(cookie)
        row = None if token is None else sessions.find_session(connection, token.session)
        if token is None or row is None or row.kind != "browser" or not is_ours(ring, "cookie", token, row.salt):
            return None
        return _by_session(connection, row, workspace)

    bearer = _remembered("cookie", cookie, workspace, lambda: do_as_auth(look))
    assert bearer.session is not None
    check_csrf(request, current_web().settings, ring, bearer.session)
    return replace(bearer.principal, kind="session")


def _by_session(connection: Connection, row: Any, workspace: str | None) -> Bearer | None:
    now = utc_now()
    if not sessions.is_open(row, now):
        return None
    principal = user_principal(connection, row.user_id, workspace)
    if principal is None:
        return None
    sessions.note_use(connection, row, now)
    return Bearer(principal, OpenSession(row.id, row.user_id, row.salt, row.generation))
