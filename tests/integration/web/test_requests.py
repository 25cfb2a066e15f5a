"""What is the same for every request: access, errors, sizes, types, compression, the OpenAPI document."""

from __future__ import annotations

import gzip
import io
import json

import pytest
from flask import Flask

from agentflow.access import Role
from agentflow.catalog import apply_spec
from agentflow.cursors import write_cursor
from agentflow.db.engine import transact
from agentflow.errors import AgentFlowError
from agentflow.spec import parse_document
from webserver.access import Access, authorise, public, require_marks, requires
from webserver.arguments import Body
from webserver.body import parse_json
from webserver.errors import Forbidden, InvalidRequest, MalformedJson, Unauthenticated, WebError
from webserver.problems import STATUS, status_of
from webserver.resource import Resource


class Echo(Body):
    text: str = ""
    numbers: tuple[int, ...] = ()


echo = Resource("echo", "Gives back what it got.")


@echo.post("/echo", responses={200: None})
@requires(Role.OPERATOR)
def echo_back(body: Echo):
    return {"text": body.text}


@echo.post("/fails", responses={200: None})
@public
def fails():
    raise RuntimeError("the reason is nobody's business")


@pytest.fixture
def web(web):
    web.app.config["AGENTFLOW_CHECK_ANSWERS"] = False
    web.app.register_api(echo)
    return web


# -- access ------------------------------------------------------------------------------------------------------------


def test_nobody_gets_401_before_the_body_is_read(web):
    web.act_as_nobody()
    answer = web.call("POST", "/echo", {"unknown": 1}, expect=401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json["type"] == "urn:agentflow:problem:unauthenticated"


def test_a_lower_role_gets_403_before_the_body_is_read(web):
    web.act_as(Role.VIEWER)
    problem = web.post("/echo", {"unknown": 1}, expect=403)
    assert problem["detail"] == "This needs the role operator; you have the role viewer in the workspace 'default'."


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.EDITOR, Role.ADMIN])
def test_the_role_and_higher_ones_pass(web, role):
    web.act_as(role)
    assert web.post("/echo", {"text": "hi"}) == {"text": "hi"}


def test_somebody_without_a_role_here_gets_403(web):
    web.act_as(None)
    assert "no role" in web.post("/echo", {}, expect=403)["detail"]


def test_administering_the_instance_is_no_role_of_a_workspace(web):
    web.act_as(Role.ADMIN)
    with pytest.raises(Forbidden):
        authorise(Access(instance_admin=True), web.principal)
    web.act_as(None, instance_admin=True)
    authorise(Access(instance_admin=True), web.principal)


def test_whoever_is_signed_in_may_do_what_needs_no_role(web):
    web.act_as(None)
    authorise(Access(), web.principal)
    with pytest.raises(Unauthenticated):
        authorise(Access(), None)


def test_an_app_with_an_unmarked_endpoint_does_not_start():
    app = Flask("test", static_folder=None)
    app.add_url_rule("/open", "forgotten", lambda: "")
    with pytest.raises(RuntimeError, match="forgotten"):
        require_marks(app)


def test_an_unmarked_operation_is_refused_where_it_is_written():
    with pytest.raises(RuntimeError, match="neither @requires nor @public"):

        @Resource("broken", "").get("/x", responses={200: None})
        def forgotten():
            return {}


# -- errors ------------------------------------------------------------------------------------------------------------


def test_unknown_addresses_and_methods(web):
    assert web.get("/nothing", expect=404)["type"] == "urn:agentflow:problem:not-found"
    answer = web.call("PUT", "/echo", {}, expect=405)
    assert answer.json["type"] == "urn:agentflow:problem:method-not-allowed"
    assert set(answer.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}


def test_a_defect_tells_nothing_of_itself(web, caplog):
    problem = web.post("/fails", expect=500)
    assert problem["type"] == "urn:agentflow:problem:internal"
    assert "nobody's business" not in json.dumps(problem)
    assert "nobody's business" in caplog.text


def test_every_mistake_is_told_with_its_place(web):
    problem = web.post("/echo?x=1&x=2&y=1", {"numbers": [1, "two"], "other": 1}, expect=422)
    assert problem["type"] == "urn:agentflow:problem:invalid-request"
    assert [(error["path"], error["message"]) for error in problem["errors"]] == [
        ("query.x", "is given more than once"),
        ("query.y", "is not known here"),
        ("body.numbers[1]", "Input should be a valid integer, unable to parse string as an integer"),
        ("body.other", "is not known here"),
    ]


def _errors(kind=AgentFlowError):
    for child in kind.__subclasses__():
        if child.__module__.startswith(("agentflow.", "webserver.")) and "agentflow.cli" not in child.__module__:
            yield child
            yield from _errors(child)


