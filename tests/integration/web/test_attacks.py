"""Tried and refused: what attackers send. Each test says what would have happened."""

from __future__ import annotations

import itertools
import json
import zlib
from urllib.parse import quote

import pytest
from sqlalchemy import text

from agentflow.access import Role
from agentflow.catalog import apply_spec
from agentflow.runs import create_run
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy
from executors.stub import fail, succeed
from tests.auth_kit import OTHER, PASSWORD
from tests.engine_kit import Kit
from webserver.access import access_of

ADA, EVE = "ada@example.org", "eve@example.org"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
SQL = [
    "' OR 1=1 --",
    "'; DROP TABLE run; --",
    "1) UNION SELECT password_hash FROM app_user --",
    "\\'; SELECT pg_sleep(9)--",
    "%' AND '1'='1",
]
PATHS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f",
    "....//",
    "/etc/passwd",
    "C:\\x",
    "a\x00b",
    ".git/config",
]


@pytest.fixture
def web(auth_web):
    auth_web.user(ADA, Role.ADMIN)
    auth_web.user(EVE, Role.ADMIN, workspace=OTHER)
    return auth_web


@pytest.fixture
def kit(web, tmp_path):
    """The engine beside it."""
    (tmp_path / "kit").mkdir()
    kit = Kit(web.engine, tmp_path / "kit")
    yield kit
    kit.close()


@pytest.fixture
def ada(web):
    return web.bearer(ADA)


def stored_run(web, name="flow", workspace="default", note=""):
    spec = parse_document(
        {
            "name": name,
            "title": SCRIPT,
            "params": {"q": {"type": "string", "default": SCRIPT}},
            "nodes": {"a": {"type": "noop"}},
        }
    )
    with web.engine.begin() as connection:
        apply_spec(connection, spec, source="api", actor="test", workspace=workspace)
        return create_run(
            connection, name, {}, triggered_by=TriggeredBy.API, actor="test", note=note, workspace=workspace
        )["id"]


def operations(web):
    """Operations of the API with their documents."""
    document = web.call("GET", "/openapi.json").get_json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _fill(path, value):
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + quote(value, safe="") + rest.partition("}")[2]
    return path


# -- SQL in every filter -----------------------------------------------------------------------------------------------
def test_sql_in_every_parameter_is_only_text(web, ada):
    """With text put together into statements, one of these would list others' rows, fail with 500, or drop a table."""
    stored_run(web)
    asked = 0
    for method, path, operation in operations(web):
        if method != "GET" or "text/event-stream" in json.dumps(operation):
            continue
        for parameter, attack in itertools.product(operation.get("parameters", []), SQL):
            name, where = parameter["name"], parameter["in"]
            if where == "query":
                response = web.call("GET", f"{_fill(path, 'nothing')}?{quote(name)}={quote(attack)}", ada)
            elif where == "path":
                response = web.call("GET", _fill(path, attack), ada)
            else:
                continue
            asked += 1
            assert response.status_code < 500, (path, name, attack, response.get_data(as_text=True))
            assert "argon2" not in response.get_data(as_text=True)
    assert asked > 100
    with web.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM run")) == 1


def test_sql_in_names_is_stored_as_text(web, ada):
    for attack in SQL:
        name = web.call("PUT", f"/variables/{quote(attack, safe='')}", ada, {"value": attack})
        assert name.status_code in (404, 422)
    assert web.call("PUT", "/variables/safe", ada, {"value": SQL}).status_code == 201
    assert web.call("GET", "/variables/safe", ada).get_json()["value"] == SQL


# -- templates ---------------------------------------------------------------------------------------------------------
def test_templates_in_what_people_write_are_never_rendered_here(web, ada):
    """A server that rendered them would print 54444439, or hand over its configuration."""
    attacks = [
        "{{ 7777777 * 7 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ config }}",
        "{% for x in (1).__class__ %}",
        "${7777777*7}",
        "<%= 7777777*7 %>",
    ]
    for attack in attacks:
        web.call("PUT", "/variables/t", ada, {"value": attack})
        for response in (
            web.call("GET", "/variables/t", ada),
            web.call("GET", f"/workflows/{quote(attack, safe='')}", ada),
            web.call("GET", f"/workflows?search={quote(attack)}", ada),
            web.call("GET", f"/{quote(attack)}", ada),
            web.call("POST", "/auth/login", body={"email": attack, "password": attack}),
        ):
            said = response.get_data(as_text=True)
            assert response.status_code < 500
            assert "54444439" not in said
            assert "subclasses" not in said.replace(json.dumps(attack)[1:-1], "")


REACHING = {
    "{{ ''.__class__ }}": "unsafe",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "unsafe",
    "{{ run.__class__.__init__.__globals__ }}": "__class__",
    "{{ (1) | attr('__class__') }}": "unsafe",
    "{{ range.__globals__ }}": "unsafe",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}": "cycler",
    "{{ self._TemplateReference__context }}": "self",
    "{{ params.__init__.__globals__ }}": "__init__",
}


