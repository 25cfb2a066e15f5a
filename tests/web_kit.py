"""Calls the API in the test's own thread, as whom the test says.

web.get("/workflows")                        # the JSON of a 200
web.post("/workflows/flow/runs", {}, expect=201)
web.act_as(Role.VIEWER)                      # from now on
problem = web.get("/workflows/none", expect=404)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Request
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from agentflow.access import Principal, Role
from agentflow.settings import Settings
from tests.contract_kit import Contract
from webserver.app import create_app
from webserver.problems import MEDIA_TYPE, ProblemDocument
from webserver.ratelimits import CLASSES
from webserver.resource import CHECK_ANSWERS, PREFIX
from webserver.state import web_of

ACTOR = "user:ada@example.org"


class WebKit:
    """The app over a test's database, and a client whose principal the test chooses."""

    def __init__(self, engine: Engine, home: Path, **settings: Any) -> None:
        self.engine = engine
        self.principal: Principal | None = None
        url = engine.url.render_as_string(hide_password=False)
        settings = {f"rate_limit_{name}": "" for name in CLASSES} | settings  # only tests of limits meet them
        self.settings = Settings(home=home, secret_key="test-" + "k" * 40, **settings)
        self.app = create_app(self.settings, url=url, authenticate=self._authenticate)
        self.app.config[CHECK_ANSWERS] = True
        self.contract = Contract(self.app)
        self.app.testing = False  # errors become answers, as in production
        self.client: FlaskClient = self.app.test_client()
        self.act_as(Role.ADMIN)

    def _authenticate(self, _request: Request) -> Principal | None:
        return self.principal

    def close(self) -> None:
        web_of(self.app).close()
        self.contract.check()

    def act_as(self, role: Role | None, *, workspace: str = "default", **keys: Any) -> None:
        """Be somebody with this role in a workspace, which is made when it does not exist."""
        with self.engine.begin() as connection:
            connection.execute(
                text("INSERT INTO workspace (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": workspace}
            )
            connection.execute(
                text(
                    "INSERT INTO pool (workspace_id, name, slots) SELECT id, 'default', 128 FROM workspace ON CONFLICT DO NOTHING"
                )
            )
            number = connection.scalar(text("SELECT id FROM workspace WHERE name = :name"), {"name": workspace})
        self.principal = Principal("user", "1", ACTOR, number, workspace, role, **keys)

    def act_as_nobody(self) -> None:
        """Send no credentials."""
        self.principal = None

    def call(self, method: str, path: str, body: Any = None, *, expect: int = 200, **keys: Any) -> TestResponse:
        """One request; its answer has the expected status, and an error is a problem document."""
        if body is not None:
            keys["json"] = body
        response = self.client.open(PREFIX + path if path.startswith("/") else path, method=method, **keys)
        assert response.status_code == expect, response.get_data(as_text=True)
        if expect >= 400:
            assert response.content_type == MEDIA_TYPE
            assert ProblemDocument.model_validate_json(response.get_data()).status == expect
        return response

    def get(self, path: str, *, expect: int = 200, **keys: Any) -> Any:
        return self.call("GET", path, expect=expect, **keys).get_json(silent=True)

    def post(self, path: str, body: Any = None, *, expect: int = 200, **keys: Any) -> Any:
        return self.call("POST", path, body, expect=expect, **keys).get_json(silent=True)

    def put(self, path: str, body: Any = None, *, expect: int = 200, **keys: Any) -> Any:
        return self.call("PUT", path, body, expect=expect, **keys).get_json(silent=True)

    def patch(self, path: str, body: Any = None, *, expect: int = 200, **keys: Any) -> Any:
        return self.call("PATCH", path, body, expect=expect, **keys).get_json(silent=True)

    def delete(self, path: str, *, expect: int = 204, **keys: Any) -> Any:
        return self.call("DELETE", path, expect=expect, **keys).get_json(silent=True)
