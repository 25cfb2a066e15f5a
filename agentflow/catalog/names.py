"""Names of what workflows refer to: pools, variables, secrets, connections."""

from __future__ import annotations

import re

from agentflow.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


def check_name(name: str, kind: str) -> None:
    """Refuse what is not an identifier.

    Raises:
        UsageError: Says what a name looks like.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a {kind}.", hint="letters, digits, _ and -, not beginning with a digit"
        )