#: Defects of the installation, not of a request.
OURS = {"settings", "secret-missing", "secret-unreadable", "bundle-damaged", "file-not-readable", "workflow-body"}
#: What only the command line meets, as a client, or an attempt.
OURS |= {"api", "api-unreachable", "archive-incomplete", "connection-missing"}


@pytest.mark.parametrize("kind", sorted(set(_errors()), key=lambda kind: kind.__name__))
def test_every_error_has_a_status(kind):
    assert issubclass(kind, WebError) or kind.word in STATUS or kind.word in OURS
    assert issubclass(kind, WebError) == ("status" in dir(kind))


def test_an_error_without_a_line_in_the_table_is_the_servers():
    assert status_of(AgentFlowError()) == 500


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_other_types_than_json_are_refused(web):
    web.call("POST", "/echo", data="text=1", content_type="application/x-www-form-urlencoded", expect=415)
    web.call("POST", "/echo", data="{}", content_type="text/plain", expect=415)


def test_a_body_may_be_left_out_when_all_of_it_is_optional(web):
    assert web.post("/echo") == {"text": ""}


@pytest.mark.parametrize(("size", "status"), [(800, 200), (1000, 413), (5000, 413)])
def test_bodies_that_come_in_chunks_are_no_larger(web, size, status):
    """They do not say their length beforehand."""
    web.app.config["MAX_CONTENT_LENGTH"] = 1000
    body = io.BytesIO(json.dumps({"text": "x" * size}).encode())
    environ = {"wsgi.input": body, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    web.call("POST", "/echo", environ_overrides=environ, content_type="application/json", expect=status)


def test_large_bodies_are_refused(web):
    web.app.config["MAX_CONTENT_LENGTH"] = 1000
    problem = web.call("POST", "/echo", {"text": "x" * 1000}, expect=413).json
    assert problem["hint"] == "at most 1000 bytes"


@pytest.mark.parametrize(
    "data",
    [b"{", b"[1", b'{"a": NaN}', b"\xff", b"{} {}", b"1" * 400, b"[" * 100_000, b'{"a":' * 70 + b"1" + b"}" * 70],
)
def test_what_is_not_json_or_too_deep_is_refused(data):
    with pytest.raises(MalformedJson):
        parse_json(data)


@pytest.mark.parametrize("data", [rb'"\u0000"', rb'["\ud800"]', rb'{"\u0000": 1}'])
def test_text_that_cannot_be_stored_is_refused(data):
    with pytest.raises(InvalidRequest):
        parse_json(data)


def test_text_of_all_languages_passes():
    assert parse_json('{"ж": ["日本", "😀"]}'.encode()) == {"ж": ["日本", "😀"]}
    assert parse_json(rb'"\ud83d\ude00"') == "😀"


def test_a_nul_in_the_address_is_refused(web):
    problem = web.get("/workflows?search=%00", expect=422)
    assert problem["errors"][0]["path"] == "query.search"


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cursor", ["x", "", "WzEsMl0", "e30", write_cursor("runs", "a"), write_cursor("workflows", "\0"), "a" * 1001, "ä"]
)
def test_cursors_that_are_not_ours_are_refused(web, cursor):
    web.get("/workflows", query_string={"cursor": cursor}, expect=422)


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "1.5"])
def test_limits_of_a_page(web, limit):
    assert web.get(f"/workflows?limit={limit}", expect=422)["errors"][0]["path"] == "query.limit"


# -- compression -------------------------------------------------------------------------------------------------------


def test_answers_are_compressed_for_clients_that_take_it(web):
    for number in range(20):
        spec = parse_document({"name": f"flow-{number}", "nodes": {"a": {"type": "noop"}}})
        transact(web.engine, lambda c, spec=spec: apply_spec(c, spec, source="api", actor="test"))
    plain = web.call("GET", "/workflows")
    packed = web.call("GET", "/workflows", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    refused = web.call("GET", "/workflows", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers


# -- documentation -----------------------------------------------------------------------------------------------------


def test_the_openapi_document_is_public_and_cached(web):
    web.act_as_nobody()
    first = web.call("GET", "/openapi.json")
    assert first.json["openapi"] == "3.1.0"
    assert "/api/v1/workflows" in first.json["paths"]
    again = web.client.get("/api/v1/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_the_docs_page_needs_nobody_and_no_other_server(web):
    web.act_as_nobody()
    page = web.client.get("/api/docs").text
    assert "http" not in page.replace("http-equiv", "")
    assert web.client.get("/api/docs/start.js").status_code == 200
    for asset in ("js/swagger-ui-bundle.js", "css/swagger-ui.css"):
        with web.client.get(f"/api/docs/assets/{asset}") as answer:
            assert answer.status_code == 200
    assert web.client.get("/api/docs/assets/../__init__.py").status_code == 404
    assert web.client.get("/api/docs/assets/%2e%2e/__init__.py").status_code == 404
