"""The OpenAPI document: whole, valid, and true to what every operation asks and answers."""

from __future__ import annotations

import pytest
from openapi_spec_validator import validate

from agentflow.access import Role

METHODS = {"get", "put", "post", "patch", "delete"}
ACCESS = {role.value for role in Role} | {"public", "signed-in", "instance-admin"}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    from agentflow.settings import Settings
    from webserver.app import create_app

    settings = Settings(home=tmp_path_factory.mktemp("home"), secret_key="k" * 40)
    app = create_app(settings, url="postgresql+psycopg://nobody@127.0.0.1:1/nothing")  # nothing connects
    return app.test_client().get("/api/v1/openapi.json").get_json()


@pytest.fixture(scope="module")
def operations(document):
    return {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def test_it_is_valid_openapi(document):
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_every_operation_says_who_may_call_it(operations):
    wrong = [name for name, operation in operations.items() if operation.get("x-agentflow-access") not in ACCESS]
    assert wrong == []


def test_every_change_needs_more_than_a_viewer(operations):
    """Reads may be anybody's; what is no read names a role, or says why it needs none."""
    open_to_all = {
        name
        for name, operation in operations.items()
        if not name.startswith("GET ") and operation["x-agentflow-access"] in {"public", "viewer", "signed-in"}
    }
    harmless = {"POST /api/v1/workflows/validate", "POST /api/v1/hooks/{token}"}
    assert {name for name in open_to_all if "/auth/" not in name} <= harmless


def test_every_operation_has_a_name_and_a_summary(operations):
    names = [operation["operationId"] for operation in operations.values()]
    assert len(names) == len(set(names))
    assert all(operation["summary"] for operation in operations.values())


def test_every_failure_is_a_problem_document(operations):
    for name, operation in operations.items():
        failures = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {"422", "429", "500", "503"} <= failures.keys(), name
        for status, answer in failures.items():
            schema = answer["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ProblemDocument"}, (name, status)


def test_refusals_follow_from_what_an_operation_asks_for(operations):
    """Contract, in every other test of the web server, sees to it that none is missing; here none is made up."""
    for name, operation in operations.items():
        told = operation["responses"].keys()
        public = operation["x-agentflow-access"] == "public"
        assert public or {"401", "403", "404"} <= told, name
        assert ("requestBody" in operation) == ({"400", "413", "415"} <= told), name
        assert "405" not in told, name
    changes = {name for name, operation in operations.items() if "412" in operation["responses"]}
    assert changes == {
        "PUT /api/v1/workflows/{name}",
        "PATCH /api/v1/workflows/{name}",
        "DELETE /api/v1/workflows/{name}",
        "PUT /api/v1/workflows/{name}/draft",
        "DELETE /api/v1/workflows/{name}/draft",
        "POST /api/v1/workflows/{name}/publish",
    }


def test_every_operation_names_the_credentials_and_headers_it_takes(document, operations):
    assert document["components"]["securitySchemes"].keys() == {"token", "api-key", "session", "csrf"}
    for name, operation in operations.items():
        browser = {"session": []} if name.startswith("GET ") else {"session": [], "csrf": []}
        public = operation["x-agentflow-access"] == "public"
        assert operation.get("security", []) == ([] if public else [{"token": []}, {"api-key": []}, browser]), name
        headers = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "header"}
        assert ("X-Workspace" in headers) != public, name
        assert ("If-Match" in headers) == ("412" in operation["responses"]), name
    takes_keys = {
        name for name, operation in operations.items() if "Idempotency-Key" in str(operation.get("parameters"))
    }
    assert takes_keys == {"POST /api/v1/workflows/{name}/runs", "POST /api/v1/workflows/{name}/backfills"}


def test_every_operation_tells_people_what_it_needs(operations):
    sentences = {
        "public": "Needs no login.",
        "signed-in": "Needs a login.",
        "instance-admin": "Needs an administrator of the instance.",
    } | {role.value: f"Needs the role {role.value} in the workspace, or a higher one." for role in Role}
    for name, operation in operations.items():
        assert operation["description"].endswith(sentences[operation["x-agentflow-access"]]), name


def test_every_success_is_described(operations):
    for name, operation in operations.items():
        successes = [answer for status, answer in operation["responses"].items() if status < "400"]
        assert successes, name
        for status, answer in operation["responses"].items():
            if status in {"200", "201"}:
                assert answer.get("content"), (name, status)


def test_every_list_has_pages(operations):
    """Whatever answers `items` takes a limit and a cursor, unless its length has a bound of its own."""
    bounded = {
        "list_node_types",  # what is installed
        "list_sessions",  # of the caller
        "list_dependencies",
        "get_logs",  # ranges by line
        "act_on_runs",  # as many as were asked for
    }
    paged = {}
    for operation in operations.values():
        names = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
        paged[operation["operationId"]] = {"limit", "cursor"} <= names
    lists = {name for name in paged if name.startswith("list_")}
    assert {name for name in lists if not paged[name]} <= bounded


def test_bodies_and_query_strings_know_their_fields(document, operations):
    for name, operation in operations.items():
        content = operation.get("requestBody", {}).get("content", {})
        for media in content.values():
            schema = media["schema"]
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            # Checked by the spec's own reader, and against the params of the workflow.
            free = "WorkflowDocument" in str(media["schema"]) or "/hooks/" in name
            assert free or schema.get("additionalProperties") is False, name
