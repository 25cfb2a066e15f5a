"""Documents as YAML that people like to read, and that any YAML reader, 1.1 or 1.2, reads back the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from agentflow.spec.document import to_document
from agentflow.spec.models import WorkflowSpec

_WIDTH = 100  # columns a list in one line may take
# Texts that need no quotes: no indicator first, no `: ` or ` #` inside, nothing that some YAML reads as another type.
_QUANTITY = r"[0-9]{1,12}(?:ms|s|m|h|d|[KMGT]i|[kMGT])"
_PLAIN = re.compile(rf"{_QUANTITY}|[A-Za-z_/][\w/.+@%()=<>|*~-]*(?:(?:,? |[:,])[\w/.+@%()=<>|*~-]+)*", re.ASCII)
_PLAIN_IN_LIST = re.compile(rf"{_QUANTITY}|[A-Za-z_/][\w/.+@%()=<>*-]*(?: [\w/.+@%()=<>*-]+)*", re.ASCII)
_WORDS_OF_OTHER_TYPES = {"null", "true", "false", "yes", "no", "on", "off", "n", "y"}
_NOT_LITERAL = re.compile(r"[^\n -~\u00a0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]")
_ESCAPED = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def to_yaml(spec: WorkflowSpec) -> str:
    """The workflow as YAML; reading it back gives the same content hash."""
    document = to_document(spec)
    nodes = document.pop("nodes")
    outputs = document.pop("outputs", None)
    lines = [*_mapping(document, ""), "", "nodes:"]
    for index, (node_id, node) in enumerate(nodes.items()):
        if index:
            lines.append("")
        lines += _mapping({node_id: node}, "  ")
    if outputs:
        lines += ["", *_mapping({"outputs": outputs}, "")]
    return "\n".join(lines) + "\n"


def _mapping(mapping: dict[str, Any], indent: str) -> Iterator[str]:
    for key, value in mapping.items():
        yield from _entry(f"{indent}{_scalar(key)}:", value, indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    """A key or dash with what belongs to it."""
    inner = indent + "  "
    flow = _flow(value)
    if flow is not None and len(head) + len(flow) < _WIDTH:
        yield f"{head} {flow}"
    elif isinstance(value, dict):
        yield head
        yield from _mapping(value, inner)
    elif isinstance(value, list):
        yield head
        for item in value:
            yield from _item(item, inner)
    elif isinstance(value, str) and _fits_literal(value):
        yield f"{head} |{_chomping(value)}"
        for line in value.removesuffix("\n").split("\n"):
            yield f"{inner}{line}" if line else ""
    else:
        yield f"{head} {_scalar(value)}"


def _item(item: Any, indent: str) -> Iterator[str]:
    """A list entry; a mapping's first key stands beside the dash."""
    if isinstance(item, dict) and item:
        lines = _mapping(item, indent + "  ")
        yield f"{indent}- {next(lines).removeprefix(indent + '  ')}"
        yield from lines
    else:
        yield from _entry(f"{indent}-", item, indent)


def _flow(value: Any) -> str | None:
    """Empty containers, short lists of plain values and positions in one line; None for everything else."""
    if isinstance(value, list) and len(value) <= 20 and not any(isinstance(item, dict | list) for item in value):
        return f"[{', '.join(_scalar(item, in_list=True) for item in value)}]"
    if isinstance(value, dict) and (not value or value.keys() == {"x", "y"}):
        if any(isinstance(item, dict | list | str) for item in value.values()):
            return None
        return "{" + ", ".join(f"{key}: {_scalar(item)}" for key, item in value.items()) + "}"
    return None


def _fits_literal(text: str) -> bool:
    """Whether a block literal keeps the text: several lines, none of which hides spaces or starts the block with any."""
    body = text.removesuffix("\n")
    return (
        "\n" in text
        and bool(body)
        and body[0] not in " \t\n"
        and not text.endswith("\n\n")
        and not any(line != line.rstrip() for line in body.split("\n"))
        and _NOT_LITERAL.search(text.replace("\t", " ")) is None
    )


def _chomping(text: str) -> str:
    return "" if text.endswith("\n") else "-"


def _scalar(value: Any, *, in_list: bool = False) -> str:
    if not isinstance(value, str):
        text = json.dumps(value, allow_nan=False)
        exponent_alone = isinstance(value, float) and "." not in text  # 1e-05: text to readers of YAML 1.1
        return text.replace("e", ".0e") if exponent_alone else text
    pattern = _PLAIN_IN_LIST if in_list else _PLAIN
    if len(value) < 200 and pattern.fullmatch(value) and value.lower() not in _WORDS_OF_OTHER_TYPES:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)
