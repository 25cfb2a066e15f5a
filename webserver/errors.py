"""Errors that only a request can meet; the rest of the tree is in `agentflow.errors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from agentflow.errors import AgentFlowError, Problem


class WebError(AgentFlowError):
    """The request cannot be answered."""

    status: ClassVar[int] = 400
    headers: Mapping[str, str] = {}


class MalformedJson(WebError):
    """The body is not JSON."""

    word = "malformed-json"
    status = 400


class Unauthenticated(WebError):
    """The request does not say who it is from."""

    word = "unauthenticated"
    status = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class Forbidden(WebError):
    """This needs more rights."""

    word = "forbidden"
    status = 403


class TooLarge(WebError):
    """The body is too large."""

    word = "too-large"
    status = 413


class UnsupportedMediaType(WebError):
    """The body has a type that is not read here."""

    word = "unsupported-media-type"
    status = 415


class InvalidRequest(WebError):
    """The request is not valid."""

    word = "invalid-request"
    status = 422

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{problem.path}: {problem.message}" for problem in problems[:5]))

    @classmethod
    def at(cls, path: str, message: str) -> Self:
        """The error for one place."""
        return cls([Problem(message, path)])

    def as_document(self) -> dict[str, Any]:
        """With every wrong field."""
        return super().as_document() | {"errors": [problem.as_document() for problem in self.problems]}


class IdempotencyKeyReused(WebError):
    """The idempotency key was used for another request."""

    word = "idempotency-key-reused"
    status = 422


class TooManyRequests(WebError):
    """Too many requests."""

    word = "rate-limited"
    status = 429


class Unavailable(WebError):
    """The server cannot answer now."""

    word = "unavailable"
    status = 503
    headers: Mapping[str, str] = {"Retry-After": "2"}
