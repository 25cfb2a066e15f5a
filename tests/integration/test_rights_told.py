"""Who loses a right is known to all web processes at once, whoever took it and wherever."""

from __future__ import annotations

import json
import threading

import psycopg
import pytest
from sqlalchemy import text

from agentflow.access import Role, api_keys, sessions, users, workspaces
from agentflow.clock import utc_now
from agentflow.postgres import libpq_url
from webserver.live.guard import CHECK, rest_after
from webserver.live.listener import read_note

ADA = "ada@example.org"
TOLD = {"ws": 0, "runs": {}, "rights": True}
_CUT = text("""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'agentflow-live' AND datname = current_database()
""")


@pytest.fixture
def said(auth_web):
    """Do something in a transaction; what listeners hear."""
    url = libpq_url(auth_web.engine.url.render_as_string(hide_password=False))

    def said(function, *arguments, **keywords) -> list[dict]:
        with psycopg.connect(url, autocommit=True) as listener:
            listener.execute("LISTEN agentflow_live")
            with auth_web.engine.begin() as connection:
                function(connection, *arguments, **keywords)
            return [json.loads(note.payload) for note in listener.notifies(timeout=0.2)]

    return said


def test_everything_that_takes_a_right_says_so(auth_web, said) -> None:
    ada = auth_web.user(ADA, Role.ADMIN)
    auth_web.user("root@example.org", instance_admin=True)
    session, other = auth_web.session(ADA), auth_web.session(ADA)
    key = auth_web.new_key("read")["id"]
    assert said(workspaces.grant_role, ada, "default", Role.VIEWER, actor="test") == [TOLD]
    assert said(workspaces.grant_role, ada, "default", Role.VIEWER, actor="test") == [], "it was so before"
    assert said(workspaces.revoke_role, ada, "default", actor="test") == [TOLD]
    assert said(sessions.revoke_session, session.id, because="test", now=utc_now()) == [TOLD]
    assert said(sessions.revoke_session, session.id, because="test", now=utc_now()) == []
    assert said(users.set_password, ada, "another battery horse", actor="test") == [TOLD]
    assert said(sessions.revoke_session, other.id, because="test", now=utc_now()) == [], "that ended it"
    assert said(api_keys.revoke_api_key, key, actor="test", workspace="default") == [TOLD]
    assert said(users.update_user, ada, instance_admin=True, actor="test") == [TOLD]
    assert said(users.update_user, ada, disabled=True, actor="test") == [TOLD]
    assert said(users.update_user, ada, name="Ada", actor="test") == []
    assert said(users.delete_user, ada, actor="test") == [TOLD]


@pytest.fixture
def looked(auth_web, monkeypatch):
    """When sockets are looked at. Nothing is done by the clock here: what is remembered lasts, and so do sockets."""
    monkeypatch.setattr("webserver.auth.authenticate.FRESH", 3600.0)
    for name in ("CHECK", "PAUSE_MAX"):
        monkeypatch.setattr(f"webserver.live.guard.{name}", 3600.0)
    live = auth_web.app.extensions["agentflow.live"]
    looked = threading.Event()
    monkeypatch.setattr(live.guard, "check", looked.set)
    live.start()
    assert looked.wait(20), "it listens, and does not know what was said before"
    looked.clear()
    yield looked
    live.close(0.0)


def test_other_processes_forget_who_was_recognised_and_look_at_their_sockets(auth_web, looked) -> None:
    key = auth_web.new_key("read")
    headers = {"X-API-Key": key["key"]}
    assert auth_web.call("GET", "/workflows", headers).status_code == 200
    with auth_web.engine.begin() as connection:  # another process, or the command line
        api_keys.revoke_api_key(connection, key["id"], actor="test", workspace="default")
    assert looked.wait(20)
    assert auth_web.call("GET", "/workflows", headers).status_code == 401


def test_what_was_said_while_nobody_listened_is_looked_up(auth_web, looked) -> None:
    key = auth_web.new_key("read")
    headers = {"X-API-Key": key["key"]}
    assert auth_web.call("GET", "/workflows", headers).status_code == 200
    with auth_web.engine.begin() as connection:
        connection.execute(text("UPDATE api_key SET revoked_at = now() WHERE id = :id"), {"id": key["id"]})
    with auth_web.engine.begin() as connection:
        assert connection.scalar(_CUT)
    assert looked.wait(20)
    assert auth_web.call("GET", "/workflows", headers).status_code == 401


@pytest.mark.parametrize(("payload", "rights"), [({}, False), ({"rights": True}, True), ({"rights": 1}, False)])
def test_only_our_word_for_it_counts(payload, rights) -> None:
    assert read_note(json.dumps({"ws": 0, "runs": {}} | payload)).rights is rights


@pytest.mark.parametrize(("took", "rest"), [(0.0, 0.0), (0.01, 0.04), (60.0, CHECK)])
def test_rights_that_change_all_the_time_leave_time_for_other_work(took, rest) -> None:
    assert rest_after(took) == rest
