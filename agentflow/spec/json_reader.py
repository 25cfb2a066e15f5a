"""JSON documents: the standard library's fast reader, and a slow second look for places when something is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from agentflow.errors import Problem
from agentflow.spec.limits import MAX_DEPTH, MAX_DIGITS, MAX_PROBLEMS
from agentflow.spec.paths import Marks, Path, Place, nearest, path_text

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)


class Unreadable(Exception):
    """The text is not a document; carries every problem found."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.message for problem in problems))


class JsonLocator:
    """Finds places by scanning the text again, only when asked."""

    def __init__(self, text: str) -> None:
        self._text = text

    def locate(self, paths: list[tuple[Path, bool]]) -> list[Place | None]:
        """One scan answers all paths."""
        wanted = {path[:length] for path, _ in paths for length in range(len(path) + 1)}
        table: dict[Path, Marks] = {}
        for path, key_offset, value_offset, _ in _members(self._text):
            if path in wanted and path not in table:
                key = None if key_offset is None else _place(self._text, key_offset)
                table[path] = (key, _place(self._text, value_offset))
        return [nearest(table, path, of_key=of_key) for path, of_key in paths]


def read_json(text: str) -> tuple[Any, JsonLocator]:
    """Read a JSON text.

    Raises:
        Unreadable: It is not JSON, has a key twice, or is nested too deep.
    """
    repeated = False

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        result = dict(pairs)
        repeated = repeated or len(result) < len(pairs)
        return result

    try:
        document = json.loads(
            text, object_pairs_hook=mapping, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_decimal
        )
    except json.JSONDecodeError as error:
        raise Unreadable([Problem(f"not JSON: {error.msg}", line=error.lineno, column=error.colno)]) from None
    except RecursionError:
        raise Unreadable([Problem(f"nested deeper than {MAX_DEPTH} levels")]) from None
    except ValueError as error:
        raise Unreadable([Problem(str(error))]) from None
    if repeated:
        raise Unreadable(_repeated_keys(text))
    return document, JsonLocator(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _decimal(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:50]} is too large for a number")
    return value


def _repeated_keys(text: str) -> list[Problem]:
    problems: list[Problem] = []
    for path, key_offset, _, first_offset in _members(text):
        if key_offset is not None and first_offset is not None:
            problems.append(duplicate_key(path, _place(text, key_offset), _place(text, first_offset)))
            if len(problems) == MAX_PROBLEMS:
                break
    return problems


def duplicate_key(path: Path, place: Place, first: Place) -> Problem:
    """What both readers say of a key that stands twice in one mapping."""
    what = "node id" if len(path) == 2 and path[0] == "nodes" else "key"
    return Problem(
        f"duplicate {what} `{str(path[-1])[:100]}`",
        path=path_text(path),
        line=place[0],
        column=place[1],
        hint=f"the first one is in line {first[0]}",
    )


def _members(text: str) -> Iterator[tuple[Path, int | None, int, int | None]]:
    """Every value of a valid JSON text: path, offset of its key, of itself, and of an earlier key of the same name."""
    path: list[str | int] = []
    keys: list[dict[str, int] | None] = []  # of each open mapping the keys so far; None for a list
    expects_key = False
    key_offset: int | None = None
    first_offset: int | None = None
    for token in _TOKEN.finditer(text):
        word = token.group()
        if word in "}]":
            keys.pop()
            path.pop()
        elif word == ":":
            expects_key = False
        elif word == ",":
            last = path[-1]
            if isinstance(last, int):
                path[-1] = last + 1
                key_offset = first_offset = None
            else:
                expects_key = True
        elif expects_key and (seen := keys[-1]) is not None:
            key_offset = token.start()
            key: str = json.loads(word)
            path[-1] = key
            first_offset = seen.get(key)
            seen.setdefault(key, key_offset)
        else:
            yield tuple(path), key_offset, token.start(), first_offset
            if word in "{[":
                expects_key = word == "{"
                keys.append({} if expects_key else None)
                path.append("" if expects_key else 0)
                key_offset = first_offset = None


def _place(text: str, offset: int) -> Place:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
