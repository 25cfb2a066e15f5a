"""`python -m webserver`: what `agentflow webserver` becomes, and what `agentflow standalone` runs as a child."""

from __future__ import annotations

import sys

from agentflow.errors import AgentFlowError
from agentflow.settings import load_settings
from webserver.command import serve


def main() -> int:
    """Run the server; the exit code of the command line."""
    try:
        return serve(load_settings())
    except AgentFlowError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
