"""Drives the engine in the test's own thread: no threads, no sleeps, every step when the test says so.

kit.apply({"a": {}, "b": {"needs": ["a"]}})
kit.stub.script("a", fail(), succeed(1))
run = kit.run()                       # until nothing more can happen now
assert kit.states(run) == {"a": "retrying", "b": "pending"}
kit.let_time_pass()                   # everything that waits for a time is due now
assert kit.finish(run) == "success"
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from agentflow import runs
from agentflow.catalog import apply_spec
from agentflow.db.engine import make_engine, transact
from agentflow.db.models.history import PARTITIONED
from agentflow.db.tenancy import SCHEDULER
from agentflow.objects.store import ObjectStore
from agentflow.settings import Settings
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy
from agentflow.workload import ExecutorEvent, Finished
from executors.base import ExecutorContext
from executors.stub import StubExecutor
from scheduler.consistency import Consistency
from scheduler.daemon import end_handlers
from scheduler.ends import RunEnds
from scheduler.gates import Gates
from scheduler.identity import Identity, register
from scheduler.inbox import Inbox
from scheduler.inputs import InputFiles
from scheduler.loop import Loop
from scheduler.starter import Starter

ACTOR = "test"
MAX_ROUNDS = 400  #: A run that has not come to rest by then never will.

#: Moves whenever the engine changed something: history, claims and evaluations.
_PROGRESS = text("""
SELECT (SELECT coalesce(sum(event_seq), 0) FROM run WHERE id >= :since),
  (SELECT count(*) FROM attempt WHERE run_id >= :since),
  (SELECT count(*) FROM node_run WHERE state = 'ready'),
  (SELECT count(*) FROM node_run WHERE state = 'retrying' AND run_id >= :since),
  (SELECT count(*) FROM node_run WHERE resume_at <= clock_timestamp()), (SELECT count(*) FROM run_end)
""")

#: Counters as they are stored beside the same counted from the states of the node runs.
_WRONG_RUNS = text("""
SELECT r.id, r.open_nodes, r.failed_leaves, c.open, c.leaves FROM run r JOIN (
  SELECT nr.run_id, count(*) FILTER (WHERE nr.state IN ('pending', 'ready', 'queued', 'running', 'deferred', 'retrying'))
      AS open,
    count(*) FILTER (WHERE vn.is_leaf AND nr.map_index = -1 AND nr.state IN ('failed', 'upstream_failed')) AS leaves
  FROM node_run nr JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
  GROUP BY nr.run_id) AS c ON c.run_id = r.id
WHERE (r.open_nodes, r.failed_leaves) <> (c.open, c.leaves)
""")
_WRONG_NODES = text("""
SELECT nr.run_id, vn.node_id, nr.state, nr.n_up,
  nr.up_success, nr.up_failed, nr.up_upstream_failed, nr.up_skipped, c.s, c.f, c.u, c.k
FROM node_run nr JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
JOIN LATERAL (
  SELECT count(*) FILTER (WHERE up.state = 'success') AS s,
    count(*) FILTER (WHERE up.state IN ('failed', 'cancelled')) AS f,
    count(*) FILTER (WHERE up.state = 'upstream_failed') AS u,
    count(*) FILTER (WHERE up.state = 'skipped') AS k
  FROM version_edge e JOIN node_run up ON up.run_id = nr.run_id AND up.node_no = e.up_no AND up.map_index = -1
  WHERE e.version_id = nr.version_id AND e.down_no = nr.node_no) AS c ON true
WHERE nr.map_index = -1 AND (nr.up_success, nr.up_failed, nr.up_upstream_failed, nr.up_skipped) <> (c.s, c.f, c.u, c.k)
""")
_WRONG_MAPS = text("""
SELECT s.run_id, s.node_no, s.map_open, s.map_success, s.map_failed, c.* FROM node_run s JOIN LATERAL (
  SELECT count(*) FILTER (WHERE i.finished_at IS NULL) AS open, count(*) FILTER (WHERE i.state = 'success') AS success,
    count(*) FILTER (WHERE i.state IN ('failed', 'upstream_failed', 'cancelled')) AS failed
  FROM node_run i WHERE i.run_id = s.run_id AND i.node_no = s.node_no AND i.map_index >= 0) AS c ON true
