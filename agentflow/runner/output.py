"""Turns what a node returned into JSON text, or says exactly what in it is not JSON."""

from __future__ import annotations

import json
import math
from typing import Any, Final

_STEPS_SHOWN: Final = 12  # steps of a path that a message names
DEPTH_MAX: Final = 200  # levels; deeper values break readers of the document, cycles have no end


class OutputInvalid(Exception):
    """The output is not plain JSON, or too large; the message names the place."""


class _Wrong(Exception):
    """A value is wrong; `steps` are collected, innermost first, while the walk unwinds."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []


class _TooLarge(Exception):
    """The walk has seen more than the limit allows."""


def encode(value: Any, limit: int) -> str:
    """The value as compact JSON text of at most `limit` bytes.

    The walk counts a lower bound of the text's size and stops at the limit, so a value of any size costs bounded time
    and no second copy.

    Raises:
        OutputInvalid: Not plain JSON, or larger than `limit`.
    """
    if value is None:
        return "null"
    try:
        _Walk(limit).check(value, 0)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except _Wrong as wrong:
        raise OutputInvalid(f"output{_place(wrong.steps)} {wrong.reason}") from None
    except _TooLarge:
        raise _too_large(limit) from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise OutputInvalid(f"output cannot be written as JSON: {error}") from None
    if len(text) > limit or (not text.isascii() and len(text.encode()) > limit):
        raise _too_large(limit)
    return text


def _place(steps: list[str]) -> str:
    """The path that an unwound walk collected, innermost step first; the middle of a very deep one is left out."""
    if len(steps) > _STEPS_SHOWN:
        half = _STEPS_SHOWN // 2
        steps = [*steps[:half], "…", *steps[-half:]]
    return "".join(reversed(steps))


def _too_large(limit: int) -> OutputInvalid:
    return OutputInvalid(
        f"output is larger than {_human(limit)} (AGENTFLOW_OUTPUT_MAX); "
        "store the data elsewhere and return a reference to it"
    )


def _human(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size} bytes"


class _Walk:
    """One pass over a value with a budget of characters."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def check(self, value: Any, depth: int) -> None:
        if isinstance(value, str):
            self.left -= len(value) + 2
            _check_text(value)
        elif isinstance(value, float):
            self.left -= 3
            if not math.isfinite(value):
                raise _Wrong(f"is {value}, which JSON cannot express; return null or a string instead")
        elif value is None or isinstance(value, int):
            self.left -= 1
        elif isinstance(value, dict):
            self._check_items(value, depth)
        elif isinstance(value, (list, tuple)):
            self._check_rows(value, depth)
        else:
            raise _Wrong(_not_json(value))
        if self.left < 0:
            raise _TooLarge

    def _check_items(self, value: dict[Any, Any], depth: int) -> None:
        _check_depth(depth)
        self.left -= 2
        for key, item in value.items():
            if not isinstance(key, str):
                raise _Wrong(f"has the key {_short(key)} of type {type(key).__name__}; JSON keys are strings")
            try:
                self.left -= len(key) + 4
                _check_text(key)
                self.check(item, depth + 1)
            except _Wrong as wrong:
                wrong.steps.append(f".{key}" if key.isidentifier() else f"[{_short(key)}]")
                raise

    def _check_rows(self, value: list[Any] | tuple[Any, ...], depth: int) -> None:
        _check_depth(depth)
        self.left -= 1 + len(value)
        if self.left < 0:
            raise _TooLarge
        for index, item in enumerate(value):
            try:
                self.check(item, depth + 1)
            except _Wrong as wrong:
                wrong.steps.append(f"[{index}]")
                raise


def _check_depth(depth: int) -> None:
    if depth >= DEPTH_MAX:
        raise _Wrong(f"is nested deeper than {DEPTH_MAX} levels, or contains itself")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _Wrong(r"contains the character \u0000, which Postgres cannot store")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Wrong("contains half of a surrogate pair, which is not valid Unicode") from None


def _not_json(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"is {name}; decode it to text or encode it as base64"
    if isinstance(value, (set, frozenset)):
        return f"is a {name}; return a list"
    if hasattr(value, "model_dump"):
        return f'is a {name} object; return its `.model_dump(mode="json")`'
    if hasattr(value, "isoformat"):
        return f"is a {name}; return its `.isoformat()`"
    return f"is of type {name}, not JSON; return null, booleans, numbers, strings, lists and dicts with string keys"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
