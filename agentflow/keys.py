"""The secret key: signs and encrypts what must not be forged or read (SEMANTICS 8).

`AGENTFLOW_SECRET_KEY`, or the file `secret_key` of the home, holds one key or several, divided by commas or blanks: the
first one encrypts, the others still decrypt what was encrypted before they were replaced. Nothing uses a key as it is:
every use derives its own key from it. A key's id is derived too, so nobody has to invent or keep names of keys.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from agentflow.errors import SettingsError
from agentflow.home import write_private
from agentflow.locks import FileLock

ENVIRONMENT = "AGENTFLOW_SECRET_KEY"
SHORTEST = 32  #: Characters; 256 bits in hex have 64, in base64 43.
_ID_BYTES = 4
_LOCK_TIMEOUT = 10.0  # seconds; the file is held for a moment only
_MAKE_ONE = f"make one with `openssl rand -hex 32` and set {ENVIRONMENT} to it on every machine"


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One key."""

    text: str = field(repr=False)

    @property
    def id(self) -> str:
        """Names the key without telling anything of it."""
        return self.derive("agentflow key id")[:_ID_BYTES].hex()

    def derive(self, purpose: str) -> bytes:
        """256 bits for one purpose (HKDF-SHA256)."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(self.text.encode())


class KeyRing:
    """The keys in force, newest first."""

    def __init__(self, keys: list[SecretKey]) -> None:
        """`keys` is not empty."""
        self.primary = keys[0]  #: Encrypts.
        self._keys = keys

    @cached_property
    def _by_id(self) -> dict[str, SecretKey]:
        return {key.id: key for key in self._keys}

    @property
    def ids(self) -> list[str]:
        """Ids of all keys, that of the primary first."""
        return list(self._by_id)

    def find(self, key_id: str) -> SecretKey | None:
        """The key of this id."""
        return self._by_id.get(key_id)


def key_file(home: Path) -> Path:
    """Where a generated key is kept."""
    return home.expanduser() / "secret_key"


def ensure_secret_key(given: str, home: Path) -> None:
    """Generate a key into the home, unless the settings give one or the home has one. The home must exist."""
    if given:
        return
    lock = FileLock(key_file(home).with_suffix(".lock"))
    lock.acquire("exclusive", _LOCK_TIMEOUT)
    try:
        if not key_file(home).exists():
            write_private(key_file(home), _generate() + "\n")
    finally:
        lock.release()


def add_key(given: str, home: Path) -> None:
    """Generate a new primary key into the home's file, in front of those that are there.

    Raises:
        SettingsError: The settings give the keys, so that the file is not looked at.
    """
    if given:
        raise SettingsError(
            f"{ENVIRONMENT} is set, so a new key cannot be generated into {key_file(home)}.",
            hint=f"put the new key in front yourself: {ENVIRONMENT}=NEW,OLD",
        )
    lock = FileLock(key_file(home).with_suffix(".lock"))
    lock.acquire("exclusive", _LOCK_TIMEOUT)
    try:
        old = key_file(home).read_text(encoding="utf-8").split() if key_file(home).exists() else []
        write_private(key_file(home), "\n".join([_generate(), *old]) + "\n")
    finally:
        lock.release()


def key_ring(given: str, home: Path) -> KeyRing:
    """The keys in force: those of the settings, else those of the home's file.

    Args:
        given: The setting `secret_key`.
        home: The setting `home`.

    Raises:
        SettingsError: There is none, or one is too short to be a random key.
    """
    where = ENVIRONMENT if given else str(key_file(home))
    texts = [text for text in re.split(r"[,\s]+", given or _read(home)) if text]
    if not texts:
        raise SettingsError(f"{where} holds no key.", hint=_MAKE_ONE)
    for number, text in enumerate(texts, 1):
        if len(text) < SHORTEST:
            raise SettingsError(
                f"{where}: key {number} has {len(text)} characters; a key is random text of at least {SHORTEST}.",
                hint=_MAKE_ONE,
            )
    return KeyRing([SecretKey(text) for text in texts])


def _read(home: Path) -> str:
    try:
        return key_file(home).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"There is no secret key: {ENVIRONMENT} is not set and {key_file(home)} cannot be read ({error.strerror}).",
            hint=_MAKE_ONE,
        ) from error


def _generate() -> str:
    return secrets.token_urlsafe(32)
