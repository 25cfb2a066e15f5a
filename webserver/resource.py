"""A blueprint of the API: its operations say in one place what they take, answer and ask of the caller.

`responses` of a view are its successes with their models, and the refusals that are its use case's own, as in
`{200: Applied, 409: None}`; the document adds those that follow from what the view asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import current_app, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from flask_openapi3.utils import parse_rule
from pydantic import BaseModel

from webserver.access import access_of
from webserver.arguments import Arguments
from webserver.operation import describe, headers, refusals, security
from webserver.problems import responses as problem_responses

PREFIX = "/api/v1"
ONCE = "x-agentflow-once"  #: The operation takes an Idempotency-Key.
CHECK_ANSWERS = "AGENTFLOW_CHECK_ANSWERS"  #: In tests: an answer that its schema does not allow is an error.


def _operation_id(*, name: str, path: str, method: str) -> str:  # noqa: ARG001 - named so by the library
    return name


class Resource(APIBlueprint):
    """The operations on one kind of thing, below `/api/v1`."""

    def __init__(self, name: str, description: str, *, part: str = "") -> None:
        """`name` is what the documentation calls it; `part` tells modules apart that share it."""
        super().__init__(
            f"{name} {part}".strip().replace(" ", "-"),
            __name__,
            url_prefix=PREFIX,
            abp_tags=[Tag(name=name, description=description)],
            operation_id_callback=_operation_id,
        )

    def _collect_openapi_info(self, rule: str, func: Callable[..., Any], **keywords: Any) -> Any:
        access = access_of(func)
        if access is None:
            raise RuntimeError(f"{func.__module__}.{func.__name__} has neither @requires nor @public")
        method = str(keywords.get("method", "GET"))
        answers = {int(status): model for status, model in (keywords["responses"] or {}).items()}
        own = [status for status in answers if status >= 400]
        told: dict[str, Any] = {str(status): model for status, model in answers.items() if status < 400}
        extensions = {"x-agentflow-access": str(access)} | (keywords["openapi_extensions"] or {})
        keywords |= {
            "openapi_extensions": extensions,
            "responses": told | problem_responses(*refusals(access, func, rule, own)),
            "security": security(access, method),
            "description": describe(access, func),
        }
        found = super()._collect_openapi_info(rule, func, **keywords)
        operation = getattr(self.paths[parse_rule(rule, url_prefix=self.url_prefix)], method.lower())
        if asked := headers(access, own, once=extensions.get(ONCE, False)):
            operation.parameters = [*(operation.parameters or ()), *asked]
        return found

    @staticmethod
    def create_view_func(  # type: ignore[no-untyped-def]
        func: Callable[..., Any],
        _header,  # noqa: ANN001
        _cookie,  # noqa: ANN001
        path: type[BaseModel] | None,
        query: type[BaseModel] | None,
        _form,  # noqa: ANN001
        body: type[BaseModel] | None,
        raw,  # noqa: ANN001
        view_class: object = None,  # noqa: ARG004
        view_kwargs: object = None,  # noqa: ARG004
        responses: Any = None,
        validate_response: bool | None = None,  # noqa: ARG004
    ) -> Callable[..., Any]:
        """Read the arguments our way: bounded, with field paths, unknown names refused."""
        arguments = Arguments(path, query, body, raw)

        @wraps(func)
        def view(**path_values: Any) -> Any:
            answer = func(**arguments.read(request, path_values))
            if current_app.config.get(CHECK_ANSWERS):
                _check_answer(answer, responses or {})
            return answer

        func.view = view  # type: ignore[attr-defined]
        return view


def _check_answer(answer: Any, models: dict[Any, Any]) -> None:
    response = current_app.make_response(answer)
    model = {int(status): model for status, model in models.items()}[response.status_code]
    if isinstance(model, type) and issubclass(model, BaseModel):
        model.model_validate_json(response.get_data())
    elif model is None and response.status_code != 304 and response.get_data():
        raise AssertionError(f"{request.endpoint} answers {response.status_code} with a body")
