"""Logging in with an identity provider: a small one of ours, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from agentflow.access import Role, links, users
from agentflow.clock import utc_now
from agentflow.errors import SettingsError
from agentflow.settings import load_settings
from tests.auth_kit import AuthKit
from webserver.auth.oidc import COOKIE

CLIENT, SECRET = "agentflow-client", "client-secret-" + "s" * 40
START, BACK = "/auth/oidc/start", "/auth/oidc/callback"


class Provider(ThreadingHTTPServer):
    """Answers discovery, keys and the exchange of codes; what it claims, a test says."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server_port}"
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.codes = {}
        self.claims = {"sub": "s-1", "email": "ada@example.org", "email_verified": True, "name": "Ada"}
        self.sign = lambda claims: jwt.encode(claims, self.key, "RS256", headers={"kid": "k1"})
        self.discovery = {}

    def authorise(self, address):
        """What the browser's visit does: a code for the challenge and nonce of this address."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return code, asked


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/.well-known/openid-configuration":
            issuer = self.server.issuer
            self.answer(
                {
                    "issuer": issuer,
                    "authorization_endpoint": f"{issuer}/authorize",
                    "token_endpoint": f"{issuer}/token",
                    "jwks_uri": f"{issuer}/jwks",
                }
                | self.server.discovery
            )
        elif self.path == "/jwks":
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.server.key.public_key()))
            self.answer({"keys": [key | {"kid": "k1", "alg": "RS256", "use": "sig"}]})

    def do_POST(self):
        form = {k: v[0] for k, v in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        asked = self.server.codes.pop(form["code"], None)
        proof = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        right = asked and (form["client_id"], form["client_secret"]) == (CLIENT, SECRET)
        if not right or proof != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            self.answer({"error": "invalid_grant"}, 400)
            return
        now = int(time.time())
        claims = {"iss": self.server.issuer, "aud": CLIENT, "iat": now, "exp": now + 60, "nonce": asked["nonce"]}
        self.answer(
            {"access_token": "x", "token_type": "Bearer", "id_token": self.server.sign(claims | self.server.claims)}
        )

    def answer(self, document, status=200):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def provider():
    server = Provider()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def web(engine, tmp_path, provider):
    kit = AuthKit(
        engine, tmp_path, oidc_issuer=provider.issuer, oidc_client_id=CLIENT, oidc_client_secret=SECRET,
        oidc_default_role="viewer",
    )  # fmt: skip
    yield kit
    kit.close()


def begin(web):
    answer = web.call("GET", START)
    assert answer.status_code == 302
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    return answer.headers["Location"], {"Cookie": cookie.partition(";")[0]}


def finish(web, headers, **query):
    return web.call("GET", BACK, headers, query_string=query)


def log_in(web, provider):
    address, cookie = begin(web)
    code, asked = provider.authorise(address)
    return finish(web, cookie, code=code, state=asked["state"])


def me(web, answer):
    cookies = {c.partition("=")[0]: c.partition(";")[0] for c in answer.headers.getlist("Set-Cookie")}
    return web.call("GET", "/auth/me", {"Cookie": cookies["agentflow_session"]}).get_json()


def test_a_stranger_comes_in_with_the_default_role_and_is_known_afterwards(web, provider):
    first = log_in(web, provider)
    assert (first.status_code, first.headers["Location"]) == (302, "/")
    who = me(web, first)
    assert (who["email"], who["role"], who["kind"]) == ("ada@example.org", "viewer", "session")
    provider.claims |= {"email": "renamed@example.org"}
    assert me(web, log_in(web, provider))["id"] == who["id"], "the subject counts, not the address"


def test_a_verified_address_links_a_user_who_is_there(web, provider):
    ada = web.user("ada@example.org", Role.EDITOR)
    assert me(web, log_in(web, provider))["id"] == str(ada)
    provider.claims |= {"sub": "s-2"}
    assert log_in(web, provider).status_code == 403, "the address is another identity's now"


def test_who_made_a_user_for_somebody_s_address_is_out_once_the_owner_comes(web, provider):
    """An admin of any workspace can make a user for an address that is not theirs, and knows its password and links."""
    ada = web.user("ada@example.org", Role.EDITOR)
    with web.engine.begin() as connection:
        token = links.make_link(connection, ada, "login", now=utc_now(), actor="test")["token"]
    bearer = web.bearer("ada@example.org")
    assert web.login("ada@example.org").status_code == 200
    assert log_in(web, provider).status_code == 302
    web.forget()
    assert web.login("ada@example.org").status_code == 401
    assert web.call("GET", "/auth/me", bearer).status_code == 401
    assert web.call("POST", "/auth/link", body={"token": token}).status_code == 401
    assert log_in(web, provider).status_code == 302


@pytest.mark.parametrize("claims", [{"email_verified": False}, {"email_verified": "true"}, {"email": None}])
def test_an_address_that_the_provider_has_not_verified_is_nobody_s(web, provider, claims):
    web.user("ada@example.org", Role.ADMIN)
    provider.claims |= claims
    assert log_in(web, provider).status_code == 403


def test_strangers_stay_out_unless_a_role_is_set_for_them(engine, tmp_path, provider):
    kit = AuthKit(engine, tmp_path, oidc_issuer=provider.issuer, oidc_client_id=CLIENT, oidc_client_secret=SECRET)
    assert log_in(kit, provider).status_code == 403
    kit.close()


def test_a_disabled_user_stays_out(web, provider):
    log_in(web, provider)
    with web.engine.begin() as connection:
        (user,) = users.list_users(connection)[0]
        users.update_user(connection, user["id"], disabled=True, actor="test")
    assert log_in(web, provider).status_code == 403


# -- answers that are not what was asked for ---------------------------------------------------------------------------
def test_an_answer_counts_only_in_the_browser_that_asked(web, provider):
    """Otherwise an attacker could log a victim in to the attacker's account, or use a stolen code."""
    address, mine = begin(web)
    code, asked = provider.authorise(address)
    _, others = begin(web)
    for headers, state in (
        (None, asked["state"]),
        (others, asked["state"]),
        (mine, "x"),
        (mine, ""),
        ({"Cookie": f"{COOKIE}=x"}, "x"),
    ):
        assert finish(web, headers, code=code, state=state).status_code == 401
    assert finish(web, mine, code=code, state=asked["state"]).status_code == 302
    assert finish(web, mine, code=code, state=asked["state"]).status_code == 401, "a code is good once"


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "another"}, {"aud": "another-client"}, {"iss": "https://evil.test"}, {"exp": 1}, {"sub": None},
    ],
)  # fmt: skip
def test_an_id_token_for_another_login_client_or_time_is_refused(web, provider, change):
    provider.claims |= change
    provider.sign = lambda claims: jwt.encode(
        {name: value for name, value in claims.items() if value is not None},
        provider.key,
        "RS256",
        headers={"kid": "k1"},
    )
    assert log_in(web, provider).status_code == 401