@pytest.mark.parametrize(("attack", "word"), REACHING.items(), ids=REACHING)
def test_a_template_that_reaches_for_python_is_refused_where_it_is_checked_or_filled_in(web, kit, ada, attack, word):
    document = {"name": "x", "nodes": {"a": {"type": "template", "config": {"template": attack}}}}
    checked = web.call("POST", "/workflows/validate", ada, {"spec": document})
    assert checked.status_code == 200
    if not checked.get_json()["valid"]:
        assert word in checked.get_json()["errors"][0]["message"]
        return
    kit.apply(document["nodes"], "x")
    run = kit.run("x")
    answer = web.call("GET", f"/runs/{run}/nodes/a/config", ada).get_json()
    assert answer["rendered"] is None
    assert word in answer["problem"]


# -- scripts in what is stored -----------------------------------------------------------------------------------------
def test_stored_scripts_come_back_as_data_that_no_browser_runs(web, ada):
    run = stored_run(web, note=SCRIPT)
    assert run
    web.call("PUT", "/variables/v", ada, {"value": SCRIPT})
    for path in ("/workflows", "/workflows/flow", "/variables", "/events", f"/workflows/{quote(SCRIPT, safe='')}"):
        response = web.call("GET", path, ada)
        assert response.content_type in ("application/json", "application/problem+json")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "sandbox" in response.headers["Content-Security-Policy"]


def test_scripts_that_nodes_write_come_back_as_data_that_no_browser_runs(web, kit, ada):
    kit.apply({"a": {}})
    kit.stub.script("a", succeed({SCRIPT: SCRIPT}), fail(SCRIPT))
    good, bad = kit.run(), kit.run()
    line = zlib.compress(json.dumps([1, 0.0, "stdout", "info", SCRIPT]).encode())
    kit.sql("INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data)"
            " VALUES (:run, 0, -1, 1, 0, 1, 1, 0, :line)", run=good, line=line)  # fmt: skip
    for path in (
        f"/runs/{good}/nodes/a/output", f"/runs/{good}/nodes/a", f"/runs/{good}/nodes", f"/runs/{good}/logs",
        f"/runs/{good}/nodes/a/attempts/1/logs", f"/runs/{bad}/nodes/a/attempts", f"/runs/{bad}/nodes/a/why",
    ):  # fmt: skip
        response = web.call("GET", path, ada)
        assert response.status_code == 200
        assert "alert(1)" in response.get_data(as_text=True), path  # it is what they wrote
        assert response.content_type == "application/json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response.headers["Content-Security-Policy"]


# -- paths -------------------------------------------------------------------------------------------------------------
def test_paths_lead_to_no_file(web, ada):
    for attack in PATHS:
        for prefix in ("/workflows/", "/variables/", "/secrets/", "api/docs/assets/", ""):
            response = web.call("GET", f"{prefix}{quote(attack, safe='%/.')}", ada)
            assert response.status_code in (200, 308, 404, 405), (prefix, attack)
            assert "root:" not in response.get_data(as_text=True)
            assert response.status_code != 200 or prefix == "", (prefix, attack)


def test_an_address_is_matched_not_searched(web):
    """Ending or beginning like a public address opens nothing (CVE-2026-53576 elsewhere)."""
    for path in (
        "/workflows/healthz", "/workflows/x/../../../healthz", "/workflows;/healthz", "/workflows%2f..%2fhealthz",
        "//api/v1/workflows", "/WORKFLOWS", "/workflows/", "/workflows.json", "/workflows%00", "/auth/login/../me",
    ):  # fmt: skip
        assert web.call("GET", path).status_code in (401, 404, 405, 308), path


def test_the_method_is_the_method(web):
    stored_run(web)
    reader = web.key("read")
    for headers in ({"X-HTTP-Method-Override": "DELETE"}, {"X-Method-Override": "DELETE"}):
        assert web.call("GET", "/workflows/flow?_method=DELETE", reader | headers).status_code in (200, 422)
        assert web.call("POST", "/workflows/flow", reader | headers).status_code == 405
    assert web.call("GET", "/workflows/flow", reader).status_code == 200


# -- bodies ------------------------------------------------------------------------------------------------------------
def post(web, data, headers, content_type="application/json"):
    return web.client.post("/api/v1/api-keys", data=data, headers=headers, content_type=content_type)


