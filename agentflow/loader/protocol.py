"""What both sides of the child agree on. Standard library only: the child starts fast."""

from __future__ import annotations

import sys
from pathlib import PurePosixPath

#: Before the child's reply; what comes before it on that pipe is a dump of `faulthandler`.
RESULT_MARK = b"\x1e"


def module_name(relative: str) -> str:
    """The import name of a Python file, from its posix path below the bundle's root.

    Raises:
        ValueError: It has none, or one that belongs to Python or to AgentFlow; the message says what to do.
    """
    path = PurePosixPath(relative)
    parts = list(path.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if not parts:
        raise ValueError("a folder's own __init__.py cannot hold workflows; move them into a file beside it")
    if any("." in part for part in parts):
        raise ValueError(f"{relative} cannot be imported because of the dots in its name; use underscores")
    if parts[0] in sys.stdlib_module_names or parts[0] == "agentflow":
        raise ValueError(f"{relative} has the name of a module that Python or AgentFlow needs; rename `{parts[0]}`")
    return ".".join(parts)
