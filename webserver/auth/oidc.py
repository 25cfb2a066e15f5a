"""Logging in with an OpenID Connect provider: authorization code with PKCE, state and nonce.

What has to come back stands in a signed cookie of ten minutes, so that an answer counts only in the browser that asked,
and once. The provider's keys are read from where its own discovery document says; algorithms are ours to choose.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import jwt

from agentflow.clock import utc_now
from agentflow.keys import KeyRing
from agentflow.settings import Settings
from webserver.errors import Forbidden, Unauthenticated, Unavailable

LIFETIME = timedelta(minutes=10)  #: From the start of a login to the answer.
COOKIE = "agentflow_oidc"
ALGORITHMS = ["RS256", "ES256", "PS256", "EdDSA"]  #: Never `none`, never one whose key the provider publishes: HS256.
_TIMEOUT = 10.0  # seconds
_LARGEST = 2**20  # bytes of an answer
_KEY_PURPOSE = "agentflow oidc login v1"
_SCOPE = "openid email profile"
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the provider vouches for."""

    issuer: str
    subject: str
    email: str | None  #: Only if the provider has verified it.
    name: str


class Provider:
    """The provider of the settings."""

    def __init__(self, settings: Settings, redirect_uri: str) -> None:
        self._issuer = settings.oidc_issuer.rstrip("/")
        self._client_id = settings.oidc_client_id
        self._client_secret = settings.oidc_client_secret
        self._redirect_uri = redirect_uri

    def start(self, ring: KeyRing) -> tuple[str, str]:
        """Where to send the browser, and the cookie to give it.

        Raises:
            Unavailable: The provider does not answer.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": _SCOPE,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "exp": utc_now() + LIFETIME}
        cookie = jwt.encode(kept, ring.primary.derive(_KEY_PURPOSE), "HS256", headers={"kid": ring.primary.id})
        return f"{self._endpoint('authorization_endpoint')}?{urlencode(query)}", cookie

    def finish(self, ring: KeyRing, cookie: str, state: str, code: str) -> Identity:
        """Who has logged in there.

        Raises:
            Unauthenticated: The answer belongs to no login of this browser, or the provider does not stand by it.
            Unavailable: The provider does not answer.
        """
        kept = _read_cookie(ring, cookie)
        if kept is None or not state or not secrets.compare_digest(kept["state"].encode(), state.encode()):
            raise Unauthenticated("This answer belongs to no login that was begun here.", hint="begin again")
        answer = self._post(
            self._endpoint("token_endpoint"),
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._redirect_uri,
                "client_id": self._client_id,
                "client_secret": self._client_secret,
                "code_verifier": kept["verifier"],
            },
        )
        claims = self._read_id_token(str(answer.get("id_token", "")))
        if not secrets.compare_digest(str(claims.get("nonce", "")).encode(), kept["nonce"].encode()):
            raise Unauthenticated("The provider's answer is for another login.", hint="begin again")
        verified = claims.get("email") if claims.get("email_verified") is True else None
        return Identity(self._issuer, str(claims["sub"]), verified, str(claims.get("name", ""))[:200])

    def _read_id_token(self, text: str) -> dict[str, Any]:
        try:
            wanted = jwt.get_unverified_header(text).get("kid")
            keys = jwt.PyJWKSet.from_dict(self._get(self._endpoint("jwks_uri"))).keys
            key = next(key for key in keys if wanted is None or key.key_id == wanted)
            claims: dict[str, Any] = jwt.decode(
                text,
                key,
                ALGORITHMS,
                audience=self._client_id,
                issuer=[self._issuer, f"{self._issuer}/"],
                options={"require": ["iss", "aud", "sub", "exp", "iat"]},
                leeway=30,
            )
        except (jwt.PyJWTError, StopIteration, ValueError, TypeError) as error:
            raise Unauthenticated("The provider's answer does not hold.", hint="begin again") from error
        return claims

    def _endpoint(self, name: str) -> str:
        document = self._get(f"{self._issuer}/.well-known/openid-configuration")
        found = str(document.get(name, ""))
        parts = urlsplit(found)
        if str(document.get("issuer", "")).rstrip("/") != self._issuer or not (
            parts.scheme == "https" or parts.hostname in _HERE
        ):
            raise Unavailable("The identity provider describes itself wrongly.", hint="see AGENTFLOW_OIDC_ISSUER")
        return found

    def _get(self, url: str) -> dict[str, Any]:
        return _ask("GET", url)

    def _post(self, url: str, form: dict[str, str]) -> dict[str, Any]:
        return _ask("POST", url, data=form)


def _ask(method: str, url: str, **keys: Any) -> dict[str, Any]:
    try:
        with httpx.Client(timeout=_TIMEOUT, follow_redirects=False) as client:
            response = client.request(method, url, **keys)
        document = response.json() if len(response.content) <= _LARGEST else None
    except (httpx.HTTPError, ValueError) as error:
        raise _silent() from error
    if response.status_code in (400, 401, 403):
        raise Unauthenticated("The identity provider refuses this login.", hint="begin again")
    if response.status_code != httpx.codes.OK or not isinstance(document, dict):
        raise _silent()
    return document


def _silent() -> Unavailable:
    return Unavailable("The identity provider does not answer as it should.", hint="try again later")


def _read_cookie(ring: KeyRing, cookie: str) -> dict[str, str] | None:
    try:
        key = ring.find(str(jwt.get_unverified_header(cookie).get("kid")))
        if key is None:
            return None
        kept: dict[str, str] = jwt.decode(
            cookie, key.derive(_KEY_PURPOSE), ["HS256"], options={"require": ["state", "nonce", "verifier", "exp"]}
        )
    except jwt.PyJWTError:
        return None
    return kept


def known_only(user: int | None) -> int:
    """The user of an identity.

    Raises:
        Forbidden: There is none, and none is made by themselves.
    """
    if user is None:
        raise Forbidden("There is no account for you here.", hint="ask an administrator to make one with your address")
    return user
