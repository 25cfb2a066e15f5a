"""Users, sessions, keys and links, in the role that the webserver takes to check who somebody is."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from agentflow.access import Role, api_keys, links, sessions, throttle, users, workspaces
from agentflow.access.rights import key_principal, user_principal
from agentflow.access.tokens import write_token
from agentflow.db.tenancy import AUTH
from agentflow.errors import Conflict, NotFound, UsageError
from agentflow.keys import KeyRing, SecretKey
from tests.tenancy_kit import act_as

RING = KeyRing([SecretKey("k" * 40)])
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"


@pytest.fixture
def auth(connection):
    act_as(connection, AUTH)
    return connection


@pytest.fixture
def ada(auth):
    return users.create_user(auth, "Ada@Example.org", name="Ada", password=PASSWORD, actor="test")["id"]


def login(connection, user, **keys):
    return sessions.open_session(connection, user, "token", **{"now": NOW, **keys})


def refresh_token(session, generation=0):
    return write_token(RING, "refresh", session.id, session.salt, generation)


# -- users -------------------------------------------------------------------------------------------------------------
def test_a_user_is_shown_without_the_password(auth, ada):
    shown = users.show_user(auth, ada)
    assert shown["email"] == "ada@example.org"
    assert shown["has_password"]
    assert PASSWORD not in repr(shown)
    assert "argon" not in repr(shown)


def test_one_address_is_one_user(auth, ada):
    with pytest.raises(Conflict):
        users.create_user(auth, "ADA@example.org", actor="test")


def test_users_come_in_pages_by_workspace_and_search(auth, ada):
    others = [users.create_user(auth, f"u{n}@example.org", actor="test")["id"] for n in range(3)]
    workspaces.grant_role(auth, others[1], "default", Role.VIEWER, actor="test")
    page, cursor = users.list_users(auth, limit=3)
    rest, end = users.list_users(auth, limit=3, cursor=cursor)
    assert [user["id"] for user in page + rest] == [ada, *others]
    assert end is None
    members, _ = users.list_users(auth, workspace="default")
    assert [(m["id"], m["memberships"]) for m in members] == [(others[1], [{"workspace": "default", "role": "viewer"}])]
    assert [user["id"] for user in users.list_users(auth, search="ADA")[0]] == [ada]
    assert users.list_users(auth, search="%' OR 1=1 --")[0] == []


def test_the_last_administrator_stays(auth, ada):
    users.update_user(auth, ada, instance_admin=True, actor="test")
    for change in ({"disabled": True}, {"instance_admin": False}):
        with pytest.raises(Conflict, match="only administrator"):
            users.update_user(auth, ada, **change, actor="test")
    with pytest.raises(Conflict):
        users.delete_user(auth, ada, actor="test")
    users.create_user(auth, "b@example.org", instance_admin=True, actor="test")
    assert users.update_user(auth, ada, disabled=True, actor="test")["disabled"]


def test_disabling_and_a_new_password_end_all_sessions(auth, ada):
    for change in (
        lambda: users.update_user(auth, ada, disabled=True, actor="test"),
        lambda: users.set_password(auth, ada, "another good password", actor="test"),
    ):
        session = login(auth, ada)
        change()
        assert sessions.find_session(auth, session.id).revoked_at is not None


def test_what_was_done_is_audited(auth, ada, connection):
    users.delete_user(auth, ada, actor="cli:root")
    connection.execute(text("RESET ROLE"))
    found = connection.execute(text("SELECT action, subject, actor FROM audit_event ORDER BY id DESC LIMIT 2")).all()
    assert [tuple(row) for row in found] == [
        ("user.deleted", "ada@example.org", "cli:root"),
        ("user.created", "ada@example.org", "test"),
    ]


# -- workspaces and roles ----------------------------------------------------------------------------------------------
def test_a_role_is_granted_changed_and_taken(auth, ada):
    workspaces.create_workspace(auth, "lab", actor="test")
    assert workspaces.grant_role(auth, ada, "lab", Role.VIEWER, actor="test")["changed"]
    assert not workspaces.grant_role(auth, ada, "lab", Role.VIEWER, actor="test")["changed"]
    assert workspaces.grant_role(auth, ada, "lab", Role.EDITOR, actor="test")["changed"]
    assert user_principal(auth, ada, "lab").role is Role.EDITOR
    assert [w["name"] for w in workspaces.list_workspaces(auth, user=ada)[0]] == ["lab"]
    assert [m["email"] for m in workspaces.list_members(auth, "lab")] == ["ada@example.org"]
    workspaces.revoke_role(auth, ada, "lab", actor="test")
    with pytest.raises(NotFound):
        user_principal(auth, ada, "lab")
    with pytest.raises(NotFound):
        workspaces.revoke_role(auth, ada, "lab", actor="test")


def test_a_workspace_begins_with_a_pool(auth, connection):
    workspaces.create_workspace(auth, "lab", actor="test")
    with pytest.raises(Conflict):
        workspaces.create_workspace(auth, "lab", actor="test")
    with pytest.raises(UsageError):
        workspaces.create_workspace(auth, "../etc", actor="test")
    connection.execute(text("RESET ROLE"))
    pools = "SELECT p.name FROM pool p JOIN workspace w ON w.id = p.workspace_id WHERE w.name = 'lab'"
    assert connection.scalars(text(pools)).all() == ["default"]


def test_another_workspace_looks_as_if_it_did_not_exist(auth, ada):
    workspaces.create_workspace(auth, "lab", actor="test")
    said = []
    for name in ("lab", "none"):
        with pytest.raises(NotFound) as caught:
            user_principal(auth, ada, name)
        said.append(caught.value.message.replace(name, "X"))
    assert said[0] == said[1]


def test_an_instance_admin_is_an_admin_everywhere_and_a_disabled_one_nowhere(auth, ada):
    users.create_user(auth, "b@example.org", instance_admin=True, actor="test")
    users.update_user(auth, ada, instance_admin=True, actor="test")
    assert user_principal(auth, ada, None).role is Role.ADMIN
    users.update_user(auth, ada, disabled=True, actor="test")
    assert user_principal(auth, ada, None) is None


# -- sessions ----------------------------------------------------------------------------------------------------------
def test_refresh_tokens_follow_each_other(auth, ada):
    session = login(auth, ada)
    for number in range(3):
        found = sessions.rotate(auth, RING, refresh_token(session, number), now=NOW + timedelta(minutes=number))
        assert (found.outcome, found.session.generation, found.session.user) == ("rotated", number + 1, ada)


def test_a_refresh_token_used_twice_ends_the_family(auth, ada):
    session = login(auth, ada)
    assert sessions.rotate(auth, RING, refresh_token(session), now=NOW).outcome == "rotated"
    again = sessions.rotate(auth, RING, refresh_token(session), now=NOW + sessions.GRACE)
    assert (again.outcome, again.session.generation) == ("repeated", 1), "a lost answer is given again"
    late = NOW + timedelta(minutes=1)
    assert sessions.rotate(auth, RING, refresh_token(session), now=late).outcome == "reused"
    assert sessions.rotate(auth, RING, refresh_token(session, 1), now=late).outcome == "refused", (
        "the thief's is dead too"
    )


def test_a_forged_refresh_token_harms_nobody(auth, ada):
    session = login(auth, ada)
    forged = write_token(KeyRing([SecretKey("f" * 40)]), "refresh", session.id, session.salt, 0)
    cookie = write_token(RING, "cookie", session.id, session.salt)
    for text_ in (forged, cookie, "", "x", refresh_token(session)[:-1], refresh_token(session).replace(".0.", ".9.")):
        assert sessions.rotate(auth, RING, text_, now=NOW).outcome == "refused", text_
    assert sessions.rotate(auth, RING, refresh_token(session), now=NOW).outcome == "rotated"


@pytest.mark.parametrize("after", [sessions.LIFETIME, sessions.IDLE])
def test_sessions_end_by_themselves(auth, ada, after):
    session = login(auth, ada)
    assert sessions.is_open(
        sessions.find_session(auth, session.id), NOW + after - timedelta(days=29 if after > sessions.IDLE else 1)
    )
    assert not sessions.is_open(sessions.find_session(auth, session.id), NOW + after)
    assert sessions.rotate(auth, RING, refresh_token(session), now=NOW + after).outcome == "refused"


def test_sessions_are_listed_while_open_and_forgotten_long_after(auth, ada):
    old = login(auth, ada, now=NOW - timedelta(days=90))
    kept = login(auth, ada, user_agent="curl", address="192.0.2.1")
    gone = login(auth, ada)
    sessions.revoke_session(auth, gone.id, because="logout", now=NOW)
    assert [s["id"] for s in sessions.list_sessions(auth, ada, now=NOW)] == [str(kept.id)]
    assert sessions.find_session(auth, old.id) is None
    assert sessions.find_session(auth, gone.id) is not None


def test_use_is_noted_once_a_minute(auth, ada):
    session = login(auth, ada)
    for seconds, noted in ((30, 0), (90, 90), (100, 90)):
        sessions.note_use(auth, sessions.find_session(auth, session.id), NOW + timedelta(seconds=seconds))
        assert sessions.find_session(auth, session.id).used_at == NOW + timedelta(seconds=noted)


# -- keys --------------------------------------------------------------------------------------------------------------
def make_key(connection, **keys):
    given = {"scopes": ["edit"], "user": None, "now": NOW, "actor": "test", "workspace": "default", **keys}
    return api_keys.create_api_key(connection, given.pop("name", "ci"), **given)


def rights(connection, key, workspace=None, now=NOW):
    row = api_keys.find_api_key(connection, key)
    return row and key_principal(row, workspace, now)


def test_a_key_is_shown_whole_once_and_stored_as_a_hash(auth, connection):
    made = make_key(auth)
    assert made["key"].startswith(made["prefix"])
    listed = api_keys.list_api_keys(auth, workspace="default")[0]
    assert made["key"] not in repr(listed)
    assert listed[0]["prefix"] == made["prefix"]
    stored = connection.execute(text("SELECT to_jsonb(k)::text FROM api_key k")).scalar_one()
    assert made["key"][11:] not in stored
    principal = rights(auth, made["key"])
    assert (principal.kind, principal.name, principal.role) == ("key", f"key:{made['prefix']}", Role.EDITOR)


def test_a_key_does_no_more_than_its_user_may(auth, ada):
    key = make_key(auth, scopes=["admin"], user=ada)["key"]
    assert rights(auth, key).role is None
    workspaces.grant_role(auth, ada, "default", Role.OPERATOR, actor="test")
    assert rights(auth, key).role is Role.OPERATOR
    users.create_user(auth, "b@example.org", instance_admin=True, actor="test")
    users.update_user(auth, ada, instance_admin=True, actor="test")
    assert rights(auth, key).role is Role.ADMIN
    assert not rights(auth, key).instance_admin, "a key is for one workspace"
    users.update_user(auth, ada, disabled=True, actor="test")
    assert rights(auth, key) is None


def test_revoked_expired_and_foreign_keys_let_nobody_in(auth):
    made = make_key(auth, expires_at=NOW + timedelta(hours=1))
    assert rights(auth, made["key"], "default") is not None
    assert rights(auth, made["key"], now=NOW + timedelta(hours=1)) is None
    with pytest.raises(NotFound):
        rights(auth, made["key"], "lab")
    api_keys.revoke_api_key(auth, made["id"], actor="test", workspace="default")
    assert rights(auth, made["key"]) is None
    with pytest.raises(NotFound):
        api_keys.revoke_api_key(auth, made["id"], actor="test", workspace="default")
    make_key(auth)  # the name is free again
    for wrong in ("af_", "af_" + "x" * 43, "", "x" * 10_000, "af_" + "\u00e9" * 43):
        assert rights(auth, wrong) is None


@pytest.mark.parametrize(
    "keys", [{"scopes": []}, {"scopes": ["read", "root"]}, {"name": " "}, {"expires_at": NOW}, {"name": "a\nb"}]
)
def test_what_cannot_be_a_key(auth, keys):
    with pytest.raises(UsageError):
        make_key(auth, **keys)


def test_a_key_of_another_workspace_cannot_be_revoked_or_seen(auth):
    workspaces.create_workspace(auth, "lab", actor="test")
    made = make_key(auth)
    with pytest.raises(NotFound):
        api_keys.revoke_api_key(auth, made["id"], actor="test", workspace="lab")
    assert api_keys.list_api_keys(auth, workspace="lab") == ([], None)


# -- links -------------------------------------------------------------------------------------------------------------
def test_a_link_opens_once(auth, ada):
    made = links.make_link(auth, ada, "login", now=NOW, actor="test")
    assert links.look_at_link(auth, made["token"], now=NOW).user == ada
    assert links.use_link(auth, made["token"], now=NOW)
    assert not links.use_link(auth, made["token"], now=NOW)
    assert links.look_at_link(auth, made["token"], now=NOW) is None


def test_a_link_grows_old_and_a_newer_one_replaces_it(auth, ada):
    first = links.make_link(auth, ada, "login", now=NOW, actor="test")["token"]
    second = links.make_link(auth, ada, "login", now=NOW, actor="test")["token"]
    assert links.look_at_link(auth, first, now=NOW) is None
    assert links.look_at_link(auth, second, now=NOW + links.LIFETIME["login"]) is None


def test_a_reset_takes_the_password_and_the_sessions(auth, ada):
    session = login(auth, ada)
    made = links.make_link(auth, ada, "reset", now=NOW, actor="test")
    assert not users.show_user(auth, ada)["has_password"]
    assert sessions.find_session(auth, session.id).revoked_at is not None
    assert links.look_at_link(auth, made["token"], now=NOW).purpose == "reset"


def test_the_first_administrator_gets_a_link_until_somebody_can_log_in(auth):
    first = links.first_login(auth, now=NOW)
    again = links.first_login(auth, now=NOW)
    assert links.look_at_link(auth, first, now=NOW) is None
    link = links.look_at_link(auth, again, now=NOW)
    assert (link.email, link.has_password) == (links.FIRST_ADMIN, False)
    assert user_principal(auth, link.user, None).instance_admin
    users.set_password(auth, link.user, PASSWORD, actor="test")
    assert links.first_login(auth, now=NOW) is None


def test_no_first_link_where_users_were_made(auth, ada):
    assert links.first_login(auth, now=NOW) is None


# -- lock-out ----------------------------------------------------------------------------------------------------------
def guess(connection, email="ada@example.org", address="192.0.2.1", at=NOW):
    return throttle.count_guess(connection, email, address, now=at)


def test_guessing_one_account_is_stopped_from_everywhere(auth):
    for number in range(5):
        assert guess(auth, address=f"192.0.2.{number}") is None
    assert guess(auth, address="198.51.100.1", email=" ADA@example.org") == timedelta(seconds=30)
    assert guess(auth, email="\uff41da@example.org") is not None, "spelled otherwise it is the same account"
    assert guess(auth, email="b@example.org") is None


def test_guessing_many_accounts_is_stopped_from_one_address(auth):
    for number in range(20):
        assert guess(auth, email=f"{number}@example.org") is None
    assert guess(auth, email="fresh@example.org") == timedelta(seconds=30)
    assert guess(auth, email="fresh@example.org", address="198.51.100.1") is None


def test_the_wait_grows_and_ends(auth):
    for _ in range(5):
        guess(auth)
    later = NOW + timedelta(seconds=30)
    assert guess(auth, at=later) is None
    assert guess(auth, at=later) == timedelta(seconds=60)
    assert guess(auth, at=NOW + timedelta(days=2)) is None
    assert guess(auth, at=NOW + timedelta(days=2)) is None, "counting began anew"


def test_the_right_password_is_not_a_guess(auth):
    for _ in range(30):
        assert guess(auth) is None
        throttle.was_right(auth, "ada@example.org", "192.0.2.1", now=NOW)


def test_unknown_sessions_are_not_found(auth):
    assert sessions.find_session(auth, uuid.uuid4()) is None
