"""Asks a web server."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from agentflow.nodes.base import AsyncNodeType, NodeConfig, NodeContext
from agentflow.nodes.fields import Duration, ScalarText

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SET_BY_US: Final = frozenset({"content-length", "transfer-encoding", "connection"})
_RANGE: Final = re.compile(r"([1-9]\d\d)(?:\s*-\s*([1-9]\d\d))?")


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a whole address that begins with http:// or https://")
    return url


def _header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("is not a name of an HTTP header")
    if name.lower() in _SET_BY_US:
        raise ValueError("is set by AgentFlow; leave it out")
    return name


def _header_value(value: str) -> str:
    if any(ord(character) < ord(" ") and character != "\t" for character in value):
        raise ValueError("contains a line break or another control character")
    return value


def _statuses(value: object) -> str:
    text = str(value)
    match = _RANGE.fullmatch(text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise ValueError("must be a status such as 404 or a range such as 200-399")
    return text


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be longer than 0")
    return value


#: `404` or `200-399`.
Statuses = Annotated[str, BeforeValidator(_statuses), WithJsonSchema({"type": ["string", "integer"]})]

#: One value or a list of them, always read as a list.
QueryValues = Annotated[
    tuple[ScalarText, ...],
    BeforeValidator(_listed),
    WithJsonSchema({"type": ["string", "number", "boolean", "array"]}),
]


class HttpConfig(NodeConfig):
    """Config of `http`."""

    method: Annotated[Method, BeforeValidator(_upper)] = Field("GET", description="HTTP method")
    url: Annotated[str, AfterValidator(_web_address)] = Field(description="Address, http:// or https://")
    headers: dict[
        Annotated[str, AfterValidator(_header_name)], Annotated[ScalarText, AfterValidator(_header_value)]
    ] = Field(default_factory=dict, description="Request headers; the place for tokens")
    query: dict[str, QueryValues] = Field(
        default_factory=dict, description="Added to the address; a list repeats its name"
    )
    json_: Any = Field(None, alias="json", description="Body, sent as JSON")
    body: ScalarText | None = Field(None, description="Body, sent as it is")
    timeout: Annotated[Duration, AfterValidator(_positive)] = Field(
        timedelta(seconds=30), description="For the whole exchange, redirects and body included"
    )
    expect: tuple[Statuses, ...] = Field(("200-399",), description="Statuses that count as success", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_body(cls, given: Any) -> Any:
        if isinstance(given, dict) and "json" in given and "body" in given:
            raise ValueError("give `json` or `body`, not both")
        return given

    @property
    def sends_json(self) -> bool:
        """Whether `json` was given; null counts."""
        return "json_" in self.model_fields_set

    def accepts(self, status: int) -> bool:
        """Whether a status counts as success."""
        for statuses in self.expect:
            low, _, high = statuses.partition("-")
            if int(low) <= status <= int(high or low):
                return True
        return False


class HttpNode(AsyncNodeType[HttpConfig]):
    """One exchange with a server, redirects followed."""

    name = "http"
    title = "HTTP request"
    description = "Sends a request and returns status, headers and body; a JSON body is parsed."
    Config = HttpConfig

    async def arun(self, config: HttpConfig, context: NodeContext) -> dict[str, Any]:
        """`{status, headers, body}`; with `encoding: base64` when the body is neither JSON nor text."""
        from agentflow.nodes.http_exchange import exchange  # httpx is slow to import, and only this type needs it

        return await exchange(config, context)

    async def aclose(self) -> None:
        """Close the connections that this event loop keeps."""
        from agentflow.nodes.http_client import close_clients

        await close_clients()
