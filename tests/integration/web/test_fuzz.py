"""Requests made from the OpenAPI document: no 5xx, and every answer is what the document says.

Each operation gets some addresses made up and some that lead to things which are there.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agentflow.access.users import create_user
from agentflow.db.engine import transact
from executors.stub import succeed

#: Requests per operation and kind of address; AGENTFLOW_FUZZ=200 looks longer.
EXAMPLES = int(os.environ.get("AGENTFLOW_FUZZ", "4"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def known(web, kit):
    """Values of path parameters that lead somewhere; the caller is a user that there is."""
    ada = transact(web.engine, lambda c: create_user(c, "ada@example.org", actor="test"))
    web.principal = replace(web.principal, id=str(ada["id"]))
    kit.apply({"a": {}, "b": {"needs": ["a"]}}, params={"n": {"type": "integer", "default": 1}})
    kit.stub.script("a", succeed({"rows": [1]}))
    run = kit.run()
    web.put("/workflows/flow/draft", {"document": {}, "base_version": 1})
    for kind, body in (
        ("pools", {"slots": 1}),
        ("variables", {"value": 1}),
        ("secrets", {"value": "x"}),
        ("connections", {"type": "http"}),
    ):
        web.put(f"/{kind}/flow", body, expect=201)
    return {"name": "flow", "id": run, "node": "a", "version": 1, "attempt": 1}


@pytest.mark.timeout(900)
def test_every_operation(web, known):
    web.app.config["AGENTFLOW_CHECK_ANSWERS"] = False  # checked here, from outside
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", web.app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 40
    failures = []
    for operation in sorted(operations, key=lambda operation: operation.method == "delete"):
        for path_parameters in (None, known):
            try:
                ask(operation, path_parameters)
            except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - all of them are told at once
                failures.append(f"{operation.method.upper()} {operation.path}: {error}")
    assert not failures, "\n\n".join(failures)


def ask(operation, known):
    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def one(case):
        if known is not None and case.path_parameters:
            case.path_parameters.update({name: known[name] for name in case.path_parameters if name in known})
        case.call_and_validate(checks=CHECKS, headers={"Accept-Encoding": "identity"})

    one()
