"""`agentflow runs cancel|clear|mark|rerun|note|delete`: what people do to runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Document, JsonFlag
from agentflow.cli.trigger import parse_time
from agentflow.errors import UsageError
from agentflow.states import RunState

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of the run.")]
MaybeRunId = Annotated[str | None, typer.Argument(metavar="[RUN_ID]", help="Id of the run.")]
OfWorkflow = Annotated[str | None, typer.Option("--workflow", metavar="NAME", help="All of this workflow instead.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (cancel, clear, mark, rerun, note, delete):
        app.command()(command)


def cancel(
    run_id: MaybeRunId = None,
    *,
    workflow: OfWorkflow = None,
    state: Annotated[RunState | None, typer.Option(help="With --workflow: only those queued or running.")] = None,
    json: JsonFlag = False,
) -> None:
    """Cancel a run, or all open runs of a workflow: what waits is dropped, what runs is stopped."""
    _refuse_for_one(run_id, workflow, {"--state": state})
    if state not in (None, RunState.QUEUED, RunState.RUNNING):
        raise UsageError(f"Runs that are {state} cannot be cancelled.", hint="--state queued or --state running")
    with context.api() as api:
        if run_id is not None and workflow is None:
            document = output.action("id", run_id, api.runs.cancel(run_id))
            text = f"{run_id} {'is being cancelled' if document['changed'] else 'has ended already'}"
            output.emit(document, as_json=json, human=lambda: output.say(text))
            return
        name = _only_workflow(run_id, workflow)
        states = [RunState.QUEUED, RunState.RUNNING] if state is None else [state]
        _each(api.runs.open(name, states), api.runs.cancel, "is being cancelled", json)


def clear(
    run_id: MaybeRunId = None,
    *,
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="This node, index (`fetch[3]`) or node of a sub-run (`loop.sub[2].fetch`); repeatable. Default: all.",
        ),
    ] = None,
    upstream: Annotated[bool, typer.Option("--upstream", help="And everything before these nodes.")] = False,
    downstream: Annotated[bool, typer.Option("--downstream", help="And everything after these nodes.")] = False,
    only_failed: Annotated[bool, typer.Option("--only-failed", help="Only those that did not succeed.")] = False,
    newest: Annotated[
        bool, typer.Option("--newest", help="Go over to the newest version, if its graph is the same.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would run again.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Stop what is under way instead of refusing.")] = False,
    workflow: OfWorkflow = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="With --workflow: first logical date.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="With --workflow: before this logical date.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run nodes of a run again, or of all runs of a workflow in a range of logical dates."""
    _refuse_for_one(run_id, workflow, {"--from": from_, "--to": to})
    with context.api() as api:

        def one(run: str) -> Document:
            return api.runs.clear(
                run,
                nodes=node,
                upstream=upstream,
                downstream=downstream,
                only_failed=only_failed,
                newest_version=newest,
                dry_run=dry_run,
                force=force,
            )

        if run_id is not None and workflow is None:
            document = output.action("id", run_id, one(run_id))
            output.emit(document, as_json=json, human=lambda: output.say(_cleared(document, dry_run=dry_run)))
            return
        name = _only_workflow(run_id, workflow)
        if from_ is None or to is None:
            raise UsageError("--workflow needs a range of logical dates.", hint="--from 2026-11-01 --to 2026-12-01")
        since, until = parse_time(from_, option="--from"), parse_time(to, option="--to")
        found = api.runs.between(name, since, until)
        _each(found, one, "would run nodes again" if dry_run else "runs nodes again", json)


def _refuse_for_one(run_id: str | None, workflow: str | None, options: Mapping[str, object]) -> None:
    """What chooses among runs must not be passed over when one is named: more would be done than was asked for."""
    given = [name for name, value in options.items() if value is not None]
    if run_id is not None and workflow is None and given:
        raise UsageError(
            f"{given[0]} chooses among the runs of a workflow.", hint="--workflow NAME instead of a run's id"
        )


def _only_workflow(run_id: str | None, workflow: str | None) -> str:
    if (run_id is None) == (workflow is None) or workflow is None:
        raise UsageError("Name a run, or --workflow.", hint="`agentflow runs list` shows the ids")
    return workflow


def _each(ids: Sequence[str], act: Callable[[str], Document], what: str, as_json: bool) -> None:
    """Each run by itself, so that one which cannot be changed keeps no other from it; exit 1 if there was one."""
    from agentflow.errors import AgentFlowError

    items: list[dict[str, Any]] = []
    failed = False
    for run in ids:
        try:
            result = act(run)
        except AgentFlowError as error:
            failed = True
            items.append({"id": run, "changed": False, "error": error.message})
        else:
            items.append({"id": run, **result})

    def human() -> None:
        for item in items:
            told = item.get("error") or (what if item["changed"] or item.get("cleared") else "unchanged")
            output.say(f"{item['id']}  {told}")
        if not items:
            output.note("no such runs")

    output.emit({"items": items, "next_cursor": None}, as_json=as_json, human=human)
    if failed:
        raise typer.Exit(1)


def _cleared(document: dict[str, Any], *, dry_run: bool) -> str:
    cleared = document["cleared"]
    if not cleared:
        return f"{document['id']}: nothing to clear"
    count = f"{len(cleared)} {'node' if len(cleared) == 1 else 'nodes'}"
    if dry_run:
        return f"{document['id']} would run {count} again: {', '.join(cleared)}"
    return f"{document['id']} runs {count} again"


def mark(
    run_id: RunId,
    node: Annotated[str, typer.Argument(help="Node, index or node of a sub-run: fetch, fetch[3], loop.sub[2].fetch.")],
    state: Annotated[str, typer.Argument(help="success, failed or skipped.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Set the state of a node by hand; its downstreams go on accordingly."""
    with context.api() as api:
        result = api.runs.mark(run_id, node, state)
    output.emit(
        output.action("id", run_id, result),
        as_json=json,
        human=lambda: output.say(f"{run_id}: {node} {'is marked' if result['changed'] else 'was already'} {state}"),
    )


def rerun(
    run_id: RunId,
    *,
    newest: Annotated[bool, typer.Option("--newest", help="With the newest version instead of the run's own.")] = False,
    json: JsonFlag = False,
) -> None:
    """Start a new run with the params of this one, and print its id."""
    with context.api() as api:
        document = api.runs.rerun(run_id, newest_version=newest)
    output.emit(document, as_json=json, human=lambda: output.say(document["id"]))


def note(
    run_id: RunId, text: Annotated[str, typer.Argument(help="The remark; empty removes it.")], *, json: JsonFlag = False
) -> None:
    """Keep a remark with a run."""
    with context.api() as api:
        result = api.runs.note(run_id, text)
    output.emit(output.action("id", run_id, result), as_json=json, human=lambda: output.say(f"{run_id} noted"))


def delete(
    run_id: RunId,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonFlag = False,
) -> None:
    """Delete an ended run with its sub-runs, outputs and logs."""
    if not yes:
        output.confirm(f"Delete the run {run_id} with its outputs and logs?")
    with context.api() as api:
        result = api.runs.delete(run_id)
    output.emit(output.action("id", run_id, result), as_json=json, human=lambda: output.say(f"{run_id} deleted"))
