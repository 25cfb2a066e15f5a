"""One tree of errors; the docstring is the default message, attributes carry the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self


class AgentFlowError(Exception):
    """AgentFlow could not do what was asked."""

    #: Stable word for the `type` of error documents (CLI `--json`, HTTP problem details).
    word: ClassVar[str] = "error"
    #: Exit code of the command line (DESIGN 8.2).
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.hint = hint
        super().__init__(self.message)

    def as_document(self) -> dict[str, Any]:
        """The `error` object of SEMANTICS section 8."""
        title = (type(self).__doc__ or self.word).strip().splitlines()[0]
        document: dict[str, Any] = {"type": self.word, "title": title, "detail": self.message}
        if self.hint:
            document["hint"] = self.hint
        return document


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a workflow file."""

    message: str
    path: str = ""  #: Dotted path inside the document: `nodes.clean.needs[0]`.
    line: int | None = None  #: 1-based.
    column: int | None = None  #: 1-based.
    hint: str | None = None

    def as_document(self) -> dict[str, Any]:
        """The shape `validate --json` prints."""
        return asdict(self)


class SpecError(AgentFlowError):
    """The workflow file is not valid."""

    word = "invalid-spec"

    def __init__(self, problems: list[Problem], *, file: str | None = None) -> None:
        self.problems = problems
        self.file = file
        super().__init__("\n".join(self._line(problem) for problem in problems))

    def _line(self, problem: Problem) -> str:
        place = ":".join(str(part) for part in (self.file, problem.line, problem.column) if part is not None)
        hint = f" ({problem.hint})" if problem.hint else ""
        where = f"{problem.path}: " if problem.path else ""
        return f"{place}: {where}{problem.message}{hint}" if place else f"{where}{problem.message}{hint}"

    def as_document(self) -> dict[str, Any]:
        """The `error` object with the place of the first problem and the list of all."""
        document = super().as_document()
        first = self.problems[0] if self.problems else None
        document["file"] = self.file
        if first is not None:
            document |= {"line": first.line, "column": first.column}
            if first.hint:
                document["hint"] = first.hint
        document["errors"] = [problem.as_document() for problem in self.problems]
        return document


class ImportFailed(SpecError):
    """The Python file could not be imported."""

    word = "import-failed"

    def __init__(
        self, problems: list[Problem], *, file: str | None = None, traceback: str | None = None, printed: str = ""
    ) -> None:
        self.traceback = traceback  #: Of the first problem; only the user's frames.
        self.printed = printed  #: The end of what the file printed.
        super().__init__(problems, file=file)

    def as_document(self) -> dict[str, Any]:
        """As of SpecError, with the traceback and what the file printed."""
        extra = {"traceback": self.traceback, "printed": self.printed}
        return super().as_document() | {key: value for key, value in extra.items() if value}


class FileNotReadable(AgentFlowError):
    """The file could not be read."""

    word = "file-not-readable"


class ParamError(AgentFlowError):
    """A param is unknown, missing or of the wrong type."""

    word = "invalid-params"
    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(self._line(problem) for problem in problems))

    @staticmethod
    def _line(problem: Problem) -> str:
        return f"{problem.path}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")

    def as_document(self) -> dict[str, Any]:
        """The `error` object with every wrong param."""
        return super().as_document() | {"errors": [problem.as_document() for problem in self.problems]}


class UsageError(AgentFlowError):
    """The command was given wrong arguments."""

    word = "usage"
    exit_code = 2


class NotFound(AgentFlowError):
    """There is nothing with this name or id."""

    word = "not-found"


class Conflict(AgentFlowError):
    """The request contradicts what is stored."""

    word = "conflict"


class OwnedByFile(Conflict):
    """The workflow belongs to a file of the DAG folder."""

    word = "owned-by-file"


class StaleVersion(AgentFlowError):
    """Somebody else published first."""

    word = "precondition-failed"

    def __init__(self, name: str, *, base: int, current: int, changes: dict[str, Any] | None = None) -> None:
        self.current = current  #: The published version.
        self.changes = changes  #: What differs between that and what was to be published, when it is known.
        super().__init__(
            f"The workflow {name!r} is at version {current}, and this was made on version {base}.",
            hint="read it again, carry your changes over, and try once more",
        )

    @classmethod
    def told(cls, message: str, *, hint: str | None, current: int, changes: dict[str, Any] | None) -> Self:
        """The error as a server told it."""
        error = cls("", base=0, current=current, changes=changes)
        AgentFlowError.__init__(error, message, hint=hint)
        return error

    def as_document(self) -> dict[str, Any]:
        """The `error` object with the published version and, if known, the difference."""
        known = {} if self.changes is None else {"changes": self.changes}
        return super().as_document() | {"current_version": self.current} | known


class DatabaseUnreachable(AgentFlowError):
    """The database cannot be reached."""

    word = "database-unreachable"
    exit_code = 3


class DatabaseNotReady(AgentFlowError):
    """The database is reachable but its schema is not the one this version needs."""

    word = "database-not-ready"
    exit_code = 3


class ApiUnreachable(AgentFlowError):
    """The API cannot be reached."""

    word = "api-unreachable"
    exit_code = 3


class ApiError(AgentFlowError):
    """The API refused the request."""

    word = "api"

    def __init__(
        self, message: str, *, hint: str | None = None, status: int, problem: str = "", title: str | None = None
    ) -> None:
        self.status = status  #: Of the answer.
        self.problem = problem or self.word  #: Its word: `forbidden`, `rate-limited`.
        self.title = title
        super().__init__(message, hint=hint)

    def as_document(self) -> dict[str, Any]:
        """The `error` object, with the server's word."""
        document = super().as_document()
        return document | {"type": self.problem, "title": self.title or document["title"]}


class SettingsError(AgentFlowError):
    """A setting is wrong."""

    word = "settings"
    exit_code = 2


class SecretUnreadable(AgentFlowError):
    """A stored secret cannot be decrypted."""

    word = "secret-unreadable"


class ExecutorUnknown(AgentFlowError):
    """No executor of this name is enabled."""

    word = "executor-unknown"


class NodeTypeUnknown(AgentFlowError):
    """No node type of this name is installed."""

    word = "node-type-unknown"


class NodeTypeUnusable(AgentFlowError):
    """The node type is installed but cannot be used."""

    word = "node-type-unusable"


class TemplateError(AgentFlowError):
    """A template could not be rendered."""

    word = "template"


class WorkflowBodyError(AgentFlowError):
    """The body of a `@workflow` function does what cannot be drawn as a graph."""

    word = "workflow-body"

    def __str__(self) -> str:  # it is met in a traceback, where the hint would be lost
        return f"{self.message} {self.hint}" if self.hint else self.message


class BundleTooLarge(AgentFlowError):
    """The code folder is larger than a bundle may be."""

    word = "bundle-too-large"


class BundleDamaged(AgentFlowError):
    """A code bundle is not what its hash says."""

    word = "bundle-damaged"


class TemplateProblem(TemplateError):
    """A template is not valid."""

    word = "invalid-template"

    def __init__(self, message: str, *, line: int | None = None, path: str = "", hint: str | None = None) -> None:
        self.line = line  #: 1-based, within the template's own text.
        self.path = path  #: Place of the text in the document that was searched: `args.page[0]`.
        super().__init__(message, hint=hint)