@pytest.mark.filterwarnings("ignore:The HMAC key")
def test_an_id_token_that_the_provider_did_not_sign_is_refused(web, provider):
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for sign in (
        lambda claims: jwt.encode(claims, None, "none", headers={"kid": "k1"}),
        lambda claims: jwt.encode(claims, stranger, "RS256", headers={"kid": "k1"}),
        lambda claims: jwt.encode(claims, SECRET, "HS256", headers={"kid": "k1"}),
        lambda claims: jwt.encode(claims, provider.key, "RS256", headers={"kid": "k2"}),
        lambda _claims: "nonsense",
    ):
        provider.sign = sign
        assert log_in(web, provider).status_code == 401


def test_a_provider_that_is_away_or_describes_itself_wrongly_is_told(web, provider):
    for wrong in (
        {"issuer": "https://evil.test"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://evil.test/"},
    ):
        provider.discovery = wrong
        assert web.call("GET", START).status_code == 503
    provider.discovery = {}
    assert finish(web, None, error="access_denied", state="x").status_code == 401


def test_the_login_page_offers_the_provider_if_there_is_one(web, provider, auth_web):
    assert "/auth/oidc/start" in web.client.get("/login").text
    assert "/auth/oidc/start" not in auth_web.client.get("/login").text


def test_without_a_provider_there_is_no_such_login(auth_web):
    assert auth_web.call("GET", START).status_code == 404
    assert finish(auth_web, None, code="x", state="x").status_code == 404


def test_a_provider_is_reached_over_https_only(monkeypatch):
    monkeypatch.setenv("AGENTFLOW_OIDC_ISSUER", "http://idp.example.org")
    with pytest.raises(SettingsError, match="https"):
        load_settings()
