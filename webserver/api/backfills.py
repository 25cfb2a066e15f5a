"""`/backfills`: past dates of triggers."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from agentflow import backfills as use
from agentflow.access import Role
from agentflow.states import BackfillState, RunState
from webserver.access import current_principal, requires
from webserver.api.runs_schemas import Done
from webserver.api.workflows_schemas import WorkflowPath
from webserver.arguments import Body, Path
from webserver.database import do
from webserver.idempotency import once
from webserver.pages import Answer, Page, PageQuery, page
from webserver.resource import ONCE, Resource


class BackfillPath(Path):
    """Which backfill."""

    id: str = Field(max_length=100)


class Backfill(Answer):
    """A backfill."""

    id: str
    workflow: str
    version: int
    trigger: str
    state: BackfillState
    from_: str = Field(alias="from")
    to: str
    reprocess: Literal["none", "failed", "all"]
    reverse: bool
    max_active_runs: int
    params: dict[str, Any]
    counts: dict[str, int] = Field(description="Of dates (total, skipped, left) and of its runs (done; and by state)")
    created_at: str
    created_by: str
    finished_at: str | None


class NewBackfill(Backfill):
    """A backfill that was just made."""

    paused: bool = Field(description="The workflow is paused: nothing of it runs until it is unpaused")


class BackfillPage(Page[Backfill]):
    """Backfills, the newest first."""


class BackfillQuery(PageQuery):
    """Which backfills."""

    workflow: str | None = Field(None, max_length=100)
    state: BackfillState | None = None


Date = Annotated[str, Field(max_length=40, description="ISO 8601; without an offset in the trigger's zone")]


class BackfillBody(Body):
    """Which dates to run, and how."""

    from_: Date = Field(alias="from")
    to: Date
    trigger: str | None = Field(None, max_length=200, description="Its name, needed when several have a clock")
    reprocess: Literal["none", "failed", "all"] = Field("none", description="Which dates that have a run run again")
    reverse: bool = Field(False, description="The latest date first")
    max_active_runs: int | None = Field(None, ge=1, le=1000, description="Left out: the workflow's")
    params: dict[str, Any] = Field({}, description="On top of the trigger's")
    confirmed: bool = Field(False, description="Also with more than 100,000 dates")
    dry_run: bool = Field(False, description="Only tell which dates")


class BackfillDate(Answer):
    """A date of a range."""

    logical_date: str
    run: str | None = Field(description="The newest run that it has")
    state: RunState | None
    action: Literal["run", "skip"]


class BackfillPreview(Answer):
    """What a backfill would run."""

    workflow: str
    version: int
    trigger: str
    from_: str = Field(alias="from")
    to: str
    count: int
    skipped: int
    runs: int
    items: list[BackfillDate]
    more: int = Field(description="Dates that are not in `items`")


class CancelBody(Body):
    """How to cancel."""

    running: bool = Field(False, description="Its running runs too; else they end by themselves")


class CancelledBackfill(Done):
    """What became of a cancel."""

    cancelled: int = Field(description="Runs that were cancelled")


class PauseBody(Body):
    """Whether it may start runs."""

    paused: bool


backfills = Resource("backfills", "Past dates of triggers, run again.")


@backfills.get("/backfills", responses={200: BackfillPage})
@requires(Role.VIEWER)
def list_backfills(query: BackfillQuery) -> dict[str, Any]:
    """List backfills, the newest first."""
    find = partial(
        use.list_backfills,
        workflow=query.workflow,
        state=query.state,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*do(find))


@backfills.post(
    "/workflows/<name>/backfills",
    responses={200: BackfillPreview, 201: NewBackfill, 409: None},
    openapi_extensions={ONCE: True},
)
@requires(Role.OPERATOR)
def create_backfill(path: WorkflowPath, body: BackfillBody) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Run the dates of a trigger in a range; with `dry_run` only tell which. Takes an `Idempotency-Key`."""
    principal = current_principal()
    asked = use.Asked(**body.model_dump(exclude={"confirmed", "dry_run"}))
    if body.dry_run:
        look = partial(use.preview_backfill, name=path.name, asked=asked, workspace=principal.workspace)
        return do(look), 200, {}

    def work(connection: Any) -> tuple[dict[str, Any], int]:
        who = {"actor": principal.name, "workspace": principal.workspace}
        return use.create_backfill(connection, path.name, asked, confirmed=body.confirmed, **who), 201

    document, status = once(work, body.model_dump(mode="json"))
    return document, status, {"Location": f"/api/v1/backfills/{document['id']}"}


@backfills.get("/backfills/<id>", responses={200: Backfill})
@requires(Role.VIEWER)
def get_backfill(path: BackfillPath) -> dict[str, Any]:
    """Show a backfill: how far it is."""
    return do(partial(use.show_backfill, backfill_id=path.id, workspace=current_principal().workspace))


@backfills.patch("/backfills/<id>", responses={200: Done, 409: None})
@requires(Role.OPERATOR)
def patch_backfill(path: BackfillPath, body: PauseBody) -> dict[str, Any]:
    """Let a backfill start nothing more, or go on."""
    principal = current_principal()
    return do(
        partial(
            use.set_backfill_paused,
            backfill_id=path.id,
            paused=body.paused,
            actor=principal.name,
            workspace=principal.workspace,
        )
    )


@backfills.post("/backfills/<id>/cancel", responses={200: CancelledBackfill, 409: None})
@requires(Role.OPERATOR)
def cancel_backfill(path: BackfillPath, body: CancelBody) -> dict[str, Any]:
    """End a backfill: it makes no more runs, and its queued ones are cancelled."""
    principal = current_principal()
    return do(
        partial(
            use.cancel_backfill,
            backfill_id=path.id,
            running=body.running,
            actor=principal.name,
            workspace=principal.workspace,
        )
    )
