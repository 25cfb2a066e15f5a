"""The web server's app with its real way to recognise people, and people of every kind to call it.

kit.user("ada@example.org", Role.EDITOR)     # a member of the workspace `default`
kit.call("GET", "/workflows", kit.bearer("ada@example.org"))
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from agentflow.access import Role, api_keys, sessions, users, workspaces
from agentflow.access.tokens import write_token
from agentflow.clock import utc_now
from agentflow.keys import KeyRing, SecretKey
from agentflow.settings import Settings
from tests.contract_kit import Contract
from webserver.app import create_app
from webserver.auth.authenticate import rights_changed
from webserver.auth.cookies import CSRF_COOKIE
from webserver.auth.jwt import write_access_token
from webserver.ratelimits import CLASSES
from webserver.resource import CHECK_ANSWERS, PREFIX
from webserver.state import web_of

PASSWORD = "correct horse battery"
SECRET = "test-" + "k" * 40
RING = KeyRing([SecretKey(SECRET)])
OTHER = "elsewhere"  #: A workspace besides `default`.


class AuthKit:
    """The app over a test's database."""

    def __init__(self, engine: Engine, home: Path, **settings: Any) -> None:
        self.engine = engine
        settings = {f"rate_limit_{name}": "" for name in CLASSES} | settings
        self.settings = Settings(home=home, secret_key=SECRET, **settings)
        self.app = create_app(self.settings, url=engine.url.render_as_string(hide_password=False))
        self.app.config[CHECK_ANSWERS] = True
        self.contract = Contract(self.app)
        self.app.testing = False
        self.client: FlaskClient = self.app.test_client(use_cookies=False)
        self.ids: dict[str, int] = {}
        with engine.begin() as connection:
            if not connection.scalar(text("SELECT 1 FROM workspace WHERE name = :name"), {"name": OTHER}):
                workspaces.create_workspace(connection, OTHER, actor="test")

    def close(self) -> None:
        web_of(self.app).close()
        self.contract.check()

    def forget(self) -> None:
        """What the app remembers of anybody's rights is void, as after some seconds."""
        with self.app.app_context():
            rights_changed()

    def user(self, email: str, role: Role | None = None, *, workspace: str = "default", **keys: Any) -> int:
        """A user with this role in a workspace."""
        with self.engine.begin() as connection:
            made: int = users.create_user(connection, email, **{"password": PASSWORD, "actor": "test", **keys})["id"]
            if role is not None:
                workspaces.grant_role(connection, made, workspace, role, actor="test")
        self.ids[email] = made
        return made

    def session(self, email: str, kind: sessions.Kind = "token", *, at: datetime | None = None) -> sessions.OpenSession:
        """A session that somebody opened, now or then."""
        with self.engine.begin() as connection:
            return sessions.open_session(connection, self.ids[email], kind, now=at or utc_now())

    def bearer(self, email: str, *, age: timedelta = timedelta(0)) -> dict[str, str]:
        """Headers with an access token of this age."""
        session = self.session(email)
        token = write_access_token(RING, self.ids[email], session.id, now=utc_now() - age)
        return {"Authorization": f"Bearer {token}"}

    def cookies(self, email: str, *, csrf: bool = True) -> dict[str, str]:
        """Headers of a browser, with or without the proof that a page of ours asks."""
        session = self.session(email, "browser")
        token = write_token(RING, "csrf", session.id, session.salt)
        cookie = write_token(RING, "cookie", session.id, session.salt)
        headers = {"Cookie": f"agentflow_session={cookie}; {CSRF_COOKIE}={token}"}
        return headers | ({"X-CSRF-Token": token} if csrf else {})

    def key(self, *scopes: str, user: str | None = None, **keys: Any) -> dict[str, str]:
        """Headers with an API key."""
        return {"X-API-Key": self.new_key(*scopes, user=user, **keys)["key"]}

    def new_key(self, *scopes: str, user: str | None = None, **keys: Any) -> dict[str, Any]:
        """A key, with its id."""
        given = {"name": f"key {len(self.ids)}-{utc_now().timestamp()}", "workspace": "default", **keys}
        with self.engine.begin() as connection:
            return api_keys.create_api_key(
                connection,
                given.pop("name"),
                scopes=scopes or ["admin"],
                user=None if user is None else self.ids[user],
                now=utc_now(),
                actor="test",
                **given,
            )

    def call(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None, **keys: Any
    ) -> TestResponse:
        """One request."""
        if body is not None:
            keys["json"] = body
        address = PREFIX + path if path.startswith("/") and not path.startswith("/api/") else path
        return self.client.open(address, method=method, headers=headers, **keys)

    def login(self, email: str, password: str = PASSWORD, **keys: Any) -> TestResponse:
        """Log in with a password."""
        return self.call("POST", "/auth/login", body={"email": email, "password": password}, **keys)


def everybody(web: AuthKit) -> dict[str, Callable[[], dict[str, str]]]:
    """Callers by name, good and bad ones: each a function that makes fresh headers."""
    for role in Role:
        web.user(f"{role.value}@example.org", role)
    web.user("chief@example.org", instance_admin=True)
    web.user("stranger@example.org", Role.ADMIN, workspace=OTHER)
    revoked = web.new_key("admin")
    with web.engine.begin() as connection:
        api_keys.revoke_api_key(connection, revoked["id"], actor="test", workspace="default")
    found = {role.value: (lambda role=role: web.bearer(f"{role.value}@example.org")) for role in Role}
    return found | {
        "instance-admin": lambda: web.bearer("chief@example.org"),
        "anonymous": dict,
        "other workspace": lambda: web.bearer("stranger@example.org") | {"X-Workspace": "default"},
        "other workspace by default": lambda: web.bearer("stranger@example.org"),
        "expired token": lambda: web.bearer("admin@example.org", age=timedelta(minutes=16)),
        "revoked key": lambda: {"X-API-Key": revoked["key"]},
        "key of another workspace": lambda: web.key("admin", workspace=OTHER) | {"X-Workspace": "default"},
        "wrong CSRF": lambda: web.cookies("admin@example.org", csrf=False) | {"X-CSRF-Token": "x"},
        "right CSRF": lambda: web.cookies("admin@example.org"),
        "key that reads": lambda: web.key("read"),
        "key that edits": lambda: web.key("edit"),
    }
