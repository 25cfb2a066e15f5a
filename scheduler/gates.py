"""Decides what the scheduler's own expressions decide: `when`, `for_each`, branches, sub-runs and their rounds.

Leases node runs, asks the evaluator, stores what follows. A thread of its own: an expression may take its second
without holding up others.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from agentflow.db.engine import transact
from agentflow.db.queries.books import Event
from agentflow.db.queries.due import continue_cascades
from agentflow.db.queries.edges import Choice, not_chosen
from agentflow.db.queries.gates import LEASE, DueGate, GateResult, lease_gates, store_gates, store_output
from agentflow.db.queries.locks import database_now, lock_runs
from agentflow.db.queries.mapped import expand
from agentflow.db.queries.settle import FinalNode, Settlement
from agentflow.db.queries.starts import start_locked
from agentflow.states import NODE_RUN_FINAL, NodeRunState
from agentflow.workload import ErrorInfo, Outcome
from scheduler.dues import Dues
from scheduler.evaluator import Evaluator, EvaluatorUnavailable
from scheduler.faults import is_for_all, is_own
from scheduler.identity import Identity
from scheduler.inputs import InputFiles
from scheduler.judging import Judge, failed_with
from scheduler.outputs import Puts
from scheduler.round_outputs import RoundOutputs
from scheduler.rounds import EndedRound, Rounds, finish_round
from scheduler.service import WorkerThread, first_line
from scheduler.subruns import begin_attempt, start_child
from scheduler.waits import WaitResult, begin, decide_waits, store_waits

log = logging.getLogger(__name__)

T = TypeVar("T", GateResult, EndedRound, WaitResult)

POLL = 5.0  # seconds
#: Wall seconds of all expressions of a round, which must be stored well within LEASE; one may take its seconds besides.
BUDGET = 10.0


class Gates(WorkerThread):
    """Decides nodes with a `when` or a `for_each`, branches and `workflow` nodes."""

    name = "gates"

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        on_decided: Callable[[], None],
        siblings: Mapping[str, tuple[int, int]] | None = None,
        *,
        files: InputFiles,
        store: Puts | None = None,
        output_max: int = 16 * 2**20,
    ) -> None:
        """`siblings`: workflows that sub-runs find before published ones, as (workflow id, version id) by name."""
        super().__init__()
        self._engine = engine
        self._identity = identity
        self._on_decided = on_decided
        self._evaluator = Evaluator()
        self._judge = Judge(engine, self._evaluator, {} if siblings is None else siblings, files, self._on_loaded)
        self.outputs = RoundOutputs(store, self._on_loaded)
        self._rounds = Rounds(self._judge, self.outputs, output_max)
        self.budget = BUDGET
        # Leased, and not decided for want of their inputs or of time; with time.monotonic() until which the lease holds.
        self._left: list[tuple[DueGate, float]] = []
        self._loaded = threading.Event()
        self._dues = Dues()  # of our waits and sub-runs

    def stop(self) -> None:
        """Stop the thread and the evaluator."""
        super().stop()
        self.outputs.stop()
        self._evaluator.stop()

    def work(self) -> float:
        """Decide what is due."""
        while not self.stopping:
            left = self._take_left()
            fresh = transact(
                self._engine,
                lambda connection: lease_gates(
                    connection,
                    me=self._identity.id,
                    reserved_only=self._identity.reserved_only,
                ),
            )
            now = time.monotonic()
            if fresh:
                self._dues.found(fresh[0].leased_until - LEASE, now)
            until = now + LEASE.total_seconds() / 2
            leases = [*((gate, until) for gate in fresh), *left]
            if not leases:
                break
            try:
                done = self._decide([gate for gate, _ in leases])
            except Exception:
                self._keep_left(leases, [])  # what was stored already is not stored twice
                self._loaded.set()
                raise
            self._keep_left(leases, done)
            self._on_decided()
        return self._dues.pause(time.monotonic(), POLL)

    def _decide(self, gates: Sequence[DueGate]) -> list[GateResult | EndedRound | WaitResult]:
        """Decide what can be decided now; it is stored, too."""
        self._judge.begin_round(self.budget)
        waits = decide_waits(self._engine, [gate for gate in gates if gate.waiting is not None])
        try:
            decided = self._judge.decide([gate for gate in gates if gate.sub_run is None and gate.waiting is None])
            ended = self._rounds.decide([gate for gate in gates if gate.sub_run is not None])
        except EvaluatorUnavailable:
            self._carry_out([], [], waits)  # these need none
            raise
        self._carry_out(decided, ended, waits)
        return [*decided, *ended, *waits]

    def _carry_out(
        self, results: Sequence[GateResult], ended: Sequence[EndedRound], waits: Sequence[WaitResult]
    ) -> None:
        for stored in self._store(results, ended, waits):
            self._dues.note(stored.dues, stored.settlement.now, time.monotonic())
            for child in stored.children:  # one at a time: each may be large
                transact(self._engine, partial(start_locked, ids=[child]))
            settlement: Settlement | None = stored.settlement
            while settlement is not None and settlement.unfinished:
                settlement = transact(self._engine, _carry_on)

    def _store(
        self, results: Sequence[GateResult], ended: Sequence[EndedRound], waits: Sequence[WaitResult]
    ) -> list[Stored]:
        """All in one transaction; if that is refused each in its own, so that only what is wrong fails."""
        try:
            return [transact(self._engine, partial(store, results=results, ended=ended, waits=waits))]
        except Exception as error:
            if is_for_all(error):
                raise
            log.exception("decisions_not_stored", extra={"count": len(results) + len(ended) + len(waits)})
        found = [
            *(self._store_one(one, _refused_result, lambda each: {"results": [each]}) for one in results),
            *(self._store_one(one, _refused_round, lambda each: {"ended": [each]}) for one in ended),
            *(self._store_one(one, _refused_wait, lambda each: {"waits": [each]}) for one in waits),
        ]
        return [stored for stored in found if stored is not None]

    def _store_one(
        self, one: T, refused: Callable[[T, ErrorInfo], T], kind: Callable[[T], dict[str, list[T]]]
    ) -> Stored | None:
        """One by itself, or that it failed; None if not even that can be stored: it comes up again."""
        nothing: dict[str, Any] = {"results": [], "ended": [], "waits": []}
        attempt, error = one, None
        for _ in range(2):
            try:
                return transact(self._engine, partial(store, **nothing | kind(attempt)))
            except Exception as wrong:
                if is_for_all(wrong):
                    raise
                error = wrong
                if not is_own(wrong):
                    break
            info = ErrorInfo(
                type="ResultRejected", message=f"what was decided could not be stored: {first_line(error)}"
            )
            attempt = refused(one, info)
        log.error("decision_dropped", extra={"run": str(one.gate.run_id)}, exc_info=error)
        return None

    def _on_loaded(self) -> None:
        self._loaded.set()
        self.wake()

    def _take_left(self) -> list[tuple[DueGate, float]]:
        """Gates whose inputs may be here now, or whose turn has come; those whose lease is over come up by themselves."""
        if not self._loaded.is_set():
            return []
        self._loaded.clear()
        left, self._left = self._left, []
        now = time.monotonic()
        return [(gate, until) for gate, until in left if now < until]

    def _keep_left(
        self, leases: Sequence[tuple[DueGate, float]], done: Sequence[GateResult | EndedRound | WaitResult]
    ) -> None:
        decided, now = {id(one.gate) for one in done}, time.monotonic()
        left = [(gate, until) for gate, until in leases if id(gate) not in decided]
        self._left = [(gate, until) for gate, until in [*self._left, *left] if now < until]


@dataclass(slots=True)
class Stored:
    """What one transaction did."""

    settlement: Settlement
    children: list[uuid.UUID] = field(default_factory=list)  #: Sub-runs to be started.
    finals: list[FinalNode] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    waits: list[GateResult] = field(default_factory=list)  #: To begin.
    dues: list[datetime] = field(default_factory=list)  #: When what waits comes up again.


def store(
    connection: Connection,
    results: Sequence[GateResult],
    ended: Sequence[EndedRound],
    waits: Sequence[WaitResult],
) -> Stored:
    """Store decisions, unless a node was cancelled, cleared or leased again meanwhile, and what follows from them."""
    gates = [*(one.gate for one in results), *(one.gate for one in ended), *(one.gate for one in waits)]
    ids = {gate.run_id for gate in gates}
    runs = lock_runs(connection, ids)
    stored = Stored(Settlement(connection, runs, database_now(connection)))
    by_key = {(r.gate.run_id, r.gate.node_no, r.gate.map_index): r for r in results}
    for row in store_gates(connection, results, stored.settlement.now) if results else ():
        _follow(connection, stored, row, by_key[row.run_id, row.node_no, row.map_index])
    for one in ended:
        final, child = finish_round(connection, stored.settlement, one)
        stored.finals += [final] if final is not None else []
        stored.children += [child] if child is not None else []
        stored.dues += [one.until] if one.until is not None else []
    stored.dues += begin(connection, stored.settlement, stored.waits)
    finals, following = store_waits(connection, stored.settlement, waits)
    stored.finals += finals
    stored.dues += following
    stored.settlement.settle(stored.finals, not_chosen(connection, stored.choices))
    stored.settlement.write(wake=stored.settlement.made_ready > 0)
    return stored


def _follow(connection: Connection, stored: Stored, row: Any, result: GateResult) -> None:
    """What a node that moved brings with it."""
    gate, settlement = result.gate, stored.settlement
    if result.state is NodeRunState.READY:
        settlement.made_ready += 1
    elif result.items is not None:
        expand(connection, gate.run_id, gate.node_no, result.items, result.count, settlement.now)
        settlement.runs[gate.run_id].open_nodes += result.count
        detail = {"items": result.count}
        settlement.record(Event(gate.run_id, "node", gate.node_no, gate.map_index, None, result.state, detail))
        settlement.made_ready += result.count
    elif result.child is not None:
        begin_attempt(connection, gate, settlement.now)
        child = start_child(connection, gate, result.child, settlement)
        stored.children += [child] if child is not None else []
        if result.child.timeout is not None:
            stored.dues.append(settlement.now + timedelta(seconds=result.child.timeout))
    elif result.wait is not None:
        stored.waits.append(result)
    elif result.output is not None:
        store_output(connection, gate.run_id, gate.node_no, gate.map_index, result.output)
        stored.choices.append(Choice(gate.run_id, gate.version_id, gate.node_no, json.loads(result.output)))
    if result.state in NODE_RUN_FINAL:
        final = FinalNode(
            gate.run_id,
            gate.version_id,
            gate.node_no,
            result.state,
            row.is_leaf,
            gate.map_index,
        )
        stored.finals.append(final)


def _refused_result(one: GateResult, error: ErrorInfo) -> GateResult:
    return failed_with(one.gate, error)


def _refused_round(one: EndedRound, error: ErrorInfo) -> EndedRound:
    return EndedRound(one.gate, error=error, final=True)


def _refused_wait(one: WaitResult, error: ErrorInfo) -> WaitResult:
    return WaitResult(one.gate, Outcome.FAILED, error=error)


def _carry_on(connection: Connection) -> Settlement | None:
    return continue_cascades(connection, database_now(connection), uuid.UUID(int=0))
