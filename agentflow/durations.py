"""Durations as people write them: `250ms 30s 5m 2h 1d`, `1h30m`, or ISO 8601 (`PT1H30M`)."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}  # seconds
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_ISO = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+(?:\.\d+)?)D)?(?:T(?:(?P<h>\d+(?:\.\d+)?)H)?(?:(?P<m>\d+(?:\.\d+)?)M)?"
    r"(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)
_ISO_SECONDS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
MAX_DAYS = 36500  #: A century: longer is a typing error, and would overflow timestamps.


def parse_duration(text: str) -> timedelta:
    """Read a duration.

    Raises:
        ValueError: The text is not a duration, or longer than a century; the message says what is accepted.
    """
    seconds = _seconds(text.strip())
    if seconds is None:
        raise ValueError(f"{text!r} is not a duration; write 250ms, 30s, 5m, 2h, 1d, 1h30m or ISO 8601 such as PT5M")
    if seconds > MAX_DAYS * 86400:
        raise ValueError(f"{text!r} is longer than {MAX_DAYS} days")
    return timedelta(seconds=seconds)


def _seconds(text: str) -> float | None:
    if len(text) > 64:  # no duration is this long, and the patterns stay cheap
        return None
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    match = _ISO.fullmatch(text)
    if match and any(match.groupdict().values()) and not text.endswith("T"):
        return sum(float(value) * _ISO_SECONDS[key] for key, value in match.groupdict().items() if value)
    return None


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back to the same value."""
    millis = value // timedelta(milliseconds=1)
    if millis == 0:
        return "0s"
    if millis % 1000:
        return f"{millis}ms"
    seconds = millis // 1000
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def format_seconds(seconds: float) -> str:
    """The same of a number of seconds."""
    return format_duration(timedelta(seconds=seconds))
