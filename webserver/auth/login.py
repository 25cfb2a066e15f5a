"""Logging in: by a password, by a one-time link. One way for people who exist and people who do not."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta

from flask import Request, Response
from sqlalchemy import Connection

from agentflow.access import links, passwords, sessions, throttle, users
from agentflow.access.accounts import record
from agentflow.access.sessions import OpenSession
from agentflow.access.tokens import write_token
from agentflow.clock import utc_now
from agentflow.errors import UsageError
from webserver.auth.authenticate import rights_changed
from webserver.auth.cookies import set_cookies
from webserver.auth.jwt import LIFETIME, write_access_token
from webserver.database import do_as_auth
from webserver.errors import TooManyRequests, Unauthenticated
from webserver.keys import keys
from webserver.offload import offload

#: Each check of a password takes tens of megabytes and a core: a flood of logins must not take all of either.
_AT_ONCE = threading.BoundedSemaphore(2)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where a login comes from."""

    address: str
    user_agent: str

    @classmethod
    def of(cls, request: Request) -> Visitor:
        """From a request."""
        return cls(request.remote_addr or "", request.headers.get("User-Agent", ""))


def by_password(email: str, password: str, visitor: Visitor, kind: sessions.Kind) -> OpenSession:
    """Open a session for whoever knows the password.

    Raises:
        Unauthenticated: Nobody of this address has this password; which of the two is wrong is not told.
        TooManyRequests: There were too many wrong guesses.
    """
    now = utc_now()
    wait = do_as_auth(lambda connection: throttle.count_guess(connection, email, visitor.address, now=now))
    if wait is not None:
        raise too_many_guesses(wait)
    known = do_as_auth(lambda connection: users.find_credentials(connection, email))
    stored = known.password_hash if known else None
    with _AT_ONCE:
        right = offload(lambda: passwords.verify_password(stored, password))
        renewed = (
            offload(lambda: passwords.hash_password(password))
            if right and stored and passwords.is_outdated(stored)
            else None
        )
    if not right or known is None or known.disabled:
        raise Unauthenticated("Email or password is wrong.")

    def enter(connection: Connection) -> OpenSession:
        if stored is None or not users.still_has_password(connection, known.id, stored):
            raise Unauthenticated("Email or password is wrong.")  # it was changed or reset while it was checked
        throttle.was_right(connection, email, visitor.address, now=now)
        if renewed is not None:
            users.store_password(connection, known.id, renewed)
        return _open(connection, known.id, known.email, visitor, kind, how="password")

    return do_as_auth(enter)


def by_link(token: str, password: str | None, visitor: Visitor, kind: sessions.Kind) -> OpenSession:
    """Open a session for whoever holds a one-time link; a link to reset a password needs the new one.

    Raises:
        Unauthenticated: The link is used up, too old, or none of ours.
        UsageError: It needs a password, or this one is easily guessed; the link stays good.
    """
    now = utc_now()
    link = do_as_auth(lambda connection: links.look_at_link(connection, token, now=now))
    if link is None:
        raise Unauthenticated("The link is not valid any more.", hint="ask an administrator for another one")
    if link.purpose == "reset" and password is None:
        raise UsageError("This link sets a new password.", hint="send it as `password`")
    if password is not None:
        passwords.check_password(password, email=link.email)
    with _AT_ONCE:
        hashed = None if password is None else offload(lambda: passwords.hash_password(password))

    def enter(connection: Connection) -> OpenSession:
        if not links.use_link(connection, token, now=now):
            raise Unauthenticated("The link was used just now.", hint="ask an administrator for another one")
        if hashed is not None:
            users.store_password(connection, link.user, hashed)
            sessions.revoke_sessions(connection, link.user, because="password changed")
        return _open(connection, link.user, link.email, visitor, kind, how="link")

    return do_as_auth(enter)


def change_password(user: int, old: str, new: str, visitor: Visitor, *, keep: OpenSession | None) -> None:
    """Give oneself another password; all other sessions end.

    Raises:
        Unauthenticated: The old one is wrong.
        UsageError: The new one is easily guessed.
        TooManyRequests: There were too many wrong guesses.
    """
    now = utc_now()
    email = do_as_auth(lambda connection: users.show_user(connection, user))["email"]
    passwords.check_password(new, email=email)
    wait = do_as_auth(lambda connection: throttle.count_guess(connection, email, visitor.address, now=now))
    if wait is not None:
        raise too_many_guesses(wait)
    known = do_as_auth(lambda connection: users.find_credentials(connection, email))
    stored = known.password_hash if known else None
    with _AT_ONCE:
        if not offload(lambda: passwords.verify_password(stored, old)):
            raise Unauthenticated("The old password is wrong.")
        hashed = offload(lambda: passwords.hash_password(new))

    def change(connection: Connection) -> None:
        if stored is None or not users.still_has_password(connection, user, stored):
            raise Unauthenticated("The old password is wrong.")
        throttle.was_right(connection, email, visitor.address, now=now)
        users.store_password(connection, user, hashed)
        sessions.revoke_sessions(connection, user, because="password changed", keep=keep.id if keep else None)
        record(connection, f"user:{email}", "user.password_set", email)

    do_as_auth(change)
    rights_changed()


def too_many_guesses(wait: timedelta) -> TooManyRequests:
    """Told alike for accounts that exist and those that do not."""
    seconds = max(1, round(wait.total_seconds()))
    error = TooManyRequests(f"Too many wrong guesses: try again in {seconds} s.")
    error.headers = {"Retry-After": str(seconds)}
    return error


def tokens_of(session: OpenSession) -> dict[str, object]:
    """What a program gets: the access token, and the refresh token that follows."""
    ring = keys()
    return {
        "access_token": write_access_token(ring, session.user, session.id, now=utc_now()),
        "refresh_token": write_token(ring, "refresh", session.id, session.salt, session.generation),
        "expires_in": int(LIFETIME.total_seconds()),
        "token_type": "Bearer",
    }


def let_browser_in(response: Response, request: Request, session: OpenSession) -> str:
    """Set the cookies of a session; returns its CSRF token."""
    ring = keys()
    csrf = write_token(ring, "csrf", session.id, session.salt)
    set_cookies(response, request, write_token(ring, "cookie", session.id, session.salt), csrf, sessions.LIFETIME)
    return csrf


def _open(
    connection: Connection, user: int, email: str, visitor: Visitor, kind: sessions.Kind, *, how: str
) -> OpenSession:
    record(connection, f"user:{email}", "user.logged_in", email, by=how, kind=kind)
    return sessions.open_session(
        connection, user, kind, now=utc_now(), address=visitor.address, user_agent=visitor.user_agent
    )
