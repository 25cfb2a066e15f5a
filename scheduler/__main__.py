"""`python -m scheduler`: what `agentflow standalone` runs as a child."""

from __future__ import annotations

import sys

from agentflow.errors import AgentFlowError
from scheduler.command import scheduler


def main() -> int:
    """Run the daemon; the exit code of the command line."""
    try:
        scheduler()
    except AgentFlowError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
