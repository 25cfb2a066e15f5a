"""Cron expressions as text: five fields or an alias, read strictly, refused with a hint.

The grammar is Debian cron's: `*`, numbers, ranges `a-b`, lists `a,b`, steps `*/n`, `a-b/n` and `a/n` (from `a` to the
end), names of months and weekdays in any case. What other crons add (`L W # ?`, Jenkins' `H`, seconds) is refused
rather than guessed at, because two crons rarely agree on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

from agentflow.triggers.errors import invalid

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_SYNONYMS = {"@annually": "@yearly", "@midnight": "@daily"}
_MAX_LENGTH = 1000  # characters; the longest useful expression lists all its numbers in 300

#: An expression that never fires in these years is refused. The window is fixed so that a stored workflow never turns
#: invalid by the passing of time; it holds two leap days.
_WINDOW_START = date(2001, 1, 1)
_WINDOW_END = date(2009, 1, 1)

_TERM = re.compile(
    r"(?:(?P<star>\*)|(?P<first>[0-9]{1,4}|[A-Z]{3})(?:-(?P<last>[0-9]{1,4}|[A-Z]{3}))?)(?:/(?P<step>[0-9]{1,4}))?"
)
_FOREIGN = (
    (re.compile(r".*\?.*"), "`?` is Quartz's word for `*`", "write `*`"),
    (re.compile(r".*#.*"), "`#` (the nth weekday of a month) is not cron", "run every week and check the day in `when`"),
    (re.compile(r"H(\(.*\))?(/.*)?"), "`H` is Jenkins' cron", "write a number, and `jitter` to spread the load"),
    (re.compile(r"(L(W|-[0-9]+)?|([0-9]+|[A-Z]{3})L)"), "`L` (the last day) is not cron",
     "run on days 28-31 and check the day in `when`"),
    (re.compile(r"[0-9]+W"), "`W` (the nearest weekday) is not cron", "write the days of the week: `1-5`"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  #: Three letters each; the first one stands for `low`.
    size: int = 0  #: How many different values there are.


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS = (
    _Field("minute", 0, 59, size=60),
    _Field("hour", 0, 23, size=24),
    _Field("day of month", 1, 31, size=31),
    _Field("month", 1, 12, _MONTHS, size=12),
    _Field("day of week", 0, 7, _WEEKDAYS, size=7),
)


@dataclass(frozen=True, slots=True)
class CronExpression:
    """What an expression says, with aliases resolved."""

    text: str  #: Five fields in capitals with one blank between them; equal for equal expressions but for spelling.
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  #: 0 to 6 from Sunday.

    @property
    def follows_elapsed_time(self) -> bool:
        """Whether minute or hour begins with `*`: such an expression ticks through clock changes as they come."""
        minute, hour, *_ = self.text.split(" ")
        return minute.startswith("*") or hour.startswith("*")

    @property
    def needs_both_days(self) -> bool:
        """Whether both day fields must match: one begins with `*`, Debian's reading of unrestricted (so `*/2` too)."""
        _, _, days, _, weekdays = self.text.split(" ")
        return days.startswith("*") or weekdays.startswith("*")

    def fires_on(self, day: date) -> bool:
        """Whether the month and day fields allow this day."""
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        allowed = (by_date and by_weekday) if self.needs_both_days else (by_date or by_weekday)
        return allowed and day.month in self.months


def parse_cron(text: object) -> CronExpression:
    """Read a cron expression.

    Raises:
        InvalidTrigger: The text is not one; the problem's path is `cron`.
    """
    if not isinstance(text, str):
        raise invalid("cron", f"a cron expression is text, not {type(text).__name__}", 'put it in quotes: "0 6 * * *"')
    if len(text) > _MAX_LENGTH:
        raise invalid("cron", f"the expression has {len(text)} characters; {_MAX_LENGTH} are enough")
    parts = _split(text)
    values = [_read_field(field, part) for field, part in zip(_FIELDS, parts, strict=True)]
    minutes, hours, days, months, weekdays = values
    expression = CronExpression(
        " ".join(parts), minutes, hours, days, months, frozenset(weekday % 7 for weekday in weekdays)
    )
    if not _ever_fires(expression):
        raise invalid("cron", f"{text.strip()!r} does not fire once in 8 years", "check the day and the month")
    return expression


