"""Whether an error is worth another attempt, and when that begins: pure (SEMANTICS section 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import timedelta

from agentflow.db.queries.attempts import LockedAttempt
from agentflow.workload import ErrorInfo


def matches(error: ErrorInfo | None, rules: Collection[str]) -> bool:
    """Whether one of the rules means this error.

    A rule is an exit code, or the name of an error's type; a base class means its subclasses too, and what stands before
    the last dot is not looked at (`requests.exceptions.Timeout` is `Timeout`).
    """
    if error is None:
        return False
    names = {error.type.rpartition(".")[2], *error.bases}
    return any(
        (error.exit_code is not None and rule == str(error.exit_code)) or rule.rpartition(".")[2] in names
        for rule in rules
    )


def is_worth_a_retry(attempt: LockedAttempt, error: ErrorInfo | None) -> bool:
    """`fail_on` wins over `retry_on`; without either every error is."""
    if attempt.fail_on and matches(error, attempt.fail_on):
        return False
    return attempt.retry_on is None or matches(error, attempt.retry_on)


def retry_delay(attempt: LockedAttempt, failures: int) -> timedelta:
    """delay(n) = min(retry_delay x backoff^(n-1), retry_max_delay) after the n-th failure, less its jitter."""
    if attempt.retry_delay <= 0:
        return timedelta(0)
    try:
        grown = attempt.retry_delay * attempt.retry_backoff ** (failures - 1)
    except OverflowError:
        grown = attempt.retry_max_delay
    seconds = min(grown, attempt.retry_max_delay)
    return timedelta(seconds=seconds * (1 - attempt.retry_jitter * _share(attempt)))


def _share(attempt: LockedAttempt) -> float:
    """From 0 to 1, the same whenever it is asked for: by it the retries of many node runs spread."""
    if not attempt.retry_jitter:
        return 0.0
    digest = hashlib.sha256(repr(attempt.key).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
