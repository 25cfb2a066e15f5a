"""`agentflow run FILE`: one file to its end, here and now, without a server (SEMANTICS section 7)."""

from __future__ import annotations

import logging
import signal
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import context, output, run_output, sources
from agentflow.cli.files import uses_code
from agentflow.cli.output import JsonFlag
from agentflow.errors import ExecutorUnknown
from agentflow.states import RunState, TriggeredBy

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agentflow.bundles import Bundle
    from agentflow.cli.context import Session
    from agentflow.settings import Settings
    from agentflow.spec import WorkflowSpec

log = logging.getLogger(__name__)

INTERRUPTED = 130
GRACE = 3.0  #: Seconds for what is left when the run has ended.


def run(
    target: Annotated[
        str, typer.Argument(metavar="FILE[::NAME]", help="A workflow file; ::NAME picks one of several.")
    ],
    *,
    param: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A param; K=@FILE reads JSON. Repeatable.")
    ] = None,
    executor: Annotated[str | None, typer.Option(metavar="NAME", help="Executor of nodes that name none.")] = None,
    json: JsonFlag = False,
) -> None:
    """Run a workflow file to its end; exit 1 unless it succeeds. Ctrl-C cancels, twice kills."""
    from agentflow.spec import check_params, read_cli_params

    settings = context.settings()
    path, _ = sources.split(target)
    spec, others = sources.load_with_siblings(target, settings.dags_path)
    params = check_params(dict(spec.params), read_cli_params(dict(spec.params), param or []))
    overrides = {"executor": executor} if executor else {}
    for one in (spec, *others):
        _check_executors(one, settings.model_copy(update=overrides))
    source = _Source(spec, others, _bundle([spec, *others], path, settings.dags_path))
    context.note_local("run FILE")
    with context.session() as session:
        document, interrupted = _run(session, source, params, overrides)
    if interrupted:
        output.emit(document, as_json=json, human=lambda: run_output.print_failures(document))
        raise typer.Exit(INTERRUPTED)
    run_output.finish(document, as_json=json)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a file holds."""

    spec: WorkflowSpec
    others: list[WorkflowSpec]  #: Other workflows of the file, which it may run.
    bundle: Bundle | None


def _check_executors(spec: WorkflowSpec, settings: Settings) -> None:
    """Raise before anything is stored: a node of an executor that does not run here would wait for ever.

    Raises:
        ExecutorUnknown: The spec or the settings name an executor that is not installed, or not enabled.
    """
    from agentflow.spec import node_policy
    from executors import registry

    for name in settings.enabled_executors:
        registry.check_installed(name)
    for node in spec.nodes:
        asked = node_policy(spec, node).executor
        if asked is not None and asked not in settings.enabled_executors:
            raise ExecutorUnknown(
                f"nodes.{node}.executor: the executor `{asked}` is not enabled here",
                hint=f"AGENTFLOW_EXECUTORS={','.join([*settings.enabled_executors, asked])}",
            )


def _bundle(specs: list[WorkflowSpec], path: Path, dags: Path) -> Bundle | None:
    if not any(uses_code(spec) for spec in specs):
        return None
    from agentflow.bundles import build_bundle
    from agentflow.loader import bundle_root

    return build_bundle(bundle_root(path, dags))


def _run(
    session: Session, source: _Source, params: dict[str, Any], overrides: dict[str, str]
) -> tuple[output.Document, bool]:
    """The run's last document, and whether Ctrl-C ended it."""
    from agentflow.cli.local import LocalApi
    from agentflow.db.queries.schedulers import release_reservations
    from scheduler.daemon import Daemon

    settings = session.settings.model_copy(update=overrides)
    daemon = Daemon(settings, session.url, reserved_only=True)
    daemon.start()
    stopper = _Stopper(session, daemon.inbox.wake)
    owner, grace = daemon.identity.id, GRACE
    try:
        store_others = partial(_store_others, source=source, actor=session.actor, workspace=session.workspace)
        daemon.siblings.update(session.do(store_others))
        create = partial(_create, source=source, params=params, actor=session.actor, workspace=session.workspace)
        run_id = session.do(partial(create, owner=owner))
        stopper.watch(str(run_id))
        daemon.inbox.wake()
        daemon.gates.wake()
        document = run_output.follow(LocalApi(session), str(run_id))
    except KeyboardInterrupt:  # the second one: nobody waits for anything any more
        grace = 0.0
        raise
    finally:
        stopper.restore()
        daemon.stop(grace)
        _release(session, partial(release_reservations, owners=[owner]))
    return document, stopper.pressed and document["state"] != RunState.SUCCESS


def _release(session: Session, release: Callable[[Connection], object]) -> None:
    """Give reservations back. Without a database they go when others find this scheduler dead."""
    from sqlalchemy.exc import DBAPIError

    from agentflow.db.engine import is_disconnect

    try:
        session.do(release)
    except DBAPIError as error:
        if not is_disconnect(error):
            raise
        log.warning("release_failed", extra={"error": str(error).strip().splitlines()[0]})


def _store_others(connection: Connection, source: _Source, *, actor: str, workspace: str) -> dict[str, tuple[int, int]]:
    """Store the other workflows of the file too; ids of workflow and version by name."""
    from agentflow.catalog import store_adhoc

    return {
        spec.name: store_adhoc(
            connection, spec, bundle=source.bundle if uses_code(spec) else None, actor=actor, workspace=workspace
        )
        for spec in source.others
    }


def _create(
    connection: Connection, source: _Source, params: dict[str, Any], *, owner: uuid.UUID, actor: str, workspace: str
) -> uuid.UUID:
    """Store the file as an ad-hoc version, and start a run of it that is reserved for this process."""
    from agentflow.catalog import store_adhoc, workspace_id
    from agentflow.catalog.graph import reserve_groups
    from agentflow.db.queries.locks import database_now
    from agentflow.db.queries.starts import start_locked
    from agentflow.runs import insert_run

    bundle = source.bundle if uses_code(source.spec) else None
    workflow, version = store_adhoc(connection, source.spec, bundle=bundle, actor=actor, workspace=workspace)
    reserve_groups(connection, version, owner)
    run_id = insert_run(
        connection,
        workspace=workspace_id(connection, workspace),
        workflow=workflow,
        version=version,
        params=params,
        triggered_by=TriggeredBy.CLI,
        now=database_now(connection),
        actor=actor,
        reserved_for=owner,
    )
    start_locked(connection, [run_id])
    return run_id


class _Stopper:
    """Ctrl-C: the first one cancels the run and waits, the second leaves at once."""

    def __init__(self, session: Session, wake: Callable[[], None]) -> None:
        self._session = session
        self._wake = wake
        self._run_id = ""
        self._before: Any = None
        self.pressed = False

    def watch(self, run_id: str) -> None:
        """From now on Ctrl-C is about this run."""
        self._run_id = run_id
        self._before = signal.signal(signal.SIGINT, self._on_signal)

    def restore(self) -> None:
        """Give Ctrl-C back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        # Not here: a handler interrupts code that may hold the locks which the database needs.
        threading.Thread(target=self._cancel, name="cancel", daemon=True).start()

    def _cancel(self) -> None:
        output.note("cancelling; Ctrl-C again leaves at once")
        from agentflow import runs

        self._session.do(
            partial(runs.cancel_run, run_id=self._run_id, actor=self._session.actor, workspace=self._session.workspace)
        )
        self._wake()
