"""Logging in and out with the real credentials: tokens, cookies, keys, links."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import jwt
import pytest

from agentflow.access import Role, api_keys, links, passwords, sessions, users
from agentflow.clock import utc_now
from tests.auth_kit import OTHER, PASSWORD, RING
from webserver.auth import authenticate
from webserver.auth.cookies import CSRF_COOKIE

ADA = "ada@example.org"


@pytest.fixture
def web(auth_web):
    auth_web.user(ADA, Role.EDITOR, name="Ada")
    return auth_web


def cookies_of(response):
    return {c.partition("=")[0]: c for c in response.headers.getlist("Set-Cookie")}


def bearer(tokens):
    return {"Authorization": f"Bearer {tokens['access_token']}"}


# -- tokens ------------------------------------------------------------------------------------------------------------
def test_a_password_gives_tokens_which_say_who_one_is(web):
    tokens = web.login(" Ada@Example.org").get_json()
    assert tokens["expires_in"] == 900
    me = web.call("GET", "/auth/me", bearer(tokens)).get_json()
    assert {k: me[k] for k in ("kind", "name", "email", "display_name", "workspace", "role", "instance_admin")} == {
        "kind": "user",
        "name": f"user:{ADA}",
        "email": ADA,
        "display_name": "Ada",
        "workspace": "default",
        "role": "editor",
        "instance_admin": False,
    }
    assert me["workspaces"] == [{"name": "default", "role": "editor"}]


def test_refresh_gives_the_next_pair_and_twice_ends_the_session(web, monkeypatch):
    first = web.login(ADA).get_json()
    second = web.call("POST", "/auth/refresh", body={"refresh_token": first["refresh_token"]}).get_json()
    assert web.call("GET", "/auth/me", bearer(second)).status_code == 200
    monkeypatch.setattr(sessions, "GRACE", timedelta(seconds=-1))
    assert web.call("POST", "/auth/refresh", body={"refresh_token": first["refresh_token"]}).status_code == 401
    for tokens in (first, second):
        assert web.call("GET", "/auth/me", bearer(tokens)).status_code == 401, "the access tokens are dead at once"
    assert web.call("POST", "/auth/refresh", body={"refresh_token": second["refresh_token"]}).status_code == 401


def test_logout_ends_both_tokens(web):
    tokens = web.login(ADA).get_json()
    assert web.call("POST", "/auth/logout", bearer(tokens)).status_code == 204
    assert web.call("GET", "/auth/me", bearer(tokens)).status_code == 401
    assert web.call("POST", "/auth/refresh", body={"refresh_token": tokens["refresh_token"]}).status_code == 401


def test_an_access_token_is_over_after_fifteen_minutes(web):
    assert web.call("GET", "/auth/me", web.bearer(ADA, age=timedelta(minutes=14))).status_code == 200
    assert web.call("GET", "/auth/me", web.bearer(ADA, age=timedelta(minutes=16))).status_code == 401


def forged(web, *, header=None, claims=None, key=None):
    session = web.session(ADA)
    now = utc_now()
    body = {
        "iss": "agentflow", "aud": "agentflow-api", "sub": str(web.ids[ADA]), "sid": session.id.hex, "iat": now,
        "exp": now + timedelta(minutes=5),
    } | (claims or {})  # fmt: skip
    body = {name: value for name, value in body.items() if value is not None}
    own = RING.primary.derive("agentflow access tokens v1")
    options = {"algorithm": "HS256", "headers": {"kid": RING.primary.id}} | (header or {})
    return jwt.encode(body, own if key is None else key, **options)


def none_algorithm(web):
    parts = forged(web).split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": RING.primary.id}).encode()).decode().rstrip("=")
    return f"{head}.{parts[1]}."


@pytest.mark.filterwarnings("ignore:The HMAC key is 32 bytes")
@pytest.mark.parametrize(
    "make",
    [
        none_algorithm,
        lambda web: none_algorithm(web) + forged(web).split(".")[2],
        lambda web: forged(web, key=b"x" * 32),
        lambda web: forged(web, header={"headers": {"kid": "00000000"}}),
        lambda web: forged(web, header={"headers": {}}),
        lambda web: forged(web, header={"algorithm": "HS512"}),
        lambda web: forged(web, claims={"iss": "somebody"}),
        lambda web: forged(web, claims={"aud": "another-api"}),
        lambda web: forged(web, claims={"exp": None}),
        lambda web: forged(web, claims={"exp": 1}),
        lambda web: forged(web, claims={"sid": None}),
        lambda web: forged(web, claims={"sid": "0" * 32}),
        lambda web: forged(web, claims={"sub": "999999"}),
        lambda web: forged(web, claims={"sub": "0 OR 1=1"}),
        lambda web: forged(web, claims={"iat": 99999999999}),
        lambda web: forged(web)[:-2],
        lambda web: "a.b.c",
        lambda web: "x" * 100_000,
        lambda web: "\u00e9",
        lambda web: "",
    ],
)
def test_tokens_that_are_not_ours_are_refused(web, make):
    assert web.call("GET", "/auth/me", {"Authorization": f"Bearer {forged(web)}"}).status_code == 200, (
        "the kit is right"
    )
    assert web.call("GET", "/auth/me", {"Authorization": f"Bearer {make(web)}"}).status_code == 401


def test_a_token_of_one_kind_is_none_of_another(web):
    tokens = web.login(ADA).get_json()
    for text in (tokens["refresh_token"], web.cookies(ADA)["X-CSRF-Token"]):
        assert web.call("GET", "/auth/me", {"Authorization": f"Bearer {text}"}).status_code == 401
        assert web.call("GET", "/auth/me", {"Cookie": f"agentflow_session={text}"}).status_code == 401
    assert web.call("GET", "/auth/me", {"Authorization": "Basic YTpi"}).status_code == 401
    assert web.call("GET", "/auth/me", web.bearer(ADA) | web.key("read")).status_code == 401, "two credentials"


# -- rights are asked again --------------------------------------------------------------------------------------------
def test_rights_that_were_taken_stop_within_seconds(web, monkeypatch):
    now = [0.0]
    web.app.extensions[authenticate.EXTENSION] = authenticate.Memory(clock=lambda: now[0])
    headers, key = web.bearer(ADA), web.key("read", user=ADA)
    for credentials in (headers, key):
        assert web.call("GET", "/workflows", credentials).status_code == 200
    with web.engine.begin() as connection:
        users.update_user(connection, web.ids[ADA], disabled=True, actor="test")
    now[0] = authenticate.FRESH
    assert authenticate.FRESH <= 5
    for credentials in (headers, key):
        assert web.call("GET", "/workflows", credentials).status_code == 401


def test_what_was_read_before_a_right_was_taken_is_not_remembered(web, monkeypatch):
    read = authenticate.do_as_auth

    def while_it_is_revoked(work):
        found = read(work)
        with web.engine.begin() as connection:
            api_keys.revoke_api_key(connection, key["id"], actor="test", workspace="default")
        web.forget()
        return found

    key = web.new_key("read")
    with monkeypatch.context() as patch:
        patch.setattr(authenticate, "do_as_auth", while_it_is_revoked)
        assert web.call("GET", "/workflows", {"X-API-Key": key["key"]}).status_code == 200
    assert web.call("GET", "/workflows", {"X-API-Key": key["key"]}).status_code == 401


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(authenticate, "_MOST", 3)
    memory = authenticate.Memory()
    for number in range(10):
        memory.put(bytes([number]), authenticate.Bearer(None), memory.generation)
    assert [n for n in range(10) if memory.get(bytes([n]))] == [7, 8, 9]


# -- browsers ----------------------------------------------------------------------------------------------------------
def test_a_browser_gets_a_cookie_that_scripts_cannot_read(web):
    response = web.call("POST", "/auth/session", body={"email": ADA, "password": PASSWORD})
    found = cookies_of(response)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(found["agentflow_session"].split("; "))
    assert "HttpOnly" not in found[CSRF_COOKIE]
    assert response.get_json()["csrf_token"] in found[CSRF_COOKIE]
    assert "Secure" not in found["agentflow_session"]


def test_over_https_cookies_are_secure_and_bound_to_the_host(web):
    response = web.call(
        "POST", "/auth/session", body={"email": ADA, "password": PASSWORD}, base_url="https://flow.test"
    )
    found = cookies_of(response)
    assert "Secure" in found["__Host-agentflow_session"].split("; ")
    assert "Secure" in found[CSRF_COOKIE].split("; ")
    assert "Domain" not in found["__Host-agentflow_session"]


def test_a_change_with_a_cookie_needs_the_session_s_csrf_token(web):
    good, others = web.cookies(ADA), web.cookies(ADA)
    bare = {"Cookie": good["Cookie"]}
    assert web.call("GET", "/auth/me", bare).get_json()["kind"] == "session"
    for token in (None, "", "x", others["X-CSRF-Token"], good["X-CSRF-Token"][:-1]):
        headers = bare | ({} if token is None else {"X-CSRF-Token": token})
        answer = web.call("POST", "/auth/logout", headers)
        assert (answer.status_code, answer.get_json()["type"]) == (403, "urn:agentflow:problem:csrf"), token
    for header in ({"Origin": "https://evil.test"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert web.call("POST", "/auth/logout", good | header).status_code == 403, header
    done = web.call("POST", "/auth/logout", good | {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"})
    assert done.status_code == 204
    assert all("Max-Age=0" in cookie or "Expires=Thu, 01 Jan 1970" in cookie for cookie in cookies_of(done).values())
    web.forget()
    assert web.call("GET", "/auth/me", bare).status_code == 401


def test_the_csrf_token_outlives_a_rotation_of_the_key(web):
    from agentflow.access.tokens import write_token
    from agentflow.keys import KeyRing, SecretKey

    old = web.settings.secret_key
    headers = web.cookies(ADA)
    web.app.extensions["agentflow"].settings = web.settings.model_copy(update={"secret_key": f"{'n' * 40},{old}"})
    assert write_token(KeyRing([SecretKey("n" * 40)]), "csrf", web.session(ADA).id, b"")
    assert web.call("POST", "/auth/logout", headers).status_code == 204


def test_login_takes_over_nothing_that_the_browser_brought(web):
    """Session fixation: an attacker's cookie does not become the victim's session."""
    planted = web.cookies(ADA)["Cookie"]
    headers = {"Cookie": planted}
    response = web.call("POST", "/auth/session", headers, {"email": ADA, "password": PASSWORD})
    fresh = cookies_of(response)["agentflow_session"].partition("=")[2].partition(";")[0]
    assert fresh not in planted
    assert fresh.split(".")[1] != planted.split(".")[1], "another session"


def test_another_site_cannot_log_a_browser_in(web):
    body = {"email": ADA, "password": PASSWORD}
    for header in ({"Origin": "https://evil.test"}, {"Sec-Fetch-Site": "cross-site"}):
        assert web.call("POST", "/auth/session", header, body).status_code == 403
    form = web.client.post("/api/v1/auth/session", data=body)
    assert form.status_code == 415, "a form needs no permission of the browser, and is not read"


# -- no word, no time tells who exists ---------------------------------------------------------------------------------
def test_who_exists_is_told_neither_by_words_nor_by_work(web, monkeypatch):
    web.user("off@example.org", Role.VIEWER)
    web.user("linked@example.org", Role.VIEWER, password=None)
    with web.engine.begin() as connection:
        users.update_user(connection, web.ids["off@example.org"], disabled=True, actor="test")
    checks, verify = [], passwords.verify_password
    monkeypatch.setattr(passwords, "verify_password", lambda *given: checks.append(1) or verify(*given))
    told, statements = [], []
    cases = [(ADA, "wrong password!"), ("none@example.org", PASSWORD), ("off@example.org", PASSWORD)]
    for email, password in [*cases, ("linked@example.org", PASSWORD), ("not an address", PASSWORD)]:
        checks.clear()
        response = web.login(email, password)
        told.append((response.status_code, response.get_json(), sorted(response.headers.keys()), len(checks)))
    assert told == [told[0]] * 5, statements
    assert (told[0][0], told[0][3]) == (401, 1)


@pytest.mark.parametrize("outdated", [False, True])
def test_a_login_that_a_reset_overtakes_fails_and_brings_no_password_back(web, monkeypatch, outdated):
    """A check takes long enough for an administrator to void the password that somebody else has got hold of."""
    verify = passwords.verify_password

    def overtaken(*given):
        right = verify(*given)
        with web.engine.begin() as connection:
            links.make_link(connection, web.ids[ADA], "reset", now=utc_now(), actor="test")
        return right

    monkeypatch.setattr(passwords, "verify_password", overtaken)
    monkeypatch.setattr(passwords, "is_outdated", lambda _hash: outdated)
    assert web.login(ADA).status_code == 401
    monkeypatch.setattr(passwords, "verify_password", verify)
    assert web.login(ADA).status_code == 401
    with web.engine.begin() as connection:
        assert not users.show_user(connection, web.ids[ADA])["has_password"]


def test_guessing_is_slowed_down_alike_for_everybody(web):
    for email in (ADA, "none@example.org"):
        answers = [web.login(email, "wrong password!", environ_base={"REMOTE_ADDR": "192.0.2.9"}) for _ in range(6)]
        assert [a.status_code for a in answers] == [401] * 5 + [429]
        assert answers[-1].headers["Retry-After"] == "30"
    assert web.login(ADA, environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 429, "also with the right one"


# -- links -------------------------------------------------------------------------------------------------------------
def make_link(web, purpose, email=ADA):
    with web.engine.begin() as connection:
        return links.make_link(connection, web.ids[email], purpose, now=utc_now(), actor="test")["token"]


def test_a_one_time_link_logs_a_browser_in_once(web):
    token = make_link(web, "login")
    evil = {"Origin": "https://evil.test"}
    assert web.call("POST", "/auth/link", evil, {"token": token}).status_code == 403, (
        "another site's page cannot use it"
    )
    response = web.call("POST", "/auth/link", body={"token": token})
    cookie = cookies_of(response)["agentflow_session"].partition(";")[0]
    assert web.call("GET", "/auth/me", {"Cookie": cookie}).get_json()["email"] == ADA
    assert web.call("POST", "/auth/link", body={"token": token}).status_code == 401


def test_a_reset_link_sets_a_password_and_a_bad_one_does_not_use_it_up(web):
    token = make_link(web, "reset")
    assert web.login(ADA).status_code == 401, "the old password is void"
    assert web.call("POST", "/auth/link", body={"token": token}).status_code == 422
    assert web.call("POST", "/auth/link", body={"token": token, "password": "short"}).status_code == 422
    assert web.call("POST", "/auth/link", body={"token": token, "password": "a new good password"}).status_code == 200
    assert web.login(ADA, "a new good password").status_code == 200


def test_the_first_administrator_comes_in_by_link_sets_a_password_and_makes_others(auth_web):
    with auth_web.engine.begin() as connection:
        token = links.first_login(connection, now=utc_now())
    response = auth_web.call("POST", "/auth/link", body={"token": token, "password": PASSWORD})
    csrf = response.get_json()["csrf_token"]
    headers = {"Cookie": cookies_of(response)["agentflow_session"].partition(";")[0], "X-CSRF-Token": csrf}
    made = auth_web.call("POST", "/users", headers, {"email": "b@example.org", "role": "editor"})
    assert made.status_code == 201
    link = made.get_json()["link"]["token"]
    assert auth_web.call("POST", "/auth/link", body={"token": link, "password": PASSWORD}).status_code == 200
    assert auth_web.login("b@example.org").status_code == 200


# -- one's own sessions and password -----------------------------------------------------------------------------------
def test_one_s_own_sessions_are_listed_and_ended(web):
    web.user("b@example.org", Role.VIEWER)
    here, there, foreign = web.bearer(ADA), web.session(ADA, "browser"), web.session("b@example.org")
    found = web.call("GET", "/auth/sessions", here).get_json()["items"]
    assert {item["id"]: item["current"] for item in found}[str(there.id)] is False
    assert sum(item["current"] for item in found) == 1
    assert web.call("DELETE", f"/auth/sessions/{there.id}", here).status_code == 204
    assert web.call("DELETE", f"/auth/sessions/{there.id}", here).status_code == 404
    assert web.call("DELETE", f"/auth/sessions/{foreign.id}", here).status_code == 404


def test_changing_the_password_ends_the_other_sessions(web):
    here, there = web.cookies(ADA), web.bearer(ADA)
    body = {"old_password": PASSWORD, "new_password": "another good password"}
    assert web.call("PUT", "/auth/password", here, body | {"old_password": "wrong password!"}).status_code == 401
    assert web.call("PUT", "/auth/password", here, body | {"new_password": "short"}).status_code == 422
    assert web.call("PUT", "/auth/password", here, body).status_code == 204
    assert web.call("GET", "/auth/me", here).status_code == 200
    assert web.call("GET", "/auth/me", there).status_code == 401
    assert web.login(ADA, "another good password").status_code == 200


# -- keys --------------------------------------------------------------------------------------------------------------
def test_a_key_does_what_its_scopes_and_its_user_allow(web):
    assert web.call("GET", "/auth/me", web.key("run", user=ADA)).get_json()["role"] == "operator"
    me = web.call("GET", "/auth/me", web.key("admin", user=ADA)).get_json()
    assert (me["kind"], me["role"], me["scopes"]) == ("key", "editor", ["admin"])
    assert web.call("PUT", "/variables/x", web.key("read"), {"value": 1}).status_code == 403
    assert web.call("PUT", "/variables/x", web.key("edit"), {"value": 1}).status_code == 201
    assert web.call("POST", "/auth/logout", web.key("admin")).status_code == 403
    for path in ("/auth/sessions",):
        assert web.call("GET", path, web.key("admin")).status_code == 403


def test_a_key_is_for_its_workspace_alone(web):
    key = web.key("read")
    assert web.call("GET", "/workflows", key | {"X-Workspace": "default"}).status_code == 200
    for name in (OTHER, "none", "x" * 5000, "a\tb", "' OR 1=1 --"):
        assert web.call("GET", "/workflows", key | {"X-Workspace": name}).status_code == 404, name


def test_keys_are_made_shown_once_and_revoked_by_admins(web):
    web.user("root@example.org", Role.ADMIN)
    admin = web.bearer("root@example.org")
    made = web.call("POST", "/api-keys", admin, {"name": "ci", "scopes": ["run", "read"]})
    assert made.status_code == 201
    key = {"X-API-Key": made.get_json()["key"]}
    assert web.call("GET", "/workflows", key).status_code == 200
    listed = web.call("GET", "/api-keys", admin).get_json()["items"]
    assert (listed[0]["name"], listed[0]["scopes"], listed[0]["user"]) == ("ci", ["read", "run"], "root@example.org")
    assert "key" not in listed[0]
    assert web.call("DELETE", f"/api-keys/{made.get_json()['id']}", admin).status_code == 204
    assert web.call("GET", "/workflows", key).status_code == 401, "at once in this process"
    for body in (
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "scopes": ["read"], "role": "admin"},
    ):
        assert web.call("POST", "/api-keys", admin, body).status_code == 422


# -- users and workspaces ----------------------------------------------------------------------------------------------
def test_an_admin_of_a_workspace_sees_and_governs_its_members_only(web):
    web.user("root@example.org", Role.ADMIN)
    stranger = web.user("stranger@example.org", Role.ADMIN, workspace=OTHER)
    admin = web.bearer("root@example.org")
    assert [u["email"] for u in web.call("GET", "/users", admin).get_json()["items"]] == [ADA, "root@example.org"]
    assert web.call("GET", "/users?all=true", admin).status_code == 403
    for method, path, body in [
        ("GET", f"/users/{stranger}", None),
        ("PUT", f"/users/{stranger}/role", {"role": "viewer"}),
        ("DELETE", f"/users/{stranger}/role", None),
    ]:
        assert web.call(method, path, admin, body).status_code == 404
    assert web.call("PUT", f"/users/{web.ids[ADA]}/role", admin, {"role": "viewer"}).status_code == 200
    assert web.call("PUT", "/variables/x", web.bearer(ADA), {"value": 1}).status_code == 403
    assert web.call("DELETE", f"/users/{web.ids[ADA]}/role", admin).status_code == 204
    assert web.call("GET", "/workflows", web.bearer(ADA)).status_code == 403


def test_nobody_makes_themselves_more(web):
    """Mass assignment: fields that are not offered are refused, and those that are, are authorised."""
    web.user("root@example.org", Role.ADMIN)
    admin = web.bearer("root@example.org")
    new = {"email": "c@example.org"}
    assert web.call("POST", "/users", admin, new | {"instance_admin": True}).status_code == 403
    for extra in ({"id": 1}, {"password_hash": "x"}, {"memberships": []}, {"disabled": False}, {"workspace_id": 1}):
        assert web.call("POST", "/users", admin, new | extra).status_code == 422, extra
    assert (
        web.call("PATCH", f"/users/{web.ids['root@example.org']}", admin, {"instance_admin": True}).status_code == 403
    )
    assert web.call("POST", f"/users/{web.ids[ADA]}/reset-password", admin).status_code == 403
    assert web.call("POST", "/workspaces", admin, {"name": "mine"}).status_code == 403


def test_an_instance_admin_governs_everybody(web):
    web.user("chief@example.org", instance_admin=True)
    chief = web.bearer("chief@example.org")
    assert web.call("POST", "/workspaces", chief, {"name": "lab"}).status_code == 201
    assert web.call("GET", "/workflows", chief | {"X-Workspace": "lab"}).status_code == 200
    assert {w["name"] for w in web.call("GET", "/workspaces", chief).get_json()["items"]} == {"default", "lab", OTHER}
    assert [w["name"] for w in web.call("GET", "/workspaces", web.bearer(ADA)).get_json()["items"]] == ["default"]
    assert [w["name"] for w in web.call("GET", "/workspaces", web.key("read")).get_json()["items"]] == ["default"]
    names, cursor = [], ""
    while cursor is not None:
        part = web.call("GET", f"/workspaces?limit=1{cursor and '&cursor=' + cursor}", chief).get_json()
        names, cursor = names + [w["name"] for w in part["items"]], part["next_cursor"]
    assert names == sorted({"default", "lab", OTHER})
    ada = f"/users/{web.ids[ADA]}"
    assert web.call("PATCH", ada, chief, {"disabled": True, "name": "A"}).get_json()["disabled"]
    assert web.login(ADA).status_code == 401
    assert web.call("PATCH", ada, chief, {"disabled": False}).status_code == 200
    link = web.call("POST", f"{ada}/reset-password", chief).get_json()["token"]
    assert web.login(ADA).status_code == 401
    assert web.call("POST", "/auth/link", body={"token": link, "password": PASSWORD}).status_code == 200
    assert web.call("PUT", f"{ada}/role", chief | {"X-Workspace": "lab"}, {"role": "admin"}).status_code == 200
    assert web.call("DELETE", ada, chief).status_code == 204
    assert web.call("GET", ada, chief).status_code == 404
