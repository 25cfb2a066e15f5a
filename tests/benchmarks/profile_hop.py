"""Where the time of a hop goes: each statement, the commit, Python between them, and the way to the runner and back.

The scheduler runs inside this process, so that its calls can be timed; a hop takes a little longer than in `chain.py`.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import pkgutil
import pstats
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import _workflows
from _hops import COMMIT, PYTHON, Call, Hop, Piece, split, summarise
from _report import FILE_WIDTH, percentile
from _system import System, running_system, seconds
from latencies import commit_milliseconds, round_trip_milliseconds
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, TextClause, event

from agentflow.db import queries
from agentflow.db.queries.attempts import parse_attempt_id
from agentflow.db.statement import Statement
from agentflow.settings import load_settings
from agentflow.workload import ExecutorEvent, Finished, Workload
from scheduler.daemon import Daemon

_NAME_WIDTH = 60  # characters of a statement that has no name


class Recorder:
    """Notes when the loop called the database, got a result and handed over a node."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.reported: dict[int, float] = {}  #: Node number -> when its result came.
        self.submitted: dict[int, float] = {}  #: Node number -> when it was handed over.
        self._names = _statement_names()

    def clear(self) -> None:
        """Forget the last run."""
        self.calls.clear()
        self.reported.clear()
        self.submitted.clear()

    @contextmanager
    def attached(self, daemon: Daemon) -> Iterator[None]:
        """Start the daemon, listen to it, stop it."""
        engine = daemon.loop._engine
        dialect = engine.dialect
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(daemon, "_emit", partial(self._emit, daemon._emit)))
            commit = partial(self._timed, COMMIT, dialect.do_commit)
            stack.enter_context(mock.patch.object(dialect, "do_commit", commit))
            stack.enter_context(mock.patch.object(Statement, "run", self._statement_run(Statement.run)))
            self._listen(engine)
            daemon.start()
            stack.callback(daemon.stop)
            for executor in daemon._executors.values():
                submit = partial(self._submit, executor.submit)
                stack.enter_context(mock.patch.object(executor, "submit", submit))
            yield

    def _emit(self, emit: Callable[[ExecutorEvent], None], event: ExecutorEvent) -> None:
        if isinstance(event, Finished):
            self.reported[parse_attempt_id(event.attempt_id)[1]] = time.time()
        emit(event)

    def _submit(self, submit: Callable[[Sequence[Workload]], None], workloads: Sequence[Workload]) -> None:
        now = time.time()
        for workload in workloads:
            self.submitted[parse_attempt_id(workload.attempt_id)[1]] = now
        submit(workloads)

    def _statement_run(self, run: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def timed(statement: Statement, *arguments: object) -> list[Any]:
            start = time.time()
            rows = run(statement, *arguments)
            self._add(self._names.get(id(statement), "another statement"), start)
            return rows

        return timed

    def _timed(self, name: str, action: Callable[..., None], *arguments: object) -> None:
        start = time.time()
        action(*arguments)
        self._add(name, start)

    def _add(self, name: str, start: float) -> None:
        if threading.current_thread().name == "loop":
            self.calls.append(Call(name, start, time.time() - start))

    def _listen(self, engine: Engine) -> None:
        @event.listens_for(engine, "before_cursor_execute")
        def before(connection: Any, *_: object) -> None:
            connection.info["began"] = time.time()

        @event.listens_for(engine, "after_cursor_execute")
        def after(
            connection: Any, _cursor: object, statement: str, _parameters: object, context: Any, _many: bool
        ) -> None:
            name = self._names.get(id(context.invoked_statement), " ".join(statement.split())[:_NAME_WIDTH])
            self._add(name, connection.info["began"])


def _statement_names() -> dict[int, str]:
    """The identity of each statement of the engine's queries, and what the code calls it."""
    names = {}
    for info in pkgutil.iter_modules(queries.__path__):
        for name, value in vars(importlib.import_module(f"{queries.__name__}.{info.name}")).items():
            if isinstance(value, Statement | TextClause):
                names[id(value)] = f"{info.name}.{name.strip('_').lower()}"
    return names


def hops(run: dict[str, Any], recorder: Recorder) -> list[list[tuple[str, float]]]:
    """The pieces of each hop of a chain's run."""
    nodes = run["nodes"]
    return [
        split(
            Hop(
                seconds(nodes[number]["finished_at"]),
                recorder.reported[number],
                recorder.submitted[number + 1],
                seconds(nodes[number + 1]["started_at"]),
            ),
            recorder.calls,
        )
        for number in range(len(nodes) - 1)
    ]


def profile(
    system: System, *, length: int = 40, rounds: int = 5, functions: cProfile.Profile | None = None
) -> list[list[tuple[str, float]]]:
    """Run a chain some times on a scheduler in this process; the pieces of all hops.

    Args:
        system: Without a scheduler of its own.
        length: Nodes of the chain.
        rounds: Runs that count, after one for the warm-up.
        functions: Also notes which Python functions the loop spends its time in, which makes it slower.
    """
    recorder, found = Recorder(), []
    daemon = Daemon(load_settings(home=system.home, dags_folder=system.dags, database_url=""), system.url)
    with ExitStack() as stack:
        if functions is not None:
            loop = partial(functions.runcall, daemon.loop._run)
            stack.enter_context(mock.patch.object(daemon.loop, "_run", loop))
        stack.enter_context(recorder.attached(daemon))
        name = system.apply(_workflows.chain("profile-chain", length, _workflows.fibo(10)))
        system.run(name)
        for _ in range(rounds):
            recorder.clear()
            found += hops(system.run(name), recorder)
    return found


def print_profile(system: System, found: list[list[tuple[str, float]]]) -> None:
    """The table, and what its parts cost at best."""
    pieces = summarise(found)
    whole = [sum(milliseconds for _, milliseconds in hop) for hop in found]
    table = Table(title=f"Where a hop goes: {len(found)} hops of a chain", title_justify="left")
    table.add_column("piece of a hop", no_wrap=True)
    for heading in ("calls", "ms, mean", "share"):
        table.add_column(heading, justify="right")
    for piece in pieces:
        table.add_row(piece.name, f"{piece.calls:.2f}", f"{piece.milliseconds:.3f}", f"{piece.share:.0%}")
    table.add_section()
    table.add_row("the whole gap", "", f"{sum(whole) / len(whole):.3f}", "100%")
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(table)
    console.print(f"gap: median {percentile(whole, 0.5):.2f} ms, p95 {percentile(whole, 0.95):.2f} ms")
    console.print(_best(system, pieces))


def _best(system: System, pieces: list[Piece]) -> str:
    """What the database's part costs at least with so many statements."""
    statements = sum(piece.calls for piece in pieces if _is_statement(piece.name))
    trip, commit = round_trip_milliseconds(system.url), commit_milliseconds(system.url)
    return (
        f"at best here: {statements:.1f} statements x {trip:.3f} ms for a bare round trip "
        f"= {statements * trip:.2f} ms, and {commit:.2f} ms for a commit"
    )


def _is_statement(name: str) -> bool:
    return name not in {COMMIT, PYTHON} and ":" not in name and not name.startswith("wake-up")


def main() -> None:
    """Profile on a fresh database and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", action="store_true", help="also the Python functions of the loop, dearest first")
    parser.add_argument("--folder", type=Path, help="where the database is made; default: the temporary folder")
    options = parser.parse_args()
    functions = cProfile.Profile() if options.functions else None
    with running_system(options.folder, scheduler=False) as system:
        print_profile(system, profile(system, functions=functions))
    if functions is not None:
        pstats.Stats(functions).strip_dirs().sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
