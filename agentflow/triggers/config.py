"""Triggers as a workflow file writes them: checked, identified, built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, TypeVar

from agentflow.durations import parse_duration
from agentflow.errors import Problem
from agentflow.triggers.base import Bounds, Trigger
from agentflow.triggers.calendar import CalendarTrigger, read_step, read_time_of_day
from agentflow.triggers.cron import CronTrigger5
from agentflow.triggers.date import DateTrigger
from agentflow.triggers.errors import InvalidTrigger, invalid
from agentflow.triggers.expression import parse_cron
from agentflow.triggers.interval import IntervalTrigger
from agentflow.triggers.moments import read_moment
from agentflow.triggers.zones import load_zone

T = TypeVar("T")

#: The key that says when, by type. Other types of trigger have no clock.
WHEN_KEYS = {"cron": "cron", "interval": "every", "date": "at", "calendar": "every"}
_EXAMPLES = {
    "cron": 'cron: "0 6 * * 1-5"',
    "interval": "every: 15m",
    "date": 'at: "2026-12-01T09:00:00Z"',
    "calendar": "every: {months: 1}",
}
#: Without a clock: something else says when.
CLOCKLESS = ("event", "webhook")
_TIMING_KEYS = ("type", "cron", "every", "at", "timezone", "start", "end", "jitter")
_DEFAULTS: dict[str, Any] = {"timezone": "UTC", "catchup": False, "params": {}}

MIN_INTERVAL = timedelta(seconds=1)
MAX_JITTER = timedelta(days=1)


def build(trigger: Mapping[str, Any]) -> Trigger:
    """The trigger that answers `next_fire`; equal texts share one.

    Raises:
        InvalidTrigger: With every problem that `validate` finds.
    """
    return _build(schedule_text(trigger))


def validate(trigger: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a trigger; `path` is its key. Keys that no trigger has are the spec's to refuse."""
    try:
        build(trigger)
    except InvalidTrigger as error:
        return error.problems
    return []


def trigger_identity(trigger: Mapping[str, Any]) -> str:
    """What makes it the same trigger across versions: its `name`, else the hash of its canonical text.

    Whether it is paused is a state, not part of what it is.
    """
    if name := trigger.get("name"):
        return str(name)
    text = _canonical({key: value for key, value in trigger.items() if key not in {"name", "paused"}})
    return hashlib.sha256(text.encode()).hexdigest()


def schedule_text(trigger: Mapping[str, Any]) -> str:
    """Everything that decides when it fires, as text: where this differs, a named trigger has changed."""
    return _canonical({key: trigger[key] for key in _TIMING_KEYS if key in trigger})


def describe(trigger: Mapping[str, Any]) -> str:
    """What to call it in a list: its name, else its type and time (`cron 0 6 * * 1-5 Europe/Berlin`)."""
    if name := trigger.get("name"):
        return str(name)
    kind = str(trigger.get("type"))
    when = trigger.get(WHEN_KEYS.get(kind, ""), "")
    if isinstance(when, Mapping):  # a calendar's
        when = " ".join(f"{count} {unit}" for unit, count in when.items()) + f" {trigger.get('at', '')}"
    words = [kind, str(when), str(trigger.get("timezone") or "")]
    return " ".join(word for word in words if word)


def read_jitter(trigger: Mapping[str, Any]) -> timedelta:
    """How far a fire may be put off; 0 without `jitter`.

    Raises:
        InvalidTrigger: It is not a duration up to a day.
    """
    text = trigger.get("jitter")
    jitter = _read_duration(text, "jitter") if text is not None else timedelta(0)
    if jitter > MAX_JITTER:
        raise invalid(
            "jitter", f"{text!r} is longer than a day", "jitter spreads starts; for another time change the trigger"
        )
    return jitter


def _canonical(trigger: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in trigger.items() if value is not None and value != _DEFAULTS.get(key)}
    if isinstance(kept.get("cron"), str):
        kept["cron"] = " ".join(kept["cron"].lower().split())
    return json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_as_text)


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else repr(value)


@lru_cache(maxsize=4096)
def _build(text: str) -> Trigger:
    return _Reader(json.loads(text)).read()


class _Reader:
    """Reads one trigger, going on after a problem so that all of them are reported at once."""

    def __init__(self, trigger: dict[str, Any]) -> None:
        self._trigger = trigger
        self._problems: list[Problem] = []

    def read(self) -> Trigger:
        kind = self._trigger.get("type")
        if kind in CLOCKLESS:
            raise invalid("type", f"a trigger of type {kind} has no clock")
        if not isinstance(kind, str) or kind not in WHEN_KEYS:
            raise invalid(
                "type", f"{kind!r} is not a type of trigger", f"there are {', '.join((*WHEN_KEYS, *CLOCKLESS))}"
            )
        zone = self._collect(lambda: load_zone(self._trigger.get("timezone") or "UTC")) or UTC
        bounds = self._read_bounds(zone)
        self._collect(lambda: read_jitter(self._trigger))
        trigger = self._collect(lambda: self._read_when(kind, zone, bounds))
        if self._problems or trigger is None:
            raise InvalidTrigger(self._problems)
        return trigger

    def _collect(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except InvalidTrigger as error:
            self._problems += error.problems
            return None

    def _read_bounds(self, zone: tzinfo) -> Bounds:
        start = self._collect(lambda: self._read_bound("start", zone))
        end = self._collect(lambda: self._read_bound("end", zone))
        if start is not None and end is not None and end < start:
            self._problems += invalid("end", "the end is before the start").problems
        return Bounds(start, end)

    def _read_bound(self, key: str, zone: tzinfo) -> datetime | None:
        value = self._trigger.get(key)
        return read_moment(value, zone, path=key)[0] if value is not None else None

    def _read_when(self, kind: str, zone: tzinfo, bounds: Bounds) -> Trigger:
        key = WHEN_KEYS[kind]
        value = self._trigger.get(key)
        if value is None:
            raise invalid(key, f"a trigger of type {kind} needs `{key}`", _EXAMPLES[kind])
        if kind == "cron":
            return CronTrigger5(parse_cron(value), zone, bounds)
        if kind == "interval":
            return IntervalTrigger(_read_interval(value), bounds)
        if kind == "calendar":
            step = self._collect(lambda: read_step(value))
            at_time = self._collect(lambda: read_time_of_day(self._trigger.get("at")))
            if step is None or at_time is None:
                raise InvalidTrigger([])  # its problems are noted
            return CalendarTrigger(step, at_time, zone, bounds)
        at, note = read_moment(value, zone, path=key)
        return DateTrigger(at, bounds, note=note)


def _read_interval(value: object) -> timedelta:
    every = _read_duration(value, "every")
    if every < MIN_INTERVAL:
        raise invalid("every", f"{value!r} is shorter than a second", "the shortest interval is 1s")
    return every


def _read_duration(value: object, path: str) -> timedelta:
    if not isinstance(value, str):
        raise invalid(path, f"a duration is text, not {type(value).__name__}", "write 30s, 15m or 2h")
    try:
        return parse_duration(value)
    except ValueError as error:
        raise invalid(path, str(error)) from None
