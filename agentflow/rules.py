"""Trigger rules: a pure function over counters, and the same as one SQL expression (SEMANTICS section 1).

A rule is decided as early as its outcome is certain, never earlier, so that the order in which upstreams end cannot
change the result. `failed` counts failed and cancelled upstreams. A rule that has become impossible gives
`upstream_failed` when any upstream failed, else `skipped`. The SQL is generated from the table below; a test compares
the two over every count up to four upstreams.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentflow.states import TriggerRule


class Verdict(StrEnum):
    """What a rule says."""

    WAIT = "pending"  #: Not certain yet.
    GO = "ready"  #: The node may run.
    SKIP = "skipped"  #: Impossible, nothing failed.
    UPSTREAM_FAILED = "upstream_failed"  #: Impossible because something failed.


@dataclass(frozen=True, slots=True)
class Counts:
    """How many upstreams there are, and how those that are final ended."""

    n: int
    success: int = 0
    failed: int = 0
    upstream_failed: int = 0
    skipped: int = 0

    @property
    def done(self) -> int:
        """Upstreams that are final."""
        return self.success + self.failed + self.upstream_failed + self.skipped

    @property
    def bad(self) -> int:
        """Upstreams that count as failed."""
        return self.failed + self.upstream_failed


# The columns of node_run that hold the counts, and what is derived from them.
_BAD = "(f + u)"
_DONE = "(s + f + u + k)"
_ALL = f"{_DONE} = n"
_IMPOSSIBLE_NOW = f"WHEN {_BAD} > 0 THEN 'upstream_failed' WHEN {_ALL} THEN 'skipped' ELSE 'pending'"

#: Per rule: when it is satisfied, and what follows if it is not (tried in order).
_SQL = {
    TriggerRule.ALL_SUCCESS: f"WHEN s = n THEN 'ready' {_IMPOSSIBLE_NOW}",
    TriggerRule.ALL_FAILED: (
        f"WHEN {_BAD} = n THEN 'ready' WHEN s + k > 0 AND {_BAD} > 0 THEN 'upstream_failed'"
        f" WHEN {_ALL} THEN 'skipped' ELSE 'pending'"
    ),
    TriggerRule.ALL_DONE: f"WHEN {_ALL} THEN 'ready' ELSE 'pending'",
    TriggerRule.ALL_DONE_MIN_ONE_SUCCESS: (
        f"WHEN NOT {_ALL} THEN 'pending' WHEN s > 0 THEN 'ready' WHEN {_BAD} > 0 THEN 'upstream_failed' ELSE 'skipped'"
    ),
    TriggerRule.ONE_SUCCESS: (
        f"WHEN s > 0 THEN 'ready' WHEN NOT {_ALL} THEN 'pending' WHEN {_BAD} > 0 THEN 'upstream_failed' ELSE 'skipped'"
    ),
    TriggerRule.ONE_FAILED: f"WHEN {_BAD} > 0 THEN 'ready' WHEN {_ALL} THEN 'skipped' ELSE 'pending'",
    TriggerRule.ONE_DONE: (
        f"WHEN s + f > 0 THEN 'ready' WHEN NOT {_ALL} THEN 'pending' WHEN u > 0 THEN 'upstream_failed' ELSE 'skipped'"
    ),
    TriggerRule.NONE_FAILED: f"WHEN {_BAD} > 0 THEN 'upstream_failed' WHEN {_ALL} THEN 'ready' ELSE 'pending'",
    TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS: (
        f"WHEN {_BAD} > 0 THEN 'upstream_failed' WHEN NOT {_ALL} THEN 'pending' WHEN s > 0 THEN 'ready' ELSE 'skipped'"
    ),
    TriggerRule.NONE_SKIPPED: (
        f"WHEN k > 0 AND {_BAD} > 0 THEN 'upstream_failed' WHEN NOT {_ALL} THEN 'pending'"
        " WHEN k > 0 THEN 'skipped' ELSE 'ready'"
    ),
    TriggerRule.ALL_SKIPPED: f"WHEN k = n THEN 'ready' {_IMPOSSIBLE_NOW}",
    TriggerRule.ALWAYS: "WHEN true THEN 'ready' ELSE 'pending'",
}


def rule_sql(*, rule: str, n: str, success: str, failed: str, upstream_failed: str, skipped: str) -> str:
    """A SQL expression that gives a verdict's word from SQL expressions for the rule and the counts."""
    columns = {"n": n, "s": success, "f": failed, "u": upstream_failed, "k": skipped}

    def filled(template: str) -> str:
        return " ".join(
            "".join(columns.get(part, part) for part in _split(word)) if not word.startswith("'") else word
            for word in template.split(" ")
        )

    cases = " ".join(f"WHEN '{name}' THEN CASE {filled(body)} END" for name, body in _SQL.items())
    return f"CASE WHEN {n} = 0 THEN 'ready' ELSE CASE {rule} {cases} END END"


def _split(word: str) -> list[str]:
    """A word without blanks, cut at brackets: `(s` becomes `(` and `s`."""
    head = word[: len(word) - len(word.lstrip("("))]
    body = word.lstrip("(")
    core = body.rstrip(")")
    return [head, core, body[len(core) :]]


def decide_rule(rule: TriggerRule, counts: Counts) -> Verdict:  # noqa: C901, PLR0912 - one arm a rule
    """What the rule says about these counts."""
    c = counts
    complete = c.done == c.n
    if c.n == 0:
        return Verdict.GO
    impossible = Verdict.UPSTREAM_FAILED if c.bad else Verdict.SKIP if complete else Verdict.WAIT
    at_end = impossible if complete else Verdict.WAIT
    match rule:
        case TriggerRule.ALL_SUCCESS:
            return Verdict.GO if c.success == c.n else impossible
        case TriggerRule.ALL_FAILED:
            if c.bad == c.n:
                return Verdict.GO
            return impossible if c.success + c.skipped else Verdict.WAIT
        case TriggerRule.ALL_DONE:
            return Verdict.GO if complete else Verdict.WAIT
        case TriggerRule.ALL_DONE_MIN_ONE_SUCCESS:
            return Verdict.GO if complete and c.success else at_end
        case TriggerRule.ONE_SUCCESS:
            return Verdict.GO if c.success else at_end
        case TriggerRule.ONE_FAILED:
            return Verdict.GO if c.bad else at_end
        case TriggerRule.ONE_DONE:
            if c.success + c.failed:
                return Verdict.GO
            return at_end
        case TriggerRule.NONE_FAILED:
            return Verdict.UPSTREAM_FAILED if c.bad else Verdict.GO if complete else Verdict.WAIT
        case TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS:
            if c.bad:
                return Verdict.UPSTREAM_FAILED
            return Verdict.GO if complete and c.success else at_end
        case TriggerRule.NONE_SKIPPED:
            if c.skipped:
                return impossible
            return Verdict.GO if complete else Verdict.WAIT
        case TriggerRule.ALL_SKIPPED:
            return Verdict.GO if c.skipped == c.n else impossible
        case TriggerRule.ALWAYS:
            return Verdict.GO
