"""YAML 1.2 documents: plain data only, with the line and column of every part.

Composed here from parser events rather than by ruamel's constructor: no tag can make an object, aliases are counted
before they cost anything, keys are text as written, and `on`, `no` or `1:30` stay what they look like. The event
parser is libyaml where `ruamel.yaml.clib` is installed (15 times faster), else ruamel's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from agentflow.errors import Problem
from agentflow.spec.json_reader import Unreadable, duplicate_key
from agentflow.spec.limits import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_PROBLEMS, MAX_VALUES
from agentflow.spec.paths import Marks, Path, Place, member, nearest, path_text

# YAML 1.2 core schema
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_ALIASED_VALUE = 16  # bytes that an aliased value counts beside its text


def events(text: str, *, pure: bool = False) -> Iterator[Event]:
    """Parser events of a text.

    Raises:
        YAMLError: The text is not YAML.
    """
    if not pure:
        try:
            from _ruamel_yaml import CParser
        except ImportError:
            pass
        else:
            parser = CParser(text)
            while parser.check_event():
                yield parser.get_event()
            return
    yield from YAML(typ="safe", pure=True).parse(text)


class YamlLocator:
    """Places noted while composing; aliased parts stand where their anchor stands."""

    def __init__(self, document: Any, top: Place, marks: dict[int, dict[str | int, Marks]]) -> None:
        self._document = document
        self._top = top
        self._marks = marks

    def locate(self, paths: list[tuple[Path, bool]]) -> list[Place | None]:
        """Look all paths up."""
        return [self._locate(path, of_key) for path, of_key in paths]

    def _locate(self, path: Path, of_key: bool) -> Place | None:
        table: dict[Path, Marks] = {(): (None, self._top)}
        container = self._document
        for length, part in enumerate(path, start=1):
            marks = self._marks.get(id(container), {}).get(part)
            if marks is None:
                break
            table[path[:length]] = marks
            container = member(container, part)
        return nearest(table, path, of_key=of_key)


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    value: list[Any] | dict[str, Any]
    place: Place
    path: Path
    anchor: str | None
    marks: dict[str | int, Marks] = field(default_factory=dict)
    key: str | None = None
    key_place: Place | None = None
    weight: int = _ALIASED_VALUE  #: Bytes that an alias of it adds.

    @property
    def expects_key(self) -> bool:
        """Whether the next event is a key."""
        return self.key is None and isinstance(self.value, dict)


def read_yaml(text: str, *, pure: bool = False) -> tuple[Any, YamlLocator]:
    """Read a YAML text of one document.

    Raises:
        Unreadable: It is not YAML, uses what a workflow file may not (tags, NaN, several documents, aliases that
            expand too far), has a key twice, or is nested too deep.
    """
    composer = _Composer()
    try:
        for event in events(text, pure=pure):
            composer.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(str(part)[:200] for part in (error.context, error.problem) if part)
        place = (mark.line + 1, mark.column + 1) if mark else (None, None)
        hint = "indent with spaces, not tabs" if mark and _tab_indented(text, mark.line) else None
        raise Unreadable([Problem(f"not YAML: {message}", line=place[0], column=place[1], hint=hint)]) from None
    except YAMLError as error:
        message = str(error).splitlines()[0]
        offset = getattr(error, "position", None)
        line = text.count("\n", 0, offset) + 1 if isinstance(offset, int) else None
        raise Unreadable([Problem(f"not YAML: {message}", line=line)]) from None
    if composer.problems:
        raise Unreadable(composer.problems)
    return composer.document, YamlLocator(composer.document, composer.top, composer.marks)


def _tab_indented(text: str, line: int) -> bool:
    lines = text.split("\n", line + 1)
    return line < len(lines) and "\t" in lines[line][: len(lines[line]) - len(lines[line].lstrip())]


class _Composer:
    """Builds plain data from events."""

    def __init__(self) -> None:
        self.document: Any = None
        self.top: Place = (1, 1)
        self.marks: dict[int, dict[str | int, Marks]] = {}
        self.problems: list[Problem] = []
        self._documents = 0
        self._values = 0
        self._aliased = 0  # bytes that aliases add
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}  # value and weight; None while it is open

    def take(self, event: Event) -> None:
        """Add what one event says."""
        if isinstance(event, ScalarEvent):
            self._scalar(event)
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            self._start(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            done = self._stack.pop()
            self.marks[id(done.value)] = done.marks
            if done.anchor is not None:
                self._anchors[done.anchor] = (done.value, done.weight)
            if self._stack:
                self._stack[-1].weight += done.weight
        elif isinstance(event, AliasEvent):
            self._alias(event)
        elif isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(event, "a second document begins here", "write one workflow per file")

    def _scalar(self, event: ScalarEvent) -> None:
        self._refuse_tag(event)
        parent = self._stack[-1] if self._stack else None
        weight = _ALIASED_VALUE + len(event.value)
        if parent is not None:
            parent.weight += weight
        if parent is not None and parent.expects_key:
            value = event.value
            self._key(parent, value, _place(event))
        else:
            value = event.value if event.style else self._resolve(event)
            self._add(value, _place(event))
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, weight)

    def _key(self, parent: _Open, key: str, place: Place) -> None:
        if key in parent.marks:
            first = parent.marks[key][0]
            self._report(duplicate_key((*parent.path, key), place, first or place))
        parent.key, parent.key_place = key, place

    def _start(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        self._refuse_tag(event)
        if len(self._stack) >= MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        place = _place(event)
        value: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
        path = self._path()
        if self._stack and self._stack[-1].expects_key:
            self._stop(event, "a key must be text, not a list or mapping", "quote texts that begin with { or [")
        self._add(value, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(value, place, path, event.anchor))

    def _alias(self, event: AliasEvent) -> None:
        name = event.anchor
        if name not in self._anchors:
            self._stop(event, f"no anchor `&{name[:60]}` stands before this alias", "quote texts that begin with *")
        target = self._anchors[name]
        if target is None:
            self._stop(event, f"`*{name[:60]}` contains itself")
            return
        value, weight = target
        self._aliased += weight
        if self._aliased > MAX_BYTES:
            self._stop(event, f"aliases expand to more than {MAX_BYTES // 2**20} MB", "write less of it by alias")
        parent = self._stack[-1]
        if parent.expects_key:
            if not isinstance(value, str):
                self._stop(event, "a key must be text")
            self._key(parent, value, _place(event))
            return
        self._add(value, _place(event))
        parent.weight += weight

    def _path(self) -> Path:
        if not self._stack:
            return ()
        parent = self._stack[-1]
        return (*parent.path, parent.key or "") if isinstance(parent.value, dict) else (*parent.path, len(parent.value))

    def _add(self, value: Any, place: Place) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise Unreadable([*self.problems, Problem(f"more than {MAX_VALUES:,} values", line=place[0])])
        if not self._stack:
            self.document, self.top = value, place
            return
        parent = self._stack[-1]
        if isinstance(parent.value, dict):
            key = parent.key or ""
            parent.marks[key] = (parent.key_place, place)
            parent.value[key] = value
            parent.key = None
        else:
            parent.marks[len(parent.value)] = (None, place)
            parent.value.append(value)

    def _resolve(self, event: ScalarEvent) -> Any:
        text: str = event.value
        if text in _WORDS:
            return _WORDS[text]
        if text[0] not in "-+.0123456789":
            return text
        if len(text) > MAX_DIGITS and (_FLOAT.fullmatch(text) or _HEX.fullmatch(text) or _OCTAL.fullmatch(text)):
            self._stop(
                event, f"a number of {len(text):,} digits; at most {MAX_DIGITS} are read", "quote it if it is text"
            )
        if _INTEGER.fullmatch(text):
            return int(text)
        if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
            return int(text, 0)
        if _NOT_JSON.fullmatch(text):
            self._stop(event, f"{text} is not JSON", "quote it if it is text")
        if not _FLOAT.fullmatch(text):
            return text
        number = float(text)
        if number in {float("inf"), float("-inf")}:
            self._stop(event, f"{text} is too large for a number", "quote it if it is text")
        return number

    def _refuse_tag(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent) -> None:
        if event.tag is not None:
            self._stop(
                event, f"tags such as {event.tag[:60]} are not read", "remove the tag; quote texts that begin with !"
            )

    def _stop(self, event: Event, message: str, hint: str | None = None) -> None:
        line, column = _place(event)
        problem = Problem(message, path=path_text(self._path()), line=line, column=column, hint=hint)
        raise Unreadable([*self.problems, problem])

    def _report(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) >= MAX_PROBLEMS:
            raise Unreadable(self.problems)


def _place(event: Event) -> Place:
    return event.start_mark.line + 1, event.start_mark.column + 1