WHERE s.map_index = -1 AND s.state = 'deferred' AND s.resume_key = 'map'
  AND ((s.map_open, s.map_success, s.map_failed) <> (c.open, c.success, c.failed) OR c.open = 0)
""")
_BROKEN_HISTORIES = text("""
SELECT r.id, r.event_seq, count(e.seq), max(e.seq) FROM run r LEFT JOIN run_event e ON e.run_id = r.id
GROUP BY r.id, r.event_seq HAVING count(e.seq) <> r.event_seq OR coalesce(max(e.seq), 0) <> r.event_seq
""")
_REPAIRS = text("SELECT run_id, detail FROM run_event WHERE kind = 'repaired'")


def document(nodes: dict[str, Any], name: str = "flow", **keys: Any) -> dict[str, Any]:
    """A workflow document; nodes are `noop` unless they say otherwise."""
    return {"name": name, **keys, "nodes": {node: {"type": "noop"} | spec for node, spec in nodes.items()}}


def branch(*targets: str, needs: Sequence[str] = ()) -> dict[str, Any]:
    """A branch node that chooses these."""
    return {"type": "branch", "needs": list(needs), "config": {"cases": [{"when": True, "to": list(targets)}]}}


class Kit:
    """One scheduler's loop, starter, gates and ends over the stub executor, run by hand. Several may share a database."""

    def __init__(
        self, engine: Engine, folder: Path, *, parallelism: int = 1000, queues: str = "default", reserved: bool = False
    ) -> None:
        """`reserved`: it runs only what is reserved for it, as in `run FILE`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.engine = engine
        self.settings = Settings(
            executor="stub", executors="stub", parallelism=min(parallelism, 1024), home=folder, queues=queues
        )
        context = ExecutorContext(parallelism=parallelism, bundles_dir=folder / "bundles", work_dir=folder / "work")
        self.stub = StubExecutor(context)
        self.identity = Identity(reserved_only=reserved)
        self.inbox = Inbox(lambda chunk: None)
        self.since = uuid.UUID(int=0)  # older runs do not move: tests with much history need not look at it again
        self.sent: list[Finished] = []  #: Every end that reached the loop, for tests that send it again.
        self.stub.start(self._emit)
        # As in the daemon: plans for keys, the scheduler's role, and connections of its own.
        self.own = make_engine(engine.url.render_as_string(hide_password=False), keyed=True, role=SCHEDULER)
        self.starter = Starter(self.own, lambda: None)
        self.files = InputFiles(self.own, ObjectStore((folder / "objects").as_uri()), threads=0)
        self.files.start(folder / "inputs")
        self.gates = Gates(self.own, self.identity, lambda: None, files=self.files)
        self.ends = RunEnds(self.own, self.identity, end_handlers(), lambda: None)
        self.loop = Loop(self.own, self.settings, self.identity, {"stub": self.stub}, self.inbox, self.files)
        transact(engine, partial(register, identity=self.identity, settings=self.settings))

    def _emit(self, event: ExecutorEvent) -> None:
        if isinstance(event, Finished):
            self.sent.append(event)
        self.inbox.emit(event)

    def close(self) -> None:
        """Give the evaluator's process and the loop's connection back."""
        self.gates.stop()
        self.loop.stop()
        self.own.dispose()

    def forget(self) -> None:
        """Leave the database to the next test of the module: no history, no workflow of these names."""
        with self.engine.begin() as connection:
            for table in PARTITIONED:
                connection.execute(text(f"DELETE FROM {table}"))
            connection.execute(text("UPDATE workflow SET name = name || '-' || id"))
            connection.execute(text("DELETE FROM manual_date"))
            connection.execute(text("DELETE FROM run_end"))
            connection.execute(text("DELETE FROM backfill"))
            connection.execute(text("DELETE FROM run_waiter"))
            connection.execute(text("DELETE FROM trigger"))
            connection.execute(text("DELETE FROM audit_event"))
            connection.execute(text("DELETE FROM scheduler WHERE id <> :me"), {"me": self.identity.id})

    # -- definitions and runs ----------------------------------------------------------------------------------------
    def apply(self, nodes: dict[str, Any], name: str = "flow", **keys: Any) -> None:
        """Create or update a workflow."""
        spec = parse_document(document(nodes, name, **keys))
        self.call(apply_spec, spec, source="api", actor=ACTOR)

    def create(self, name: str = "flow", params: dict[str, Any] | None = None, **keys: Any) -> str:
        """Queue a run; its id."""
        return self.call(runs.create_run, name, params or {}, triggered_by=TriggeredBy.MANUAL, actor=ACTOR, **keys)[
            "id"
        ]

    def run(self, name: str = "flow", params: dict[str, Any] | None = None, **keys: Any) -> str:
        """Queue a run and let the engine come to rest; its id."""
        run_id = self.create(name, params, **keys)
        self.settle()
        return run_id

    def call(self, function: Any, *arguments: Any, **keywords: Any) -> Any:
        """Call a function that takes a connection first, in a transaction of its own."""
        return transact(self.engine, lambda connection: function(connection, *arguments, **keywords))

    def cancel(self, run_id: str) -> dict[str, Any]:
        return self.call(runs.cancel_run, run_id, actor=ACTOR)

    def clear(self, run_id: str, *nodes: str, **keys: Any) -> dict[str, Any]:
        return self.call(runs.clear_run, run_id, nodes=list(nodes) or None, actor=ACTOR, **keys)

    def mark(self, run_id: str, node: str, state: str) -> dict[str, Any]:
        return self.call(runs.mark_node, run_id, node, state, actor=ACTOR)

    # -- making it move ----------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """One tick of the loop that looks at the database too."""
        self.identity.beaten(self.identity.id, time.monotonic())
        self.loop._look = True
        self.loop._next_due = 0.0
        # Starts are written at once: in a test nothing ends "a moment later" by itself.
        self.loop._starts = {key: (0.0, start) for key, (_, start) in self.loop._starts.items()}
        self.loop.tick()

    def tick_events_only(self, *, claim: bool = True) -> None:
        """One tick that applies what the executor reported, and does not look for what is due."""
        self.identity.beaten(self.identity.id, time.monotonic())
        self.loop._look, self.loop._next_due = False, time.monotonic() + 3600.0
        self.loop._draining = not claim
        self.loop.tick()
        self.loop._draining = False

    def settle(self) -> None:
        """Start, evaluate and tick until nothing changes any more at this moment."""
        before = None
        for _ in range(MAX_ROUNDS):
            self.starter.work()
            self.gates.work()
            self.ends.work()
            self.tick()
            while self.loop._claimer._tour.due_in(time.monotonic()) is not None:  # it rests, but nothing has changed
                self.loop.tick()
            now = tuple(self.row(_PROGRESS, since=self.since))
            if now == before and not self.inbox._events and not self.loop._starts and not self.loop._pending:
                return
            before = now
        raise AssertionError(f"the engine did not come to rest in {MAX_ROUNDS} rounds: {before}")

    def let_time_pass(self) -> None:
        """Whatever waits for a time (retries, leases, run timeouts) is due now; then come to rest again."""
        self.sql("UPDATE node_run SET resume_at = clock_timestamp() - interval '1 s' WHERE resume_at IS NOT NULL")
        self.sql("UPDATE run SET timeout_at = clock_timestamp() - interval '1 s' WHERE timeout_at IS NOT NULL")
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Move everything that the engine has written down this far into the past; then come to rest again."""
        self.sql(
            """UPDATE node_run SET resume_at = resume_at - make_interval(secs => :s),
              started_at = started_at - make_interval(secs => :s), resume_state = CASE
                WHEN resume_state ->> 'began' IS NULL THEN resume_state
                ELSE CAST(CAST(resume_state AS jsonb)
                  || jsonb_build_object('began', CAST(resume_state ->> 'began' AS float8) - :s)
                  || jsonb_build_object('due', CAST(resume_state ->> 'due' AS float8) - :s) AS json) END
            WHERE finished_at IS NULL""",
            s=seconds,
        )
        self.sql(
            "UPDATE attempt SET started_at = started_at - make_interval(secs => :s) WHERE finished_at IS NULL",
            s=seconds,
        )
        self.settle()

    def retry_now(self) -> None:
        """Retries are due now, nothing else is; then come to rest again."""
        self.sql(
            "UPDATE node_run SET resume_at = clock_timestamp() - interval '1 s' WHERE state = 'retrying' AND run_id >= :since",
            since=self.since,
        )
        self.settle()

    def finish(self, run_id: str) -> str:
        """Let retries come due until the run has ended; its state."""
        for _ in itertools.repeat(None, MAX_ROUNDS):
            if (state := self.state(run_id)) in {"success", "failed", "cancelled"}:
                return state
            self.retry_now()
        raise AssertionError(f"the run did not end: {self.states(run_id)}")

    # -- looking -----------------------------------------------------------------------------------------------------
    def sql(self, statement: str, **parameters: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    def rows(self, statement: Any, **parameters: Any) -> list[Any]:
        with self.engine.begin() as connection:
            found = text(statement) if isinstance(statement, str) else statement
            return list(connection.execute(found, parameters))

    def row(self, statement: Any, **parameters: Any) -> Any:
        (found,) = self.rows(statement, **parameters)
        return found

    def show(self, run_id: str) -> dict[str, Any]:
        """The run as people see it."""
        return self.call(runs.show_run, run_id)

    def state(self, run_id: str) -> str:
        return self.row("SELECT state FROM run WHERE id = :id", id=uuid.UUID(run_id)).state

    def nodes(self, run_id: str) -> dict[str, dict[str, Any]]:
        """By id; an index of a mapped node by its address."""
        return {
            node["node"] if node["map_index"] is None else f"{node['node']}[{node['map_index']}]": node
            for node in self.show(run_id)["nodes"]
        }

    def states(self, run_id: str) -> dict[str, str]:
        return {name: node["state"] for name, node in self.nodes(run_id).items()}

    def attempts(self, run_id: str, node: str) -> list[tuple[int, str]]:
        """Numbers and states of a node's attempts."""
        return [
            tuple(row)
            for row in self.rows(
                """SELECT a.attempt, a.state FROM attempt a
                JOIN node_run nr ON nr.run_id = a.run_id AND nr.node_no = a.node_no AND nr.map_index = a.map_index
                JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
                WHERE a.run_id = :run AND vn.node_id = :node ORDER BY a.attempt""",
                run=uuid.UUID(run_id),
                node=node,
            )
        ]

    def events(self, run_id: str, kind: str) -> list[Any]:
        """Lines of a kind in a run's history, in order."""
        return self.rows(
            "SELECT * FROM run_event WHERE run_id = :run AND kind = :kind ORDER BY seq",
            run=uuid.UUID(run_id),
            kind=kind,
        )

    def started(self, node: str | None = None) -> list[str]:
        """Nodes in the order in which they were handed to the executor."""
        return [w.node for w in self.stub.submitted if node is None or w.node == node]

    def check_books(self) -> None:
        """All counters equal a recount, histories have no gap, and the consistency check has nothing to repair."""
        assert self.rows(_WRONG_RUNS) == []
        assert self.rows(_WRONG_NODES) == []
        assert self.rows(_WRONG_MAPS) == []
        assert self.rows(_BROKEN_HISTORIES) == []
        assert Consistency(self.engine, quiet=-1.0).check() == 0
        assert self.rows(_REPAIRS) == []
