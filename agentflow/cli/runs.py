"""`agentflow runs`: list, show, cancel, clear, wait, mark, rerun, note."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentflow.cli import context, output, run_output
from agentflow.cli.output import JsonFlag
from agentflow.states import RunState

app = typer.Typer(name="runs", help="Runs: list, show, cancel, clear, wait and more.")
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of the run.")]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command("list")
def list_all(
    *,
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    state: Annotated[RunState | None, typer.Option(help="Only runs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 25,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    hidden: Annotated[bool, typer.Option("--all", help="Runs of `agentflow run FILE` too.")] = False,
    json: JsonFlag = False,
) -> None:
    """List runs, the newest first."""
    with context.session() as session:
        from agentflow import runs

        items, next_cursor = session.do(
            lambda connection: runs.list_runs(
                connection,
                workflow=workflow,
                state=state,
                limit=limit,
                cursor=cursor,
                hidden=hidden,
                workspace=session.workspace,
            )
        )

    def human() -> None:
        output.print_table(run_output.RUN_COLUMNS, items, empty="no runs yet: `agentflow trigger NAME`")
        if next_cursor:
            output.note(f"more: --cursor {next_cursor}")

    output.emit({"items": items, "next_cursor": next_cursor}, as_json=json, human=human)


@app.command()
def show(run_id: RunId, *, json: JsonFlag = False) -> None:
    """Show a run with its nodes."""
    with context.session() as session:
        from agentflow import runs

        document = session.do(lambda connection: runs.show_run(connection, run_id))
    output.emit(document, as_json=json, human=lambda: run_output.print_run(document))


@app.command()
def wait(run_id: RunId, *, json: JsonFlag = False) -> None:
    """Show progress until the run ends; exit 1 for anything but success."""
    with context.session() as session:
        run_output.finish(run_output.follow(session, run_id, goes_on=True), as_json=json)


@app.command()
def cancel(run_id: RunId, *, json: JsonFlag = False) -> None:
    """Cancel a run: what waits is dropped, what runs is stopped."""
    with context.session() as session:
        from agentflow import runs

        result = session.do(lambda connection: runs.cancel_run(connection, run_id, actor=session.actor))
    document = output.action("id", run_id, result)
    output.emit(
        document,
        as_json=json,
        human=lambda: output.say(f"{run_id} {'is being cancelled' if document['changed'] else 'has ended already'}"),
    )


@app.command()
def clear(
    run_id: RunId,
    *,
    node: Annotated[list[str] | None, typer.Option(metavar="ID", help="This node; repeatable. Default: all.")] = None,
    downstream: Annotated[bool, typer.Option("--downstream", help="And everything after these nodes.")] = False,
    only_failed: Annotated[bool, typer.Option("--only-failed", help="Only those that did not succeed.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run nodes of an ended run again."""
    with context.session() as session:
        from agentflow import runs

        result = session.do(
            lambda connection: runs.clear_run(
                connection, run_id, nodes=node, downstream=downstream, only_failed=only_failed, actor=session.actor
            )
        )
    document = output.action("id", run_id, result)
    output.emit(document, as_json=json, human=lambda: output.say(_cleared(run_id, document)))


def _cleared(run_id: str, document: dict[str, Any]) -> str:
    if not document["changed"]:
        return f"{run_id}: nothing to clear"
    count = len(document["cleared"])
    return f"{run_id} runs {count} {'node' if count == 1 else 'nodes'} again"


@app.command()
def mark(
    run_id: RunId,
    node: Annotated[str, typer.Argument(help="Id of the node.")],
    state: Annotated[str, typer.Argument(help="success, failed or skipped.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Set the state of a node by hand; its downstreams go on accordingly."""
    with context.session() as session:
        from agentflow import runs

        result = session.do(lambda connection: runs.mark_node(connection, run_id, node, state, actor=session.actor))
    output.emit(
        output.action("id", run_id, result),
        as_json=json,
        human=lambda: output.say(f"{run_id}: {node} {'is marked' if result['changed'] else 'was already'} {state}"),
    )


@app.command()
def rerun(run_id: RunId, *, json: JsonFlag = False) -> None:
    """Start a new run with the params of this one, and print its id."""
    with context.session() as session:
        from agentflow import runs

        document = session.do(lambda connection: runs.rerun(connection, run_id, actor=session.actor))
    output.emit(document, as_json=json, human=lambda: output.say(document["id"]))


@app.command()
def note(
    run_id: RunId, text: Annotated[str, typer.Argument(help="The remark; empty removes it.")], *, json: JsonFlag = False
) -> None:
    """Keep a remark with a run."""
    with context.session() as session:
        from agentflow import runs

        result = session.do(lambda connection: runs.set_note(connection, run_id, text, actor=session.actor))
    output.emit(output.action("id", run_id, result), as_json=json, human=lambda: output.say(f"{run_id} noted"))
