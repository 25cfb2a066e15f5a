"""Every endpoint, called by everybody: who gets in, and how the others are told. Sockets: test_live_matrix.py.

A new endpoint fails here until it has a row: what it asks of its caller is decided twice, at the view and here.
"""

from __future__ import annotations

import re

import pytest

from agentflow.access import Role
from tests.auth_kit import everybody
from webserver.access import access_of

PUBLIC, SIGNED_IN, CHIEF = "public", "signed-in", "instance-admin"
VIEWER, OPERATOR, EDITOR, ADMIN = (role.value for role in Role)

MATRIX = {
    ("GET", "/"): PUBLIC,
    ("GET", "/api/docs"): PUBLIC,
    ("GET", "/api/docs/assets/<path:name>"): PUBLIC,
    ("GET", "/api/docs/start.js"): PUBLIC,
    ("GET", "/api/v1/api-keys"): ADMIN,
    ("POST", "/api/v1/api-keys"): ADMIN,
    ("DELETE", "/api/v1/api-keys/<int:id>"): ADMIN,
    ("POST", "/api/v1/auth/link"): PUBLIC,
    ("POST", "/api/v1/auth/login"): PUBLIC,
    ("POST", "/api/v1/auth/logout"): SIGNED_IN,
    ("GET", "/api/v1/auth/me"): SIGNED_IN,
    ("PUT", "/api/v1/auth/password"): SIGNED_IN,
    ("GET", "/api/v1/auth/oidc/callback"): PUBLIC,
    ("GET", "/api/v1/auth/oidc/start"): PUBLIC,
    ("POST", "/api/v1/auth/refresh"): PUBLIC,
    ("POST", "/api/v1/auth/session"): PUBLIC,
    ("GET", "/api/v1/auth/sessions"): SIGNED_IN,
    ("DELETE", "/api/v1/auth/sessions/<id>"): SIGNED_IN,
    ("GET", "/api/v1/backfills"): VIEWER,
    ("GET", "/api/v1/backfills/<id>"): VIEWER,
    ("PATCH", "/api/v1/backfills/<id>"): OPERATOR,
    ("POST", "/api/v1/backfills/<id>/cancel"): OPERATOR,
    ("GET", "/api/v1/connections"): VIEWER,
    ("DELETE", "/api/v1/connections/<name>"): EDITOR,
    ("GET", "/api/v1/connections/<name>"): VIEWER,
    ("PUT", "/api/v1/connections/<name>"): EDITOR,
    ("GET", "/api/v1/events"): VIEWER,
    ("POST", "/api/v1/hooks/<token>"): PUBLIC,
    ("GET", "/api/v1/import-errors"): VIEWER,
    ("GET", "/api/v1/node-types"): VIEWER,
    ("GET", "/api/v1/openapi.json"): PUBLIC,
    ("GET", "/api/v1/pools"): VIEWER,
    ("DELETE", "/api/v1/pools/<name>"): ADMIN,
    ("GET", "/api/v1/pools/<name>"): VIEWER,
    ("PUT", "/api/v1/pools/<name>"): ADMIN,
    ("GET", "/api/v1/runs"): VIEWER,
    ("DELETE", "/api/v1/runs/<id>"): OPERATOR,
    ("GET", "/api/v1/runs/<id>"): VIEWER,
    ("POST", "/api/v1/runs/<id>/cancel"): OPERATOR,
    ("POST", "/api/v1/runs/<id>/clear"): OPERATOR,
    ("GET", "/api/v1/runs/<id>/logs"): VIEWER,
    ("GET", "/api/v1/runs/<id>/nodes"): VIEWER,
    ("GET", "/api/v1/runs/<id>/nodes/<node>"): VIEWER,
    ("GET", "/api/v1/runs/<id>/nodes/<node>/attempts"): VIEWER,
    ("GET", "/api/v1/runs/<id>/nodes/<node>/attempts/<int:attempt>/logs"): VIEWER,
    ("GET", "/api/v1/runs/<id>/nodes/<node>/config"): VIEWER,
    ("POST", "/api/v1/runs/<id>/nodes/<node>/mark"): OPERATOR,
    ("GET", "/api/v1/runs/<id>/nodes/<node>/output"): VIEWER,
    ("GET", "/api/v1/runs/<id>/nodes/<node>/why"): VIEWER,
    ("POST", "/api/v1/runs/<id>/note"): OPERATOR,
    ("POST", "/api/v1/runs/<id>/rerun"): OPERATOR,
    ("POST", "/api/v1/runs/bulk"): OPERATOR,
    ("GET", "/api/v1/schedulers"): VIEWER,
    ("GET", "/api/v1/secrets"): VIEWER,
    ("DELETE", "/api/v1/secrets/<name>"): EDITOR,
    ("GET", "/api/v1/secrets/<name>"): VIEWER,
    ("PUT", "/api/v1/secrets/<name>"): EDITOR,
    ("GET", "/api/v1/system/dependencies"): VIEWER,
    ("GET", "/api/v1/triggers"): VIEWER,
    ("GET", "/api/v1/users"): ADMIN,
    ("POST", "/api/v1/users"): ADMIN,
    ("DELETE", "/api/v1/users/<int:id>"): CHIEF,
    ("GET", "/api/v1/users/<int:id>"): ADMIN,
    ("PATCH", "/api/v1/users/<int:id>"): CHIEF,
    ("POST", "/api/v1/users/<int:id>/reset-password"): CHIEF,
    ("DELETE", "/api/v1/users/<int:id>/role"): ADMIN,
    ("PUT", "/api/v1/users/<int:id>/role"): ADMIN,
    ("GET", "/api/v1/variables"): VIEWER,
    ("DELETE", "/api/v1/variables/<name>"): EDITOR,
    ("GET", "/api/v1/variables/<name>"): VIEWER,
    ("PUT", "/api/v1/variables/<name>"): EDITOR,
    ("GET", "/api/v1/webhooks"): VIEWER,
    ("GET", "/api/v1/workflows"): VIEWER,
    ("POST", "/api/v1/workflows"): EDITOR,
    ("DELETE", "/api/v1/workflows/<name>"): EDITOR,
    ("GET", "/api/v1/workflows/<name>"): VIEWER,
    ("PATCH", "/api/v1/workflows/<name>"): OPERATOR,
    ("PUT", "/api/v1/workflows/<name>"): EDITOR,
    ("POST", "/api/v1/workflows/<name>/backfills"): OPERATOR,
    ("GET", "/api/v1/workflows/<name>/diff"): VIEWER,
    ("DELETE", "/api/v1/workflows/<name>/draft"): EDITOR,
    ("GET", "/api/v1/workflows/<name>/draft"): VIEWER,
    ("PUT", "/api/v1/workflows/<name>/draft"): EDITOR,
    ("GET", "/api/v1/workflows/<name>/export"): VIEWER,
    ("GET", "/api/v1/workflows/<name>/grid"): VIEWER,
    ("POST", "/api/v1/workflows/<name>/publish"): EDITOR,
    ("POST", "/api/v1/workflows/<name>/runs"): OPERATOR,
    ("GET", "/api/v1/workflows/<name>/versions"): VIEWER,
    ("GET", "/api/v1/workflows/<name>/versions/<int:version>"): VIEWER,
    ("POST", "/api/v1/workflows/<name>/webhook"): EDITOR,
    ("DELETE", "/api/v1/workflows/<name>/webhook/<trigger>"): EDITOR,
    ("POST", "/api/v1/workflows/apply"): EDITOR,
    ("POST", "/api/v1/workflows/validate"): VIEWER,
    ("GET", "/api/v1/workspaces"): SIGNED_IN,
    ("POST", "/api/v1/workspaces"): CHIEF,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/login"): PUBLIC,
    ("GET", "/login.js"): PUBLIC,
    ("GET", "/plain.css"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
}

_CHANGES = ("POST", "PUT", "PATCH", "DELETE")
_RANK = {None: -1, VIEWER: 0, OPERATOR: 1, EDITOR: 2, ADMIN: 3, CHIEF: 4}
MEMBERS = (VIEWER, OPERATOR, EDITOR, ADMIN)


def endpoints(app):
    return {
        (method, rule.rule): str(access_of(app.view_functions[rule.endpoint]))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


def address(rule):
    """An address of nothing: the answer to those who may is 404 or 422, and nothing is changed."""
    return re.sub(r"<(int|path|string)?:?[a-z_]+>", lambda match: "4242" if match[1] == "int" else "nothing", rule)


@pytest.fixture
def people(auth_web):
    return everybody(auth_web)


def expected(needs, caller, method):
    """The status of a refusal; None: whoever it is comes in."""
    if needs == PUBLIC:
        return None
    if caller in ("anonymous", "expired token", "revoked key"):
        return 401
    if caller in ("other workspace", "key of another workspace"):
        return 404
    if caller == "wrong CSRF" and method in _CHANGES:
        return 403
    has = {"wrong CSRF": ADMIN, "right CSRF": ADMIN, "key that reads": VIEWER, "key that edits": EDITOR}.get(
        caller, caller
    )
    if caller == "other workspace by default":
        has = None
    if needs == SIGNED_IN:
        return None
    return None if _RANK[has] >= _RANK[needs] else 403


def test_every_endpoint_has_a_row_that_agrees_with_its_view(auth_web):
    assert endpoints(auth_web.app) == MATRIX


@pytest.mark.parametrize(
    "caller",
    [
        *MEMBERS, CHIEF, "anonymous", "other workspace", "other workspace by default", "expired token", "revoked key",
        "key of another workspace", "wrong CSRF", "right CSRF", "key that reads", "key that edits",
    ],
)  # fmt: skip
def test_everybody_calls_everything(auth_web, people, caller):
    wrong = []
    headers = people[caller]()
    for (method, rule), needs in MATRIX.items():
        if rule == "/metrics" or "/docs" in rule:
            continue  # pages for everybody, with tests of their own
        if rule.endswith("/auth/logout"):
            headers, kept = people[caller](), headers  # it ends the session
            got = auth_web.call(method, rule, headers)
            headers = kept
        else:
            got = auth_web.client.open(address(rule), method=method, headers=headers)
        wanted = expected(needs, caller, method)
        if wanted is None:
            # In: whatever the answer is about, it is not who asks. Keys cannot do what needs a login.
            own_words = needs == SIGNED_IN and "key" in caller and got.status_code == 403
            fine = own_words or (got.status_code < 500 and (got.status_code not in (401, 403) or needs == PUBLIC))
            fine = fine or (rule == "/readyz" and got.status_code == 503)
        else:
            fine = got.status_code == wanted
        if not fine:
            wrong.append((method, rule, needs, got.status_code, wanted, got.get_data(as_text=True)[:120]))
    assert wrong == []


def test_a_body_is_not_looked_at_before_the_caller_is(auth_web, people):
    """Who may not call learns nothing from validation: the refusal is the same for any body."""
    for body in ("{", "[" * 10_000, "null"):
        for caller, status in (("anonymous", 401), (VIEWER, 403)):
            headers = people[caller]() | {"Content-Type": "application/json"}
            assert auth_web.client.post("/api/v1/users", data=body, headers=headers).status_code == status
