"""What the API takes and answers about workflows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from webserver.arguments import Body, Path, Query
from webserver.pages import Answer, Page, PageQuery

Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
Document = dict[str, Any]


class WorkflowPath(Path):
    """Which workflow."""

    name: str = Field(max_length=100)


class VersionPath(WorkflowPath):
    """Which version of it."""

    version: Number


class LatestRun(Answer):
    """The newest run of a workflow."""

    id: str
    state: str
    created_at: str


class WorkflowItem(Answer):
    """A workflow in a list."""

    name: str
    title: str | None
    version: int = Field(description="Number of the published version")
    source: Literal["file", "api"]
    source_path: str | None = Field(description="Its file, of workflows that came from one")
    paused: bool
    pause_reason: str | None = Field(description="Why the system paused it; null when a person did")
    missing: bool = Field(description="Its file is gone: it does not fire")
    tags: list[str]
    next_fire: str | None
    latest_run: LatestRun | None


class WorkflowPage(Page[WorkflowItem]):
    """Workflows by name."""


class Workflow(WorkflowItem):
    """A workflow with its published spec."""

    spec: Document


class WorkflowQuery(PageQuery):
    """Which workflows."""

    search: str | None = Field(None, max_length=200, description="Part of the name, title or description")
    tag: list[str] = Field([], max_length=20, description="Has this tag; of several, all")
    paused: bool | None = None
    source: Literal["file", "api"] | None = None


class WorkflowDocument(RootModel[Document]):
    """A workflow document: the same as in a file (`agentflow schema` prints its JSON Schema)."""


class Applied(Answer):
    """What became of a workflow document."""

    name: str
    version: int
    changed: bool = Field(description="False: the content is what was published before")
    created: bool


class WorkflowPatch(Body):
    """A merge patch: what is left out stays as it is."""

    paused: bool = Field(False, description="Stop its triggers and claims")
    tags: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        None, max_length=100, description="Null: no tags"
    )


class ValidateBody(Body):
    """A workflow to check: as a document, or as the text of a file."""

    spec: Document | None = None
    text: str | None = Field(None, description="YAML, or JSON")
    file: str = Field("workflow.yaml", max_length=300, description="Its name, for messages; `*.json` is read as JSON")


class Mistake(Answer):
    """One thing that is wrong."""

    message: str
    path: str
    line: int | None
    column: int | None
    hint: str | None


class Report(Answer):
    """What a check found."""

    valid: bool
    name: str | None
    errors: list[Mistake]
    spec: Document | None = Field(description="The document as it would be stored; null when it is not valid")


class VersionItem(Answer):
    """A version in a list."""

    version: int
    published: bool
    message: str | None = Field(description="What its publisher said of it")
    content_hash: str
    bundle_hash: str | None
    created_at: str
    created_by: str


class VersionPage(Page[VersionItem]):
    """Versions, the newest first."""


class Version(VersionItem):
    """A version with its spec."""

    spec: Document


class DiffQuery(Query):
    """Which two versions."""

    from_: Number = Field(alias="from")
    to: Number


class ExportQuery(Query):
    """Which version."""

    version: Number | None = Field(None, description="Left out: the published one")
    format: Literal["yaml", "json"] = "yaml"


class Change(Answer):
    """A value that differs; `before` or `after` is left out when there was none."""

    path: str
    before: Any = None
    after: Any = None


class NodeChanges(Answer):
    """Nodes that differ."""

    added: list[str]
    removed: list[str]
    changed: dict[str, list[Change]]


class EdgeChanges(Answer):
    """Edges that differ, as pairs of upstream and downstream."""

    added: list[tuple[str, str]]
    removed: list[tuple[str, str]]


class Changes(Answer):
    """What differs between two documents."""

    identical: bool
    keys: list[Change] = Field(description="Of the workflow itself")
    nodes: NodeChanges
    edges: EdgeChanges


class Diff(Changes):
    """What differs between two versions."""

    from_: int = Field(alias="from")
    to: int


class Draft(Answer):
    """A document that is not published yet; it need not be valid."""

    name: str
    base_version: int = Field(description="The published version that it was begun on")
    published_version: int
    revision: int = Field(description="Counts how often it was saved")
    document: Document
    updated_at: str
    updated_by: str


class DraftBody(Body):
    """A document to keep."""

    document: Document
    base_version: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(description="The published version it was begun on")
    revision: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Of the draft that it replaces (0: none); left out: whatever is there"
    )


class PublishBody(Body):
    """How to publish."""

    message: str = Field("", max_length=2000, description="What changed, for people")
