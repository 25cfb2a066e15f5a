"""Compares every answer that a test gets with what the OpenAPI document says may be answered there."""

from __future__ import annotations

import re

from flask import Flask, Response, request

from webserver.resource import PREFIX


class Contract:
    """Watches an app, before its first request."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._broken: set[str] = set()
        app.after_request(self._look)

    def _look(self, response: Response) -> Response:
        rule = request.url_rule.rule if request.url_rule is not None else ""
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)
        operation = self._app.api_doc["paths"].get(path, {}).get(request.method.lower())  # type: ignore[attr-defined]
        told = str(response.status_code)
        if rule.startswith(PREFIX) and operation is not None and told not in operation["responses"]:
            words = response.get_data(as_text=True)[:200] if not response.direct_passthrough else ""
            self._broken.add(f"{request.method} {path} answers {told}: {words}")
        return response

    def check(self) -> None:
        """Tell what was answered and is not in the document."""
        assert not self._broken, "\n".join(sorted(self._broken))
