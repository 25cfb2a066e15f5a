"""The command line: `agentflow`, or `python -m agentflow`."""

from __future__ import annotations

import json
import sys

from agentflow.errors import AgentFlowError


class CommandLineMissing(AgentFlowError):
    """The command line is not installed."""

    word = "not-installed"


def main() -> int:
    """Run the command line; returns its exit code. Without the packages of the extra `server`, says how to get them."""
    try:
        from agentflow.cli.main import main as run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "agentflow"):
            raise
        return _report(package)
    return run()


def _report(package: str) -> int:
    """Like `agentflow.cli.failures`, which cannot be imported now."""
    error = CommandLineMissing(
        f"`{package}` is not installed; this environment has the parts that run nodes, not the command line",
        hint='pip install "agentflow[server]"',
    )
    if "--json" in sys.argv:
        print(json.dumps({"error": error.as_document()}, indent=2))  # noqa: T201 - the result of the command
    else:
        print(f"Error: {error.message}\nHint: {error.hint}", file=sys.stderr)  # noqa: T201 - rich is missing too
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
