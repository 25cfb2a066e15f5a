"""Identifiers: UUIDv7 for runs and schedulers (RFC 9562), 128-bit fencing tokens."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def uuid7(at: datetime | None = None) -> uuid.UUID:
    """A UUIDv7 whose first 48 bits are the milliseconds of `at` (default: now)."""
    millis = (at - _EPOCH) // timedelta(milliseconds=1) if at is not None else time.time_ns() // 1_000_000
    value = (millis & (2**48 - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return uuid.UUID(int=value)


def uuid7_floor(at: datetime) -> uuid.UUID:
    """The smallest UUID whose timestamp is `at`: a partition boundary. Before 1970 there is none."""
    return uuid.UUID(int=max(0, (at - _EPOCH) // timedelta(milliseconds=1)) << 80)


def uuid7_time(value: uuid.UUID) -> datetime:
    """The instant a UUIDv7 carries, in UTC."""
    return _EPOCH + timedelta(milliseconds=value.int >> 80)


def fencing_token() -> str:
    """A fresh 128-bit token, in hex; only its hash is stored."""
    return os.urandom(16).hex()
