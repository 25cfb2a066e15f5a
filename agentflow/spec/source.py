"""From bytes to a document of plain JSON values; every way in which a file can be no document at all."""

from __future__ import annotations

import codecs
import math
import stat
from pathlib import Path as FilePath
from typing import Any

from agentflow.errors import FileNotReadable, Problem
from agentflow.spec.json_reader import Unreadable, read_json
from agentflow.spec.limits import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_PROBLEMS, MAX_VALUES
from agentflow.spec.paths import Locator, Path


def read_bytes(path: FilePath) -> bytes:
    """The content of a workflow file.

    Raises:
        FileNotReadable: It is missing, no regular file, not allowed, or over 10 MB (then it is not read).
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FileNotReadable(f"{path} is a directory", hint="name one workflow file")
        if not stat.S_ISREG(status.st_mode):  # a pipe or device would block or never end
            raise FileNotReadable(f"{path} is not a regular file")
        if status.st_size > MAX_BYTES:
            raise FileNotReadable(_too_large(str(path), status.st_size))
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotReadable(
            f"{path} does not exist", hint="check the path; it is relative to where you are"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileNotReadable(f"{path} cannot be read: {reason}") from error


def _too_large(name: str, size: int) -> str:
    return f"{name} has {size:,} bytes; a workflow file has at most {MAX_BYTES:,} ({MAX_BYTES // 2**20} MB)"


def read_document(text: str | bytes, *, file: str) -> tuple[Any, Locator]:
    """Read YAML, or JSON when the file is named `*.json` or the text is JSON.

    Raises:
        Unreadable: The text is no document; places are in the problems.
    """
    text = _decoded(text, file)
    if not text.strip():
        raise Unreadable(
            [Problem("the file is empty", line=1, column=1, hint="a workflow has at least `name` and `nodes`")]
        )
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Unreadable([Problem("the file contains a NUL byte", line=line, hint="is it a text file?")])
    if file.endswith(".json"):
        return read_json(text)
    if text.lstrip()[0] in "{[":
        try:
            return read_json(text)
        except (
            Unreadable
        ) as error:  # may still be YAML in flow style; a JSON text with a mistake is better told as JSON
            if not error.problems[0].message.startswith("not JSON"):
                raise
    from agentflow.spec.yaml_reader import read_yaml

    return read_yaml(text)


def _decoded(text: str | bytes, file: str) -> str:
    size = len(text)
    if size > MAX_BYTES:
        raise Unreadable([Problem(_too_large(file, size))])
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unreadable([Problem("the file is UTF-16, not UTF-8", line=1, column=1, hint="save it as UTF-8")])
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = text[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        problem = Problem(
            f"the file is not UTF-8: byte 0x{text[error.start]:02x}", line=line, column=column, hint="save it as UTF-8"
        )
        raise Unreadable([problem]) from None


def not_json(document: Any) -> list[tuple[Path, str]]:
    """What JSON in Postgres cannot hold, with its path: foreign types, NaN, NUL, lone surrogates, too deep, too much."""
    problems: list[tuple[Path, str]] = []
    stack: list[tuple[Path, Any]] = [((), document)]
    values = 0
    while stack and len(problems) < MAX_PROBLEMS:
        path, value = stack.pop()
        values += 1
        if values > MAX_VALUES:
            return [((), f"more than {MAX_VALUES:,} values")]
        complaint = _complaint(value)
        if complaint:
            problems.append((path, complaint))
        elif isinstance(value, dict | list) and len(path) > MAX_DEPTH:
            problems.append((path[:8], f"nested deeper than {MAX_DEPTH} levels"))
        elif isinstance(value, dict):
            for key, item in value.items():
                bad_key = _complaint(key) if isinstance(key, str) else f"the key {key!r:.50} is not text"
                if bad_key:
                    problems.append((path, f"in a key: {bad_key}" if isinstance(key, str) else bad_key))
                elif item is not None and item is not True and item is not False:
                    stack.append(((*path, key), item))
        elif isinstance(value, list):
            stack.extend(((*path, index), item) for index, item in enumerate(value))
    return problems


def _complaint(value: Any) -> str | None:
    if isinstance(value, str):
        if "\0" in value:
            return "the text contains \\u0000, which Postgres cannot store"
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            return "the text contains half of a surrogate pair"
        return None
    if isinstance(value, bool | dict | list) or value is None:
        return None
    if isinstance(value, int):
        return f"a number of more than {MAX_DIGITS} digits" if abs(value) >= 10**MAX_DIGITS else None
    if isinstance(value, float):
        return f"{value} is not JSON" if not math.isfinite(value) else None
    return f"{type(value).__name__} is not JSON"
