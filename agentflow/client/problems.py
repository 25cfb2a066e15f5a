"""Problem documents (RFC 9457) back into the errors they were made from: word, message, hint and exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentflow import errors
from agentflow.errors import (
    AgentFlowError,
    ApiError,
    ApiUnreachable,
    ParamError,
    Problem,
    SpecError,
    StaleVersion,
    UsageError,
)

PREFIX = "urn:agentflow:problem:"
#: What a caller can do about a status that says no more.
_HINTS = {
    401: "set AGENTFLOW_API_KEY to a key that is good; an admin of the workspace makes them",
    403: "ask an admin of the workspace for a role, or for a key with more scopes",
}
_BY_WORD = {
    found.word: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, AgentFlowError)
}
_BY_WORD["invalid-request"] = UsageError
_AWAY = frozenset({"unavailable", "service-unavailable", "bad-gateway", "gateway-timeout"})


def error_of(status: int, content: bytes, *, asked: str) -> AgentFlowError:
    """The error that an answer tells of.

    Args:
        status: Of the answer, 400 or above, or a redirect.
        content: Its body, which should be a problem document.
        asked: The address, for the message when it is not.
    """
    document = _document(content)
    if document is None:
        return _foreign(status, asked)
    word = str(document.get("type", "")).removeprefix(PREFIX)
    detail = str(document.get("detail") or document.get("title") or f"The answer is {status}.")
    hint = _HINTS[401] if status == 401 else document.get("hint") or _HINTS.get(status)
    if word in _AWAY:
        return ApiUnreachable(detail, hint=hint)
    made = _special(word, document)
    if made is not None:
        return made
    kind = _BY_WORD.get(word)
    if kind is None:
        return ApiError(detail, hint=hint, status=status, problem=word, title=document.get("title"))
    error = AgentFlowError.__new__(kind)
    AgentFlowError.__init__(error, detail, hint=hint)
    return error


def _special(word: str, document: Mapping[str, Any]) -> AgentFlowError | None:
    """Errors that are made of more than a message."""
    problems = [_problem(item) for item in document.get("errors") or ()]
    if word == ParamError.word:
        return ParamError(problems)
    if word == SpecError.word and problems:
        return SpecError(problems, file=document.get("file"))
    if word == StaleVersion.word:
        return StaleVersion.told(
            str(document.get("detail")),
            hint=document.get("hint"),
            current=int(document.get("current_version") or 0),
            changes=document.get("changes"),
        )
    return None


def _problem(item: Mapping[str, Any]) -> Problem:
    return Problem(
        str(item.get("message")),
        str(item.get("path") or ""),
        line=item.get("line"),
        column=item.get("column"),
        hint=item.get("hint"),
    )


def _document(content: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) and str(found.get("type", "")).startswith(PREFIX) else None


def _foreign(status: int, asked: str) -> AgentFlowError:
    """What answers is no AgentFlow, or a proxy in front of it."""
    text = f"{asked} answers {status}, and not as AgentFlow does."
    if status >= 500:
        return ApiUnreachable(text, hint="the server, or a proxy before it, is out of order: try again in a moment")
    return ApiError(text, hint="is AGENTFLOW_API_URL the address of an AgentFlow webserver?", status=status)
