"""`.agentflowignore`: which files of a DAG folder are neither read nor bundled. The globs are gitignore's.

One file, at the root of the folder. `#` starts a comment, `!` takes a later line's match back, a trailing `/` means
folders only, a `/` elsewhere ties the pattern to the root, `*` and `?` stay within a name, `**` crosses folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Name of the file, at the root of a DAG folder.
IGNORE_FILE = ".agentflowignore"


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    folders_only: bool
    keeps: bool


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The lines of an ignore file; the last one that matches decides."""

    rules: tuple[_Rule, ...] = ()

    def ignores(self, path: str, *, folder: bool) -> bool:
        """Whether a path (posix, relative to the root) is left out. An ignored folder is not looked into."""
        ignored = False
        for rule in self.rules:
            if (folder or not rule.folders_only) and rule.pattern.fullmatch(path):
                ignored = not rule.keeps
        return ignored


def parse_ignore(lines: Iterable[str]) -> IgnoreRules:
    """Read an ignore file; a line that is no pattern matches nothing."""
    return IgnoreRules(tuple(rule for line in lines if (rule := _parse_line(line)) is not None))


def _parse_line(line: str) -> _Rule | None:
    text = line.rstrip("\r\n").strip(" \t")
    if not text or text.startswith("#"):
        return None
    keeps = text.startswith("!")
    text = text[1:] if keeps else text
    text = text[1:] if text.startswith(("\\#", "\\!")) else text
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    if not text:
        return None
    anchored = "/" in text
    body = _translate(text.lstrip("/"))
    try:
        return _Rule(re.compile(body if anchored else f"(?:.*/)?{body}", re.DOTALL), folders_only, keeps)
    except re.error:
        return None


def _translate(glob: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(glob):
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            parts.append("(?:.*/)?")
            at += 3
        elif glob.startswith("**", at):
            parts.append(".*")
            at += 2
        elif glob[at] == "*":
            parts.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            parts.append("[^/]")
            at += 1
        elif glob[at] == "[" and (end := glob.find("]", at + 2)) > 0:
            inside = glob[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]")
            at = end + 1
        else:
            parts.append(re.escape(glob[at]))
            at += 1
    return "".join(parts)
