"""What follows when node runs become final: their downstreams, the run's counters, its end, its history.

One helper for all who finish node runs (executor results, evaluator, cancel, clear, mark). The caller holds the runs'
locks. `settle` carries outcomes to the downstreams, level by level: rows are locked and read, the rules decide in
Python, and everything that changed is kept until `write` stores it at once.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from agentflow.db.arrays import ints, uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.books import AttemptWrite, Event, NodeKey, NodeWrite, write_books
from agentflow.db.queries.downstreams import Downstream, lock_downstreams
from agentflow.db.queries.locks import LockedRun
from agentflow.db.queries.mapped import Summary, count_indexes, release_indexes
from agentflow.rules import Counts, Verdict, decide_rule
from agentflow.states import NodeRunState, RunState

MAX_LEVELS = 100  #: Levels of skipped and upstream_failed in one transaction; the rest follows in the next.
_FAILED = frozenset({NodeRunState.FAILED, NodeRunState.UPSTREAM_FAILED})
_UNDECIDED = frozenset({NodeRunState.PENDING, NodeRunState.READY})

#: A cascade that was cut off goes on from these final nodes; `due` finds them even after a crash.
CASCADE = "cascade"
_CONTINUE = text(f"""
UPDATE node_run nr SET resume_at = :now, resume_key = '{CASCADE}'
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[])) AS t(run_id, node_no)
WHERE nr.run_id = t.run_id AND nr.node_no = t.node_no AND nr.map_index = {NOT_MAPPED}
""")


@dataclass(frozen=True, slots=True)
class FinalNode:
    """A node run that has just become final."""

    run_id: uuid.UUID
    version_id: int
    node_no: int
    state: NodeRunState
    is_leaf: bool
    map_index: int = NOT_MAPPED
    attempt: int | None = None


def decide_run(run: LockedRun) -> RunState | None:
    """The state a run without open node runs ends in (SEMANTICS section 1); None while some are open."""
    if run.open_nodes > 0:
        return None
    if run.timed_out:
        return RunState.FAILED
    if run.cancel_requested:
        return RunState.CANCELLED
    return RunState.FAILED if run.failed_leaves else RunState.SUCCESS


class Settlement:
    """Collects what happened to locked runs in one transaction, then writes it once."""

    def __init__(self, connection: Connection, runs: dict[uuid.UUID, LockedRun], now: datetime) -> None:
        self._connection = connection
        self.runs = runs
        self.now = now
        self.made_ready = 0
        self.made_due = 0  #: Nodes whose `when` may be evaluated now.
        self.ended: list[uuid.UUID] = []
        self.unfinished: list[FinalNode] = []  #: Cascades cut off at MAX_LEVELS.
        self.finals: Counter[NodeRunState] = Counter()  #: Node runs that became final.
        self._events: list[Event] = []
        self._nodes: dict[NodeKey, NodeWrite] = {}
        self._attempts: dict[NodeKey, AttemptWrite] = {}
        self._downstreams: dict[tuple[uuid.UUID, int], Downstream] = {}
        self._final: set[tuple[uuid.UUID, int]] = set()  # node runs that end in this transaction

    def record(self, event: Event) -> None:
        """Add a line to a run's history."""
        self._events.append(event)

    def put(self, node: NodeWrite, attempt: AttemptWrite) -> None:
        """Store the start or the end of an attempt with the rest."""
        self._nodes[node.key] = node
        self._attempts[node.key] = attempt

    def settle(self, finals: Sequence[FinalNode], forced_skips: Collection[tuple[uuid.UUID, int]] = ()) -> None:
        """Count final node runs in their runs and carry them to their downstreams, which may become final too."""
        for node in finals:
            self._count(node)
        self.carry_on(finals, forced_skips)

    def carry_on(self, finals: Sequence[FinalNode], forced_skips: Collection[tuple[uuid.UUID, int]] = ()) -> None:
        """Carry outcomes that are counted in their runs already to the downstreams."""
        level, forced = list(finals), forced_skips
        for _ in range(MAX_LEVELS):
            if not level:
                return
            indexes = [node for node in level if node.map_index != NOT_MAPPED]
            level = [node for node in level if node.map_index == NOT_MAPPED] + self._summarise(indexes)
            self._final.update((node.run_id, node.node_no) for node in level)
            level = self._propagate(level, forced)
            forced = ()
        self.unfinished += level

    def _count(self, node: FinalNode) -> None:
        run = self.runs[node.run_id]
        run.open_nodes -= 1
        self.finals[node.state] += 1
        if node.is_leaf and node.state in _FAILED and node.map_index == NOT_MAPPED:
            run.failed_leaves += 1
        self.record(Event(node.run_id, "node", node.node_no, node.map_index, node.attempt, node.state))

    def _summarise(self, ended: list[FinalNode]) -> list[FinalNode]:
        """Carry ended indexes to the summaries of their nodes; those that are final by it are returned."""
        if not ended:
            return []
        summaries = count_indexes(self._connection, ended)
        ready, due = release_indexes(self._connection, summaries, self.now)
        self.made_ready += ready
        self.made_due += due
        return self.conclude(summaries)

    def conclude(self, summaries: Iterable[Summary]) -> list[FinalNode]:
        """End the summaries whose indexes have all ended, and count them."""
        finals = []
        for one in summaries:
            state = one.state()
            if state is None:
                continue
            key = (one.run_id, one.node_no, NOT_MAPPED)
            self._nodes[key] = NodeWrite(key, state, finished_at=self.now)
            finals.append(FinalNode(one.run_id, one.version_id, one.node_no, state, one.is_leaf))
            self._count(finals[-1])
        return finals

    def _propagate(self, level: list[FinalNode], forced: Collection[tuple[uuid.UUID, int]]) -> list[FinalNode]:
        inner = [node for node in level if not node.is_leaf]
        if not inner:
            return []
        following = []
        for stored, added in lock_downstreams(self._connection, inner):
            # A row that an earlier level of this transaction has changed is newer here than in the database.
            node = self._downstreams.setdefault((stored.run_id, stored.node_no), stored)
            node.counts = _sum(node.counts, added)
            written = self._written(node)
            written.added = _sum(written.added, added)
            final = self._decide(node, written, forced=(node.run_id, node.node_no) in forced)
            if final is not None:
                following.append(final)
        for final in following:
            self._count(final)
        return following

    def _written(self, node: Downstream) -> NodeWrite:
        key = (node.run_id, node.node_no, NOT_MAPPED)
        return self._nodes.setdefault(key, NodeWrite(key))

    def _decide(self, node: Downstream, written: NodeWrite, *, forced: bool) -> FinalNode | None:
        """Let the rule speak; a node that became final by it is returned."""
        if forced and node.state in _UNDECIDED:
            verdict = Verdict.SKIP
        elif node.state is NodeRunState.PENDING and not node.decided and not self._awaits_branch(node):
            verdict = decide_rule(node.rule, node.counts)
        else:
            return None
        if verdict is Verdict.WAIT:
            return None
        if verdict is Verdict.GO:
            self._go(node, written)
            return None
        node.state = written.state = NodeRunState(verdict.value)
        written.finished_at, written.resume_at = self.now, None
        return FinalNode(node.run_id, node.version_id, node.node_no, node.state, node.is_leaf)

    def _awaits_branch(self, node: Downstream) -> bool:
        """Whether a branch may still leave it out: until then no rule decides, or the order of ends would."""
        return any((node.run_id, branch) not in self._final for branch in node.open_branches)

    def _go(self, node: Downstream, written: NodeWrite) -> None:
        if node.gated:
            node.decided = True
            written.state, written.resume_at = NodeRunState.PENDING, self.now
            self.made_due += 1
        else:
            node.state = written.state = NodeRunState.READY
            written.ready_at = self.now
            self.made_ready += 1

    def write(self, *, wake: bool = False) -> None:
        """End runs that have nothing open, write counters and history, notify. Nothing may follow it."""
        for run in self.runs.values():
            self._end_if_done(run)
        numbered = []
        for event in self._events:
            run = self.runs[event.run_id]
            run.event_seq += 1
            numbered.append((run.event_seq, event))
        if numbered or self._nodes:
            write_books(
                self._connection,
                nodes=[(node, self._attempts.get(key)) for key, node in self._nodes.items()],
                runs=[self.runs[run_id] for run_id in sorted({event.run_id for event in self._events})],
                ended=self.ended,
                events=numbered,
                wake=wake or bool(self.made_ready or self.made_due or self.ended or self.unfinished),
                now=self.now,
            )
        if self.unfinished:
            keys = {"runs": uuids(n.run_id for n in self.unfinished), "nos": ints(n.node_no for n in self.unfinished)}
            self._connection.execute(_CONTINUE, keys | {"now": self.now})

    def end(self, run: LockedRun) -> None:
        """Note that a run has reached the final state it is in now."""
        self.ended.append(run.id)
        self.record(Event(run.id, "run", state=run.state))

    def _end_if_done(self, run: LockedRun) -> None:
        state = decide_run(run) if run.state is RunState.RUNNING else None
        if state is not None:
            run.state = state
            self.end(run)


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(
        one.n,
        one.success + other.success,
        one.failed + other.failed,
        one.upstream_failed + other.upstream_failed,
        one.skipped + other.skipped,
    )