def _split(text: str) -> list[str]:
    stripped = text.strip()
    if stripped.startswith("@"):
        stripped = _resolve_alias(stripped)
    parts = stripped.upper().split()
    if len(parts) == len(_FIELDS):
        return parts
    order = "minute, hour, day of month, month, day of week"
    if len(parts) > len(_FIELDS):
        raise invalid(
            "cron",
            f"the expression has {len(parts)} fields; cron has five: {order}",
            "leave out the seconds or the year",
        )
    raise invalid("cron", f"the expression has {len(parts)} of the five fields {order}", 'an example: "0 6 * * 1-5"')


def _resolve_alias(text: str) -> str:
    alias = text.lower()
    if alias in ALIASES:
        return ALIASES[alias]
    if alias in _SYNONYMS:
        raise invalid("cron", f"{text} is not supported", f"write {_SYNONYMS[alias]}, which is the same")
    if alias == "@reboot":
        raise invalid("cron", "@reboot has no meaning here", "start the run by hand, or use a trigger of type date")
    raise invalid("cron", f"{text} is not known", f"there are {', '.join(ALIASES)}")


def _read_field(field: _Field, text: str) -> frozenset[int]:
    return frozenset(value for term in text.split(",") for value in _read_term(field, term))


def _read_term(field: _Field, term: str) -> range:
    match = _TERM.fullmatch(term)
    if match is None or (not match["star"] and not _readable(field, match["first"], match["last"])):
        raise _unreadable(field, term)
    step = _read_step(field, term, match["step"])
    if match["star"]:
        return range(field.low, field.high + 1, step)
    first = _read_value(field, match["first"])
    if match["last"] is None:
        return range(first, (field.high if match["step"] else first) + 1, step)
    last = _read_value(field, match["last"])
    if last < first:
        raise invalid(
            "cron", f"{field.name}: the range {term.lower()} runs backwards", f"write {_unroll(field, first, last)}"
        )
    return range(first, last + 1, step)


def _readable(field: _Field, *values: str | None) -> bool:
    return all(value is None or value.isdigit() or value in field.names for value in values)


def _read_value(field: _Field, value: str) -> int:
    number = field.low + field.names.index(value) if value in field.names else int(value)
    if not field.low <= number <= field.high:
        note = "; midnight is 0" if field.name == "hour" and number == field.high + 1 else ""
        raise invalid("cron", f"{field.name}: {number} is out of range", f"{field.low} to {field.high}{note}")
    return number


def _read_step(field: _Field, term: str, text: str | None) -> int:
    if text is None:
        return 1
    step = int(text)
    if step == 0:
        raise invalid("cron", f"{field.name}: the step of {term.lower()} is 0", "steps begin at 1")
    if step > field.size:
        raise invalid(
            "cron",
            f"{field.name}: the step {step} is larger than the field, which has {field.size} values",
            "cron begins anew in every hour, day and month; for a steady distance use a trigger of type interval",
        )
    return step


def _unroll(field: _Field, first: int, last: int) -> str:
    """The backward range as two forward ones."""
    top = 6 if field.names and field.low == 0 else field.high  # Saturday: 7 is Sunday again
    spans = ((first, top), (field.low, last))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _unreadable(field: _Field, term: str) -> Exception:
    for pattern, message, hint in _FOREIGN:
        if pattern.fullmatch(term):
            return invalid("cron", f"{field.name}: {message}", hint)
    names = f" or a name ({field.names[0].lower()}-{field.names[-1].lower()})" if field.names else ""
    return invalid(
        "cron",
        f"{field.name}: cannot read {term.lower()!r}",
        f"write *, a number from {field.low} to {field.high}{names}, a range 1-5, a list 1,3 or a step */2",
    )


def _ever_fires(expression: CronExpression) -> bool:
    day = _WINDOW_START
    while day < _WINDOW_END:
        if expression.fires_on(day):
            return True
        day += timedelta(days=1)
    return False
