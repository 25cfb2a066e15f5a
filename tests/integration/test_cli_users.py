"""`agentflow users`, `api-keys`, `workspaces`."""

from __future__ import annotations

import io
import json
import sys

import pytest

from agentflow.access import links, passwords, users
from agentflow.cli import main
from agentflow.clock import utc_now
from agentflow.db.engine import transact

PASSWORD = "correct horse battery"


@pytest.fixture
def cli(database_url, tmp_path, monkeypatch, capsys):
    """Run a command line; its JSON, or with `code` whatever it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))

    def run(*arguments, stdin="", code=0):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        found = main.main([*arguments, "--json"])
        captured = capsys.readouterr()
        assert found == code, captured.out + captured.err
        assert PASSWORD not in captured.out + captured.err
        return json.loads(captured.out)

    return run


def test_a_user_is_made_with_a_password_from_standard_input(cli, engine):
    made = cli("users", "create", "Ada@Example.org", "--role", "editor", "--name", "Ada", stdin=PASSWORD + "\n")
    assert (made["email"], made["changed"]) == ("ada@example.org", True)
    known = transact(engine, lambda c: users.find_credentials(c, "ada@example.org"))
    assert passwords.verify_password(known.password_hash, PASSWORD), "the line's end is not part of it"
    (listed,) = cli("users", "list", "--members")["items"]
    assert listed["memberships"] == [{"workspace": "default", "role": "editor"}]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "word"),
    [
        (("create", "nobody"), PASSWORD, 2, "usage"),
        (("create", "a@b"), "short", 2, "usage"),
        (("create", "a@b", "--role", "king"), PASSWORD, 2, "usage"),
        (("disable", "none@example.org"), "", 1, "not-found"),
        (("reset-password", "none@example.org"), PASSWORD, 1, "not-found"),
        (("grant", "none@example.org", "viewer"), "", 1, "not-found"),
    ],
)
def test_what_cannot_be_done_is_explained(cli, arguments, stdin, code, word):
    assert cli("users", *arguments, stdin=stdin, code=code)["error"]["type"] == word


def test_a_password_is_never_an_argument(cli):
    assert cli("users", "create", "a@b", "some password", code=2)["error"]["type"] == "usage"


def test_users_are_disabled_enabled_and_given_roles_and_passwords(cli, engine):
    cli("users", "create", "a@example.org", "--instance-admin", stdin=PASSWORD)
    assert cli("users", "disable", "a@example.org", code=1)["error"]["type"] == "conflict", "the only administrator"
    cli("users", "create", "b@example.org", stdin=PASSWORD)
    cli("users", "disable", "b@example.org")
    assert [u["disabled"] for u in cli("users", "list")["items"]] == [False, True]
    cli("users", "enable", "b@example.org")
    assert cli("users", "grant", "b@example.org", "operator")["changed"]
    assert not cli("users", "grant", "b@example.org", "operator")["changed"]
    assert cli("users", "grant", "b@example.org", "none")["role"] is None
    cli("users", "reset-password", "b@example.org", stdin="another good password")
    known = transact(engine, lambda c: users.find_credentials(c, "b@example.org"))
    assert passwords.verify_password(known.password_hash, "another good password")
    token = cli("users", "reset-password", "b@example.org", "--link")["link"]
    assert transact(engine, lambda c: links.look_at_link(c, token, now=utc_now())).email == "b@example.org"


def test_a_user_may_be_made_with_a_link_instead_of_a_password(cli, engine):
    made = cli("users", "create", "c@example.org", "--link", "--role", "viewer")
    link = transact(engine, lambda c: links.look_at_link(c, made["link"], now=utc_now()))
    assert (link.email, link.purpose) == ("c@example.org", "reset")


def test_keys_are_made_listed_and_revoked(cli):
    made = cli("api-keys", "create", "ci", "--scope", "run", "--scope", "read", "--expires", "30d")
    assert made["key"].startswith(made["prefix"])
    assert made["scopes"] == ["read", "run"]
    (listed,) = cli("api-keys", "list")["items"]
    assert "key" not in listed
    assert listed["expires_at"] is not None
    assert cli("api-keys", "revoke", "ci")["changed"]
    assert cli("api-keys", "list")["items"] == []
    assert cli("api-keys", "list", "--revoked")["items"][0]["revoked_at"] is not None
    assert cli("api-keys", "revoke", "ci", code=1)["error"]["type"] == "not-found"
    assert cli("api-keys", "create", "ci", "--scope", "root", code=2)["error"]["type"] == "usage"
    assert cli("api-keys", "create", "ci", "--scope", "read", "--expires", "soon", code=2)["error"]["type"] == "usage"


def test_workspaces_are_made_and_listed(cli):
    assert cli("workspaces", "create", "lab") == {"name": "lab", "changed": True}
    assert [w["name"] for w in cli("workspaces", "list")["items"]] == ["default", "lab"]
    assert cli("workspaces", "create", "Lab!", code=2)["error"]["type"] == "usage"
