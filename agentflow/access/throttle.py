"""Lock-out on guessing: failed logins are counted by account and by address, and each one more makes the wait longer.

A guess is counted before the password is looked at, and taken back if it was right: guesses made at the same time are
counted like those made one after the other. Accounts that do not exist are counted as those that do.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from agentflow.access.accounts import spelled

FORGET = timedelta(hours=24)  #: Without a failure for so long, counting begins anew.
LONGEST = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Limit:
    """How many failures are free, and how long the wait after the next one is."""

    free: int
    first_wait: timedelta


ACCOUNT = Limit(free=5, first_wait=timedelta(seconds=30))
ADDRESS = Limit(free=20, first_wait=timedelta(seconds=30))

_LOCK = text("""
INSERT INTO login_throttle (key, failures, failed_at) SELECT key, 0, :now FROM unnest(CAST(:keys AS text[])) key
ON CONFLICT (key) DO UPDATE SET key = excluded.key
RETURNING key, failures, failed_at, blocked_until
""")
_COUNT = text("""
UPDATE login_throttle SET failures = :failures, failed_at = :now, blocked_until = :blocked_until WHERE key = :key
""")
_TAKE_BACK = text("""
UPDATE login_throttle SET failures = CASE WHEN key = :account THEN 0 ELSE greatest(failures - 1, 0) END,
  blocked_until = NULL WHERE key = ANY(:keys)
""")
_FORGET = text("""
DELETE FROM login_throttle WHERE key IN (SELECT key FROM login_throttle WHERE failed_at < :long_ago LIMIT 100)
""")


def household(address: str) -> str:
    """What an address is counted by: of IPv6 the /64, of which a single household or server has all addresses."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a socket file has none
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((int(found), 64), strict=False))


def wait_after(failures: int, limit: Limit) -> timedelta:
    """How long the next try has to wait after so many failures."""
    over = failures - limit.free
    if over < 0:
        return timedelta(0)
    doublings = min(over, 20)
    return min(limit.first_wait * (1 << doublings), LONGEST)


def count_guess(connection: Connection, email: str, address: str, *, now: datetime) -> timedelta | None:
    """Count a try to log in; returns how long to wait when it may not be made. Commit before looking at the password."""
    keys = {_account(email): ACCOUNT, _address(address): ADDRESS}
    rows = connection.execute(_LOCK, {"keys": sorted(keys), "now": now}).all()
    blocked: list[timedelta] = [
        row.blocked_until - now for row in rows if row.blocked_until is not None and row.blocked_until > now
    ]
    if blocked:
        return max(blocked)
    for row in rows:
        failures = (row.failures if now - row.failed_at < FORGET else 0) + 1
        wait = wait_after(failures, keys[row.key])
        connection.execute(
            _COUNT, {"key": row.key, "failures": failures, "now": now, "blocked_until": now + wait if wait else None}
        )
    return None


def was_right(connection: Connection, email: str, address: str, *, now: datetime) -> None:
    """Take the guess back: it was the password."""
    keys = [_account(email), _address(address)]
    connection.execute(_TAKE_BACK, {"keys": keys, "account": keys[0]})
    connection.execute(_FORGET, {"long_ago": now - FORGET})


def _account(email: str) -> str:
    return "account:" + hashlib.sha256(spelled(email).encode("utf-8", "replace")).hexdigest()


def _address(address: str) -> str:
    return "address:" + hashlib.sha256(household(address).encode()).hexdigest()
