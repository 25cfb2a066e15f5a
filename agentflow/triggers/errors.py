"""The one error of this package: a trigger that cannot be used, with every problem it has."""

from __future__ import annotations

from agentflow.errors import AgentFlowError, Problem


class InvalidTrigger(AgentFlowError):
    """The trigger is not valid."""

    word = "invalid-trigger"

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        message = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
        super().__init__(message, hint=problems[0].hint if problems else None)


def invalid(path: str, message: str, hint: str | None = None) -> InvalidTrigger:
    """An error with one problem; `path` is the trigger's key it belongs to."""
    return InvalidTrigger([Problem(message, path=path, hint=hint)])
