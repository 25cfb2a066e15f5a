"""Access tokens: JWTs of 15 minutes. They say who somebody is; what they may do is asked of the database each time."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import jwt

from agentflow.keys import KeyRing, SecretKey

LIFETIME = timedelta(minutes=15)
ALGORITHM = "HS256"
ISSUER, AUDIENCE = "agentflow", "agentflow-api"
_KEY_PURPOSE = "agentflow access tokens v1"
_LONGEST = 2000  # characters
_CLAIMS = ["iss", "aud", "sub", "sid", "iat", "exp"]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a good token says."""

    user: int
    session: uuid.UUID


def write_access_token(ring: KeyRing, user: int, session: uuid.UUID, *, now: datetime) -> str:
    """A token for a session's user."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user),
        "sid": session.hex,
        "iat": now,
        "exp": now + LIFETIME,
    }
    return jwt.encode(claims, _key(ring.primary), ALGORITHM, headers={"kid": ring.primary.id})


def read_access_token(ring: KeyRing, text: str) -> AccessToken | None:
    """What a token says; None when it is not ours, not for us, or over.

    The algorithm is ours to choose, never the token's: `none` and every other one are refused.
    """
    if len(text) > _LONGEST:
        return None
    try:
        key = ring.find(str(jwt.get_unverified_header(text).get("kid")))
        if key is None:
            return None
        claims = jwt.decode(
            text, _key(key), [ALGORITHM], issuer=ISSUER, audience=AUDIENCE, options={"require": _CLAIMS}
        )
        return AccessToken(int(claims["sub"]), uuid.UUID(hex=claims["sid"]))
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError):
        return None


def _key(key: SecretKey) -> bytes:
    return key.derive(_KEY_PURPOSE)
