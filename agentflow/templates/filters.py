"""Filters of AgentFlow, and Jinja's own ones with a check of the size they are asked to make."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any

from jinja2 import filters as jinja_filters

from agentflow.errors import TemplateError
from agentflow.templates.limits import check_items, check_percent_format, check_replace, check_text_size
from agentflow.templates.values import as_json, text_of

MAX_INDENT = 16  # spaces per level of `json`


def shell_quote(value: Any) -> str:
    """One word of a shell command, whatever is in it; anything but text is quoted as its JSON."""
    text = text_of(value)
    if "\0" in text:
        raise TemplateError("shell_quote: a shell word cannot hold the NUL character")
    return shlex.quote(text)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text; letters outside ASCII stay readable."""
    import json

    if indent is not None and not 0 <= indent <= MAX_INDENT:
        raise TemplateError(f"json: indent is between 0 and {MAX_INDENT}")
    return json.dumps(as_json(value), ensure_ascii=False, indent=indent)


def from_json(value: Any) -> Any:
    """The value a JSON text stands for."""
    import json

    text = as_json(value)
    if not isinstance(text, str):
        raise TemplateError(f"from_json: needs a text, got {_shown(text)}")
    try:
        return as_json(json.loads(text))
    except ValueError as error:
        raise TemplateError(f"from_json: the text is not JSON: {error}") from error


def date(value: Any, fmt: str = "%Y-%m-%d", tz: str = "UTC") -> str:
    """A time in another zone and shape.

    `{{ run.logical_date | date('%d.%m.%Y %H:%M', 'Europe/Berlin') }}`

    Args:
        value: ISO 8601 text (UTC when it has no offset), or seconds since 1970.
        fmt: As in strftime.
        tz: Name of the IANA time zone.
    """
    moment = _moment(as_json(value)).astimezone(_zone(tz))
    return moment.strftime(fmt)


def b64(value: Any) -> str:
    """Base64 of the text's UTF-8; anything but text as its JSON."""
    return base64.b64encode(text_of(value).encode()).decode("ascii")


def sha256(value: Any) -> str:
    """SHA-256 of the text's UTF-8, in hex; anything but text as its JSON."""
    return hashlib.sha256(text_of(value).encode()).hexdigest()


def _moment(value: Any) -> datetime:
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise TemplateError(f"date: {_shown(value)} is not a time: {error}") from error
    advice = "; a run started by hand has no logical_date" if value is None else ""
    raise TemplateError(f"date: needs ISO 8601 text or seconds since 1970, got {_shown(value)}{advice}")


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, TypeError, OSError) as error:  # OSError: a folder such as "Europe"
        raise TemplateError(f"date: there is no time zone {name!r}; write it as in Europe/Berlin") from error


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value!r:.60}"


def _center(value: str, width: int = 80) -> str:
    check_text_size(width)
    return jinja_filters.do_center(value, width)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    each = len(width) if isinstance(width, str) else width
    check_text_size(len(s) + each * (s.count("\n") + 1))
    return jinja_filters.do_indent(s, width, first, blank)


def _batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
    check_items(linecount)
    return jinja_filters.do_batch(value, linecount, fill_with)


def _slice(value: Any, slices: int, fill_with: Any = None) -> Iterator[list[Any]]:
    check_items(slices)
    return jinja_filters.sync_do_slice(value, slices, fill_with)


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text = text_of(value)
    old, new = str(old), str(new)
    check_replace(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    check_percent_format(str(value))
    return jinja_filters.do_format(value, *args, **kwargs)


FILTERS: dict[str, Callable[..., Any]] = {
    "b64": b64,
    "batch": _batch,
    "center": _center,
    "date": date,
    "format": _format,
    "from_json": from_json,
    "indent": _indent,
    "json": to_json,
    "replace": _replace,
    "sha256": sha256,
    "shell_quote": shell_quote,
    "slice": _slice,
    "tojson": to_json,  # Jinja's own escapes for HTML, which is wrong everywhere here
}
