"""Envelope encryption: each value under a random key of its own, and that key under the secret key.

Both layers are AES-256-GCM with a random 96-bit nonce in front. Both are bound to the row (table, workspace, name), so a
row that was copied over another one does not decrypt. Rotation wraps the small keys anew and leaves the values alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentflow.errors import SecretUnreadable
from agentflow.keys import ENVIRONMENT, KeyRing, SecretKey

_PURPOSE: Final = "agentflow secrets v1"
_NONCE: Final = 12  # bytes
_KEY_BITS: Final = 256


@dataclass(frozen=True, slots=True)
class Place:
    """The row that a value belongs to."""

    table: str  #: `secret` or `connection`.
    workspace: int
    name: str

    def bound(self, layer: str) -> bytes:
        """What a layer's ciphertext is bound to."""
        return json.dumps([layer, self.table, self.workspace, self.name]).encode()

    def __str__(self) -> str:
        """For messages."""
        return f"the {self.table} `{self.name}`"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as it is stored."""

    ciphertext: bytes = field(repr=False)
    key_id: str  #: Of the secret key that wraps the value's own key.
    wrapped_key: bytes = field(repr=False)


def seal(ring: KeyRing, place: Place, value: str) -> Sealed:
    """Encrypt a value for its row."""
    own = AESGCM.generate_key(_KEY_BITS)
    ciphertext = _encrypt(own, value.encode(), place.bound("value"))
    return Sealed(ciphertext, ring.primary.id, _wrap(ring.primary, own, place))


def unseal(ring: KeyRing, place: Place, sealed: Sealed) -> str:
    """The value.

    Raises:
        SecretUnreadable: The key that encrypted it is not here, or the row was changed by other means than ours.
    """
    own = _unwrap(ring, place, sealed)
    return _decrypt(own, sealed.ciphertext, place.bound("value"), place).decode()


def rewrap(ring: KeyRing, place: Place, sealed: Sealed) -> Sealed:
    """The same value under the primary key.

    Raises:
        SecretUnreadable: As `unseal`; the value itself is not looked at.
    """
    own = _unwrap(ring, place, sealed)
    return Sealed(sealed.ciphertext, ring.primary.id, _wrap(ring.primary, own, place))


def _wrap(key: SecretKey, own: bytes, place: Place) -> bytes:
    return _encrypt(key.derive(_PURPOSE), own, place.bound("key"))


def _unwrap(ring: KeyRing, place: Place, sealed: Sealed) -> bytes:
    key = ring.find(sealed.key_id)
    if key is None:
        raise SecretUnreadable(
            f"{place} was encrypted with the key {sealed.key_id}, which is not here (here: {', '.join(ring.ids)})",
            hint=f"put the earlier key behind the current one, {ENVIRONMENT}=NEW,OLD, or set the {place.table} anew",
        )
    return _decrypt(key.derive(_PURPOSE), sealed.wrapped_key, place.bound("key"), place)


def _encrypt(key: bytes, data: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, data, bound)


def _decrypt(key: bytes, data: bytes, bound: bytes, place: Place) -> bytes:
    try:
        return AESGCM(key).decrypt(data[:_NONCE], data[_NONCE:], bound)
    except (InvalidTag, ValueError):  # ValueError: cut off within the nonce
        raise SecretUnreadable(
            f"{place} does not decrypt: its row was damaged, or copied from another one",
            hint=f"set the {place.table} anew",
        ) from None
