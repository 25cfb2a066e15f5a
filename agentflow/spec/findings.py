"""Findings: problems before they know their line. Also pydantic's errors in the house's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from agentflow.errors import Problem
from agentflow.spec.fields import NODE_ID, WORD, WORKFLOW_NAME
from agentflow.spec.limits import MAX_PROBLEMS
from agentflow.spec.paths import Locator, Path, member, path_text

_DOTTED = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_MESSAGE = 500  # characters
_QUOTED = 60  # characters of a wrong value that a message repeats


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with its path in the document."""

    path: Path
    message: str
    hint: str | None = None
    of_key: bool = False  #: The key itself is wrong, not its value.


def place(findings: Sequence[Finding], locator: Locator, *, uncounted: int = 0) -> list[Problem]:
    """Give findings their line and column, in file order, at most MAX_PROBLEMS of them; `uncounted` exist beside."""
    findings = list(dict.fromkeys(findings))
    kept = findings[:MAX_PROBLEMS]
    places = locator.locate([(finding.path, finding.of_key) for finding in kept])
    problems = [
        Problem(
            clipped(finding.message),
            path=path_text(finding.path),
            line=where[0] if where else None,
            column=where[1] if where else None,
            hint=clipped(finding.hint) if finding.hint else None,
        )
        for finding, where in zip(kept, places, strict=True)
    ]
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    more = len(findings) - len(kept) + uncounted
    if more:
        problems.append(Problem(f"and {more:,} more problems"))
    return problems


def clipped(text: str) -> str:
    """A message of bounded length: it may repeat what stands in the file."""
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}…"


def did_you_mean(word: str, known: Iterable[str], *, what: str = "") -> str | None:
    """A hint that names the closest word, else the known ones if they are few."""
    if len(word) > 200:
        return None
    names = list(known)
    # A 50,000-node spec with 50 misspelt upstreams must stay cheap: only names of a similar length can be close.
    similar = [name for name in names if abs(len(name) - len(word)) <= 3][:5000]
    close = difflib.get_close_matches(word, similar, n=1)
    if not close:
        close = [name for name in similar if name.lower() == word.lower()][:1]
    if close:
        return f"did you mean `{close[0]}`?"
    if what and 0 < len(names) <= 30:
        return f"{what}: {', '.join(names)}"
    return None


def path_of(text: str) -> Path:
    """The parts of a dotted path such as `cases[0].to`."""
    return tuple(name or int(index) for name, index in _DOTTED.findall(text))


def from_pydantic(model: type[BaseModel], error: ValidationError, document: Any) -> list[Finding]:
    """Pydantic's errors in the words of a workflow file."""
    details = error.errors(include_url=False)
    return [_finding(model, item["type"], item["loc"], item.get("ctx", {}), item["msg"], document) for item in details]


def _finding(
    model: type[BaseModel], kind: str, loc: tuple[str | int, ...], ctx: dict[str, Any], msg: str, document: Any
) -> Finding:
    if loc and loc[-1] == "[key]":
        return _bad_key(loc[:-1])
    if kind == "extra_forbidden":
        return _unknown_key(model, loc)
    if kind == "missing":
        hint = "for example `type: python`" if loc[-1] == "type" else None
        return Finding(loc, f"`{loc[-1]}` is missing", hint)
    value = _value(document, loc)
    if kind == "value_error":
        return Finding(loc, str(ctx.get("error", msg)), _hint(loc, value))
    if kind == "string_pattern_mismatch":
        what, hint = _NAMES.get(str(ctx.get("pattern")), _NAMES[WORD])
        return Finding(loc, f"{_shown(value)} is not {what}", hint)
    return Finding(loc, _message(kind, ctx, msg, value), _hint(loc, value, kind))


def _bad_key(loc: Path) -> Finding:
    name = str(loc[-1])
    what, hint = _NAMES[NODE_ID]
    return Finding(loc, f"{_shown(name)} is not {'a param name' if loc[0] == 'params' else what}", hint, of_key=True)


def _unknown_key(model: type[BaseModel], loc: Path) -> Finding:
    key = str(loc[-1])
    if key == "<<":
        return Finding(loc, "merge keys (`<<`) are not YAML 1.2", "use `defaults` for what nodes share", of_key=True)
    known = list(_model_at(model, loc[:-1]).model_fields)
    return Finding(loc, f"unknown key `{key[:_QUOTED]}`", did_you_mean(key, known, what="known keys"), of_key=True)


def _model_at(model: type[BaseModel], loc: Path) -> type[BaseModel]:
    """The model that a path inside the document belongs to."""
    for part in loc:
        info = model.model_fields.get(str(part))
        inner = _inner_model(info.annotation) if info else None
        if inner is not None:
            model = inner
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `dict[str, Model]` or `Model | None`."""
    stack = [annotation]
    while stack:
        item = stack.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
        stack.extend(getattr(item, "__args__", ()))
    return None


#: Patterns of `fields` in words: what a text is not, and what is allowed.
_NAMES = {
    WORKFLOW_NAME: ("a workflow name", "small letters, digits, _ and -, at most 100"),
    NODE_ID: ("a node id", "letters, digits, _ and -, beginning with a letter or _, at most 100"),
    WORD: ("a name", "letters, digits, _ . and -, at most 100"),
}

_WANTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "list_type": "must be a list",
    "string_too_short": "must not be empty",
}


def _message(kind: str, ctx: dict[str, Any], msg: str, value: Any) -> str:
    got = f", not {_shown(value)}"
    if kind in _WANTED:
        return _WANTED[kind] + (got if kind.endswith("_type") else "")
    if kind in {"enum", "literal_error"}:
        choices = str(ctx.get("expected", "")).replace(" or ", ", ").replace("'", "")
        return f"{_shown(value)} is not one of {choices}"
    if kind in {"greater_than_equal", "less_than_equal"}:
        bound = "at least" if kind.startswith("greater") else "at most"
        return f"must be {bound} {ctx.get('ge', ctx.get('le'))}{got}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "too_long":
        return f"has more than {ctx.get('max_length')} entries"
    if kind == "string_too_long":
        return f"is longer than {ctx.get('max_length')} characters"
    return msg[:1].lower() + msg[1:]


def _hint(loc: Path, value: Any, kind: str = "") -> str | None:
    key = next((part for part in reversed(loc) if isinstance(part, str)), "")
    if kind == "list_type" and isinstance(value, str):
        return f"write {key}: [{value[:_QUOTED]}]"
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        if key.endswith(("timeout", "delay", "deadline", "within", "jitter")):
            return f'write the unit: "{value}s"'
        return f'quote it: "{value}"'
    if loc[:1] == ("params",) and kind == "dict_type":
        return "write a schema such as {type: string, default: Berlin}"
    if kind == "enum" and isinstance(value, str) and key == "trigger_rule":
        from agentflow.states import TriggerRule

        return did_you_mean(value, [rule.value for rule in TriggerRule])
    return None


def _value(document: Any, loc: Path) -> Any:
    for part in loc:
        document = member(document, part)
    return document


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value[:_QUOTED]}`" if value else "an empty text"
    return str(value)[:_QUOTED]