def test_bodies_too_large_too_deep_or_of_another_type_are_refused(web, ada):
    big = b'{"name": "' + b"x" * (web.settings.http_body_max + 1) + b'"}'
    assert post(web, big, ada).status_code == 413
    for deep in (b"[" * 100_000, b"[" * 200 + b"]" * 200, b'{"a":' * 5000 + b"1" + b"}" * 5000):
        assert post(web, deep, ada).status_code == 400
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/html",
        "application/xml",
    ):
        assert post(web, b"{}", ada, kind).status_code == 415, kind
    for odd in (
        b"{",
        b"NaN",
        b'{"name": NaN}',
        b'{"n": 1e999999}',
        b"\xff\xfe",
        b'{"name": "a\\u0000b", "scopes": ["read"]}',
        b'{"name": "\\ud800", "scopes": ["read"]}',
        b"1" * 10_000,
    ):
        assert post(web, odd, ada).status_code in (400, 422), odd[:30]


def test_fields_that_are_not_offered_are_refused_everywhere(web, ada):
    """Mass assignment: no body takes a field that its schema does not name."""
    asked = 0
    for method, path, operation in operations(web):
        if "requestBody" not in operation or "/hooks/" in path:
            continue
        asked += 1
        answer = web.call(
            method,
            _fill(path, "1" if "users" in path else "x"),
            ada,
            {"workspace_id": 1, "is_admin": True, "__proto__": {}},
        )
        assert answer.status_code in (401, 403, 404, 415, 422), (method, path, answer.status_code)
    assert asked > 10


# -- headers and redirects ---------------------------------------------------------------------------------------------
def test_nothing_that_comes_in_becomes_a_header(web, ada):
    evil = "x\r\nSet-Cookie: a=b"
    for path in (f"/workflows/{quote(evil, safe='')}", f"/workflows?cursor={quote(evil)}"):
        response = web.call("GET", path, ada)
        assert "Set-Cookie" not in response.headers
        assert not any("\n" in value for value in response.headers.values())
    response = web.call("GET", "/workflows", ada | {"X-Request-Id": "a b;c<script>"})
    assert "<script>" not in str(response.headers)


def test_no_answer_sends_a_browser_elsewhere(web):
    """Open redirect: no address that a request names is ever gone to, neither before a login nor after."""
    body = {"email": ADA, "password": PASSWORD}
    for name in ("next", "redirect", "redirect_uri", "return_to", "url"):
        for target in ("https://evil.test", "//evil.test", "/\\evil.test"):
            query = f"?{name}={quote(target)}"
            for answer in (
                web.client.get(f"/login{query}"),
                web.client.get(f"/{query}"),
                web.call("POST", f"/auth/session{query}", body=body),
                web.call("POST", "/auth/session", body=body | {name: target}),
            ):
                assert "evil.test" not in answer.headers.get("Location", "")
    for path in ("//evil.test", "/\\evil.test", "/%2f%2fevil.test/", "/api/docs/"):
        location = web.client.get(path).headers.get("Location", "")
        assert "evil.test" not in location.partition("://")[2].partition("/")[0]


# -- other workspaces --------------------------------------------------------------------------------------------------
def test_ids_and_names_of_another_workspace_lead_nowhere(web):
    """An admin elsewhere who knows every id of `default` finds nothing, changes nothing."""
    run = stored_run(web)
    with web.engine.begin() as connection:
        connection.execute(text("INSERT INTO variable (workspace_id, name, value) VALUES (1, 'flow', '1')"))
        key = web.new_key("admin")
    eve = web.bearer(EVE) | {"X-Workspace": OTHER}
    before = everything(web)
    asked = 0
    for rule in web.app.url_map.iter_rules():
        access = access_of(web.app.view_functions[rule.endpoint])
        if access.anonymous or not rule.arguments or not rule.rule.startswith("/api/"):
            continue
        values = dict.fromkeys(rule.arguments, "flow") | {"run_id": run, "run": run, "id": run, "node": "a", "n": 1}
        ids = [run, str(key["id"]), str(web.ids[ADA])] if "id" in rule.arguments else [None]
        for method, one in itertools.product(rule.methods - {"HEAD", "OPTIONS"}, ids):
            path = rule.rule
            for name in rule.arguments:
                for spelled in (f"<{name}>", f"<int:{name}>", f"<string:{name}>"):
                    path = path.replace(spelled, quote(str(one or values[name])))
            answer = web.client.open(path, method=method, headers=eve, json={} if method != "GET" else None)
            asked += 1
            assert answer.status_code in (403, 404, 415, 422), (method, path, answer.get_data(as_text=True)[:200])
    assert asked > 30
    assert everything(web) == before
    for path in ("/workflows", "/variables", "/events?action=run"):
        assert web.call("GET", path, eve).get_json()["items"] == []
    assert web.call("GET", "/workflows", eve | {"X-Workspace": "default"}).status_code == 404


def everything(web):
    with web.engine.connect() as connection:
        return [
            connection.execute(text(f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1")).all()
            for table in ("workflow", "run", "variable", "membership", "app_user")
        ] + [connection.execute(text("SELECT id, revoked_at FROM api_key ORDER BY 1")).all()]
