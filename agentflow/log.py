"""AgentFlow's own log: the standard library's loggers, written to stderr as columns or as JSON lines.

Modules log constant event words with their data beside them: `log.info("run_started", extra={"run_id": run_id})`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import IO, Any, Literal, Protocol

from agentflow import correlation

#: What every LogRecord carries; all else came through `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}  # SGR codes


class LogSettings(Protocol):
    """The part of the settings that the log needs."""

    @property
    def log_format(self) -> Literal["console", "json"]:
        """Columns for people or a JSON document per line."""

    @property
    def log_level(self) -> Literal["DEBUG", "INFO", "WARNING", "ERROR"]:
        """Lines below this level are dropped."""


def configure(settings: LogSettings, *, at_least: str = "DEBUG") -> None:
    """Send every logger of this process to stderr, in the shape and from the level the settings ask for.

    Args:
        settings: Where shape and level come from.
        at_least: Raises the level, but never above one the user asked for by DEBUG: commands that print their own
            progress pass WARNING.
    """
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else ColumnFormatter())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    wanted = logging.getLevelNamesMapping()[settings.log_level]
    floor = logging.getLevelNamesMapping()[at_least]
    root.setLevel(wanted if wanted == logging.DEBUG else max(wanted, floor))
    # Third parties speak up only when something is wrong: their INFO is not in our vocabulary.
    for name in ("alembic", "apscheduler", "httpcore", "httpx", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)


class StderrHandler(logging.StreamHandler[IO[str]]):
    """Writes to what `sys.stderr` is at that moment, so that a live display can move out of the way."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> IO[str]:  # type: ignore[override]  # the base class stores it once; here it is looked up
        """The stream in force."""
        return sys.stderr


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields given by `extra`, and the id of the request that is being worked for."""
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    request_id = correlation.current()
    return fields if request_id is None else {correlation.TRACE: request_id} | fields


class JsonFormatter(logging.Formatter):
    """One JSON document per line: `at level logger event`, the extra fields, and `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document = extra_fields(record) | {
            "at": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


class ColumnFormatter(logging.Formatter):
    """Columns for people: time, level, logger, event, `key=value` fields; tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines, without the last line's end."""
        fields = "".join(f" {key}={_value(value)}" for key, value in extra_fields(record).items())
        message = record.getMessage().replace("\n", "\\n")
        if fields:
            message = f"{message:<24}{fields}"
        line = f"{_moment(record)} {_coloured(record.levelname)} {record.name:<20} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _coloured(level: str) -> str:
    text = f"{level:<7}"
    if level in _COLOURS and sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        return f"\x1b[{_COLOURS[level]}m{text}\x1b[0m"
    return text


def _value(value: object) -> str:
    """Quoted when it would otherwise break the columns or the line: user text must not forge log lines."""
    text = str(value)
    plain = text and text.isprintable() and not any(char in text for char in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
