"""Passwords: which ones are taken, how they are kept (argon2id) and checked."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from agentflow.errors import UsageError

SHORTEST, LONGEST = 12, 1024  #: Characters. No rules about kinds of them: length is what costs a guesser.
FEWEST_DIFFERENT = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What checking one password costs us, and a thief of the table for each guess."""

    memory_kib: int
    passes: int
    lanes: int


#: OWASP's first choice doubled in passes: about 80 ms of one core. Hashes made at another cost are renewed at login.
COST = Cost(memory_kib=46 * 1024, passes=2, lanes=1)


def check_password(password: str, *, email: str) -> None:
    """Refuse a password that is easily guessed.

    Raises:
        UsageError: Says why.
    """
    normal = _normal(password)
    if not SHORTEST <= len(normal) <= LONGEST:
        raise UsageError(f"A password has {SHORTEST} to {LONGEST} characters.", hint="a few words are easy to remember")
    if len(set(normal)) < FEWEST_DIFFERENT:
        raise UsageError(
            "This password repeats a few characters.", hint=f"use at least {FEWEST_DIFFERENT} different ones"
        )
    if normal.casefold() in {email.casefold(), email.partition("@")[0].casefold()}:
        raise UsageError("This password is the email address.", hint="choose one that others cannot know")


def hash_password(password: str) -> str:
    """The text to store."""
    return _hasher(COST).hash(_normal(password))


def verify_password(stored: str | None, password: str) -> bool:
    """Whether this is the password. Takes as long for an account that does not exist or has none."""
    hasher = _hasher(COST)
    try:
        right = hasher.verify(stored or _nobody_s(COST), _normal(password)[: LONGEST + 1])
    except (VerificationError, InvalidHashError):
        return False
    return right and stored is not None


def is_outdated(stored: str) -> bool:
    """Whether it was hashed at another cost than today's."""
    return _hasher(COST).check_needs_rehash(stored)


def _normal(password: str) -> str:
    """One spelling of what people typed on different keyboards."""
    return unicodedata.normalize("NFKC", password)


@cache
def _hasher(cost: Cost) -> PasswordHasher:
    return PasswordHasher(time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes)


@cache
def _nobody_s(cost: Cost) -> str:
    return _hasher(cost).hash("the password of nobody")
