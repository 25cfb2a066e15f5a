"""`/healthz` and `/readyz` for machines, `/` for people until there are pages."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response, jsonify

from agentflow.health import Check
from agentflow.readiness import readiness
from webserver.access import public
from webserver.ops.plain import plain_page
from webserver.state import current_web

CACHED = 1.0  #: Seconds that an answer is kept: probes must not become a load.

blueprint = Blueprint("health", __name__)


class Readiness:
    """The checks, asked by one request at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._answer: tuple[float, Sequence[Check]] | None = None

    def checks(self) -> Sequence[Check]:
        """At most CACHED seconds old."""
        with self._lock:
            if self._answer is None or time.monotonic() - self._answer[0] > CACHED:
                self._answer = (time.monotonic(), readiness(self._url))
            return self._answer[1]


def _checks() -> Sequence[Check]:
    web = current_web()
    found = web.parts.setdefault(__name__, Readiness(web.url))
    assert isinstance(found, Readiness)
    return found.checks()


@blueprint.get("/healthz")
@public
def healthz() -> dict[str, str]:
    """Whether this process lives; asks nobody else."""
    return {"status": "alive"}


@blueprint.get("/readyz")
@public
def readyz() -> tuple[Response, int]:
    """Whether the system can run workflows: database, migrations, a scheduler alive."""
    checks = _checks()
    ready = all(check.ok for check in checks)
    document: dict[str, Any] = {
        "status": "ready" if ready else "not ready",
        "checks": [asdict(check) for check in checks],
    }
    return jsonify(document), 200 if ready else 503


@blueprint.get("/")
@public
def page() -> Response:
    """A status page."""
    checks = _checks()
    rows = "".join(
        f"<li>{'✓' if check.ok else '✗'} {html.escape(check.name)} <small>{html.escape(check.detail)}</small></li>"
        for check in checks
    )
    ready = all(check.ok for check in checks)
    body = (
        f"<ul>{rows}</ul><p>The pages are not built yet. There are the "
        '<a href="/api/docs">API</a> (<a href="/login">log in</a> to try it) and the command line: '
        "<code>agentflow --help</code>.</p>"
        f"<p><small>Version {html.escape(version('agentflow'))}</small></p>"
    )
    title = f"AgentFlow is {'ready' if ready else 'not ready'}"
    return plain_page(title, body, refresh=None if ready else 5)
