"""`X-Request-Id`: taken over from the caller if it is sane, else made; goes into logs, runs and the answer."""

from __future__ import annotations

from flask import Flask, Response, request

from agentflow import correlation

HEADER = "X-Request-Id"


def init_request_ids(app: Flask) -> None:
    """Must come before every other part: their log lines carry the id."""

    @app.before_request
    def begin() -> None:
        correlation.bind(correlation.accepted(request.headers.get(HEADER)))

    @app.after_request
    def tell(response: Response) -> Response:
        response.headers[HEADER] = correlation.current() or correlation.accepted(None)
        return response

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        correlation.bind(None)  # whatever this thread or greenlet does next is not for that request
