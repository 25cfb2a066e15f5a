"""From a request to the arguments of a view: `path`, `query` and `body` models, every mistake told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_origin

from flask import Request
from flask_openapi3.models import RawModel
from pydantic import BaseModel, ConfigDict, ValidationError

from agentflow.errors import NotFound, Problem
from webserver.body import read_json, storable
from webserver.errors import InvalidRequest


class Query(BaseModel):
    """Base of query strings: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Path(BaseModel):
    """Base of what an address names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Body(BaseModel):
    """Base of JSON bodies: what is not known is refused; a body whose fields are all optional may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Tell OpenAPI whether the body must be there."""
        super().__pydantic_init_subclass__(**kwargs)
        needed = any(field.is_required() for field in cls.model_fields.values())
        cls.model_config["openapi_extra"] = {"required": needed}  # type: ignore[typeddict-unknown-key]


class Arguments:
    """Reads what a view asks for."""

    def __init__(
        self,
        path: type[BaseModel] | None,
        query: type[BaseModel] | None,
        body: type[BaseModel] | None,
        raw: type[RawModel] | None = None,
    ) -> None:
        """`raw`: the view reads the body by itself."""
        self._raw = raw
        self.path, self.query, self.body = path, query or Query, body
        self._asked = query is not None
        self._lists = {
            name
            for name, field in self.query.model_fields.items()
            if get_origin(field.annotation) in (list, tuple, set, frozenset)
        }

    def read(self, request: Request, path_values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call.

        Raises:
            NotFound: The address names something that cannot exist.
            InvalidRequest: Query or body are not valid; the error names every field.
            WebError: The body cannot be read.
        """
        found: dict[str, Any] = {}
        if self.path is not None:
            found["path"] = self._read_path(path_values)
        problems: list[Problem] = []
        query = self._read_query(request, problems)
        if self._asked:
            found["query"] = query
        if self._raw is not None:
            found["raw"] = request
            return self._checked(found, problems)
        body = read_json(request)
        if self.body is not None:
            found["body"] = _validate(self.body, {} if body is None else body, "body", problems)
        elif body not in (None, {}):
            problems.append(Problem("this takes no body", "body"))
        return self._checked(found, problems)

    @staticmethod
    def _checked(found: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
        if problems:
            raise InvalidRequest(problems)
        return found

    def _read_path(self, values: Mapping[str, Any]) -> BaseModel:
        assert self.path is not None
        try:
            if not all(storable(value) for value in values.values() if isinstance(value, str)):
                raise NotFound("No name has a NUL character.")
            return self.path.model_validate(dict(values))
        except ValidationError as error:
            raise NotFound(f"There is nothing of this name: {error.errors()[0]['msg']}.") from error

    def _read_query(self, request: Request, problems: list[Problem]) -> BaseModel | None:
        values: dict[str, Any] = {}
        for name, given in request.args.lists():
            if not all(storable(text) for text in (name, *given)):
                problems.append(Problem("holds a NUL character", f"query.{name}".replace("\0", "")))
            elif name in self._lists:
                values[name] = given
            elif len(given) > 1:
                problems.append(Problem("is given more than once", f"query.{name}"))
            else:
                values[name] = given[0]
        return _validate(self.query, values, "query", problems)


def _validate(model: type[BaseModel], values: Any, part: str, problems: list[Problem]) -> BaseModel | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems.extend(
            Problem(_words(item["msg"], item["type"]), _place(part, item["loc"]))
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
        return None


def _words(message: str, kind: str) -> str:
    if kind == "extra_forbidden":
        return "is not known here"
    if kind == "missing":
        return "is missing"
    return message.removeprefix("Value error, ")


def _place(part: str, location: tuple[int | str, ...]) -> str:
    path = part
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path
