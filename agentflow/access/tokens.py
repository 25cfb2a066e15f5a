"""Tokens of sessions: texts that only we can make, and that the database alone does not tell.

A token names its session and carries a code (HMAC-SHA256) over its purpose, its number and the session's salt, under a
key derived from the secret key. So a copy of the database opens no session (the key is missing), nor does the secret
key alone (the salts are), and a refresh token that was used before is told from one that was never ours.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from typing import Literal

from agentflow.keys import KeyRing, SecretKey

Purpose = Literal["cookie", "csrf", "refresh"]

SALT = 16  #: Bytes.
_KEY_PURPOSE = "agentflow session tokens v1"
_LONGEST = 200  # characters


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says; whether it is ours only `is_ours` tells."""

    key_id: str
    session: uuid.UUID
    generation: int
    code: bytes


def new_salt() -> bytes:
    """Of a new session."""
    return secrets.token_bytes(SALT)


def write_token(ring: KeyRing, purpose: Purpose, session: uuid.UUID, salt: bytes, generation: int = 0) -> str:
    """A token of this session."""
    code = _code(ring.primary, purpose, session, salt, generation)
    return f"{ring.primary.id}.{session.hex}.{generation}.{base64.urlsafe_b64encode(code).decode().rstrip('=')}"


def read_token(text: str) -> Token | None:
    """The parts of a token; None when it is not built like one."""
    parts = text.split(".")
    if len(text) > _LONGEST or not text.isascii() or len(parts) != 4:
        return None
    key_id, session, generation, code = parts
    if not (generation.isdigit() and len(generation) < 10 and len(session) == 32):
        return None
    try:
        return Token(
            key_id, uuid.UUID(hex=session), int(generation), base64.b64decode(code + "=", b"-_", validate=True)
        )
    except ValueError:
        return None


def is_ours(ring: KeyRing, purpose: Purpose, token: Token, salt: bytes) -> bool:
    """Whether we made it for this purpose."""
    key = ring.find(token.key_id)
    return key is not None and hmac.compare_digest(
        token.code, _code(key, purpose, token.session, salt, token.generation)
    )


def _code(key: SecretKey, purpose: Purpose, session: uuid.UUID, salt: bytes, generation: int) -> bytes:
    message = b"\0".join([purpose.encode(), session.bytes, salt, str(generation).encode()])
    return hmac.digest(key.derive(_KEY_PURPOSE), message, "sha256")


def random_token(prefix: str) -> str:
    """256 random bits as text."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def token_hash(text: str) -> bytes:
    """What is stored of a random token. A plain hash is enough for what cannot be guessed."""
    return hashlib.sha256(text.encode()).digest()
