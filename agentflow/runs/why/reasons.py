"""From facts to reasons: pure. The first reason is the one to look at first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentflow.clock import iso
from agentflow.runs.why.facts import AttemptFacts, Facts, NodeFacts, RunFacts, SchedulerFacts
from agentflow.states import NODE_RUN_FINAL, RUN_FINAL, NodeRunState, RunState

AHEAD_BOUND = 1000  #: Node runs ahead are counted up to this.


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that keeps it from running, and what to do about it."""

    code: str  #: A stable word.
    fact: str
    advice: str
    detail: dict[str, Any] = field(default_factory=dict)

    def as_document(self) -> dict[str, Any]:
        """The shape of API and command line."""
        return {"code": self.code, "fact": self.fact, "advice": self.advice, "detail": self.detail}


def explain(facts: Facts) -> list[Reason]:
    """Why the node run is in its state and not further."""
    if facts.run.cancelling and facts.run.state not in RUN_FINAL:
        return [
            Reason("cancelling", "The run is being cancelled.", "nothing starts any more; rerun it when it has ended")
        ]
    if facts.node is None or facts.run.state is RunState.QUEUED:
        return list(_of_queued_run(facts)) if facts.run.state is RunState.QUEUED else [_of_run(facts.run)]
    return list(_BY_STATE[facts.node.state](facts, facts.node))


def _of_run(run: RunFacts) -> Reason:
    """Of a sub-run as a whole, or one that was cancelled while it was queued."""
    if run.state is RunState.RUNNING:
        hint = f"ask about one of its nodes: `agentflow runs show {run.id}` lists them"
        return Reason("running", "It is a run of its own, and under way.", hint)
    if run.started:
        return Reason("run-ended", f"It is a run of its own and has ended: {run.state.value}.", "clear it, or rerun it")
    return Reason("run-ended", f"The run was {run.state.value} before it started.", "rerun it")


# -- the run has not started -----------------------------------------------------------------------------------------------
def _of_queued_run(facts: Facts) -> Iterator[Reason]:
    run = facts.run
    if run.reserved_for is not None:
        yield Reason(
            "reserved",
            "The run belongs to an `agentflow run` that starts it itself.",
            "when that command has died, other schedulers take it over within 10 seconds",
            {"scheduler": run.reserved_for},
        )
    elif run.sub_run:
        yield from _no_scheduler(facts)
        yield Reason("starting", "The sub-run is about to start.", "wait a moment")
    else:
        yield from _kept_back(facts)


def _kept_back(facts: Facts) -> Iterator[Reason]:
    run = facts.run
    found = [*_paused(run), *_no_scheduler(facts)]
    if run.backfill_paused:
        found.append(
            Reason(
                "backfill-paused",
                f"The run belongs to the backfill {run.backfill}, which is paused.",
                f"agentflow backfill unpause {run.backfill}",
                {"backfill": run.backfill},
            )
        )
    if run.active_count >= run.max_active_runs:
        found.append(
            Reason(
                "max-active-runs",
                f"{run.active_count} of at most {run.max_active_runs} runs of {_whose(run)} are running"
                f"{_and_ahead(run)}.",
                "wait for them, cancel some, or raise `max_active_runs`",
                {"limit": run.max_active_runs, "running": list(run.active), "ahead": run.ahead},
            )
        )
    if run.blocked_by_past is not None:
        before, state = run.blocked_by_past
        found.append(
            Reason(
                "depends-on-past",
                f"The run before it, {before}, is {state}; with `depends_on_past` it must end in success first.",
                f"clear or mark the nodes of {before}, or cancel this run",
                {"run": before, "state": state},
            )
        )
    yield from found
    if not found:
        yield Reason("starting", f"The run is about to start{_and_ahead(run)}.", "wait a moment", {"ahead": run.ahead})


def _whose(run: RunFacts) -> str:
    return repr(run.workflow) if run.backfill is None else f"the backfill {run.backfill}"


def _and_ahead(run: RunFacts) -> str:
    return f"; {run.ahead} queued {_plural(run.ahead, 'run')} come first" if run.ahead else ""


def _paused(run: RunFacts) -> Iterator[Reason]:
    if run.paused:
        because = f": {run.pause_reason}" if run.pause_reason else ""
        yield Reason(
            "paused",
            f"The workflow {run.workflow!r} is paused{because}.",
            f"agentflow workflows unpause {run.workflow}",
        )


def _no_scheduler(facts: Facts) -> Iterator[Reason]:
    if not facts.schedulers:
        yield Reason(
            "no-scheduler",
            "No scheduler is alive.",
            "start one: `agentflow standalone` or `agentflow scheduler`; `agentflow doctor` tells more",
        )


# -- by the node run's state -------------------------------------------------------------------------------------------------
def _pending(facts: Facts, node: NodeFacts) -> Iterator[Reason]:
    waiting = [one for one in node.upstreams if one.state not in NODE_RUN_FINAL]
    if waiting and node.resume_at is None:
        left = node.upstream_count - node.done_count
        yield Reason(
            "upstreams",
            f"{left} of {node.upstream_count} {_plural(node.upstream_count, 'upstream')} "
            f"{'is' if left == 1 else 'are'} not done: {_listed(f'{u.node} ({u.state.value})' for u in waiting)}"
            f"{' …' if left > len(waiting) else ''}.",
            f"ask why {waiting[0].node} is not done",
            {"rule": node.trigger_rule, "waiting": [{"node": u.node, "state": u.state.value} for u in waiting]},
        )
    elif node.is_index and node.resume_at is None:
        yield Reason(
            "max-parallel",
            f"At most {node.max_parallel} indexes run at once, and others come first.",
            "wait for them, or raise `max_parallel`",
            {"max_parallel": node.max_parallel},
        )
    else:
        yield from _no_scheduler(facts)
        yield Reason(
            "evaluation",
            "Its upstreams are done; the scheduler is evaluating its expressions."
            if node.gated
            else "Its upstreams are done; the scheduler is about to decide it.",
            "wait a moment",
        )


def _ready(facts: Facts, node: NodeFacts) -> Iterator[Reason]:
    run, pool = facts.run, facts.pool
    found = [*(_paused(run) if run.reserved_for is None else ()), *_no_scheduler(facts)]
    if pool is not None and pool.slots - pool.used < min(node.pool_slots, max(pool.slots, 1)):
        holders = _listed(f"{h.workflow}/{h.node} ({h.slots})" for h in pool.holders)
        found.append(
            Reason(
                "pool-full",
                f"The pool {pool.name!r} has {max(0, pool.slots - pool.used)} of {pool.slots} slots free; "
                f"it needs {node.pool_slots}" + (f". They are held by {holders}." if holders else "."),
                f"wait, or `agentflow pools set {pool.name} SLOTS` with more slots",
                {
                    "pool": pool.name,
                    "slots": pool.slots,
                    "used": pool.used,
                    "holders": [
                        {"workflow": h.workflow, "run": h.run_id, "node": h.node, "slots": h.slots}
                        for h in pool.holders
                    ],
                },
            )
        )
    if run.concurrency is not None and run.concurrent >= run.concurrency:
        found.append(
            Reason(
                "concurrency",
                f"{run.concurrent} node runs of {run.workflow!r} run at once; its `concurrency` is {run.concurrency}.",
                "wait, or raise `concurrency`",
                {"limit": run.concurrency, "running": run.concurrent},
            )
        )
    found += _nobody_takes(facts, node)
    yield from found
    if not found or node.ahead:
        many = f"{node.ahead}{' or more' if node.ahead >= AHEAD_BOUND else ''}"
        yield Reason(
            "queue-position",
            f"{many} ready {_plural(node.ahead, 'node')} come first." if node.ahead else "It is about to be claimed.",
            "give it a higher `priority`, or more slots" if node.ahead else "wait a moment",
            {"ahead": node.ahead},
        )


def _nobody_takes(facts: Facts, node: NodeFacts) -> Iterator[Reason]:
    if not facts.schedulers:
        return
    queue = [one for one in facts.schedulers if node.queue in one.queues]
    if not queue:
        yield Reason(
            "queue-unserved",
            f"No living scheduler serves the queue {node.queue!r}.",
            f"start one with AGENTFLOW_QUEUES={node.queue}, or change the node's `queue`",
            {"queue": node.queue},
        )
        return
    able = [one for one in queue if not node.executor or node.executor in one.executors]
    if not able:
        yield Reason(
            "executor-unavailable",
            f"No living scheduler of its queue has the executor {node.executor!r} enabled.",
            f"start one with {node.executor} in AGENTFLOW_EXECUTORS, or change the node's `executor`",
            {"executor": node.executor},
        )
        return
    if not node.io and all(one.used >= one.parallelism for one in able):
        yield _no_slot(able)


def _no_slot(able: list[SchedulerFacts]) -> Reason:
    used, slots = sum(one.used for one in able), sum(one.parallelism for one in able)
    return Reason(
        "no-executor-slot",
        f"All {slots} slots of {_plural(len(able), 'its scheduler', 'the schedulers')} that may run it are taken.",
        "wait, raise AGENTFLOW_PARALLELISM, or start another scheduler",
        {"slots": slots, "used": used, "schedulers": [one.id for one in able]},
    )


def _handed_over(facts: Facts, _node: NodeFacts) -> Iterator[Reason]:
    attempt = facts.attempt
    assert attempt is not None  # a check of the database: a node run that holds a slot has an attempt
    if not attempt.scheduler_alive:
        yield Reason(
            "scheduler-gone",
            f"The scheduler that holds attempt {attempt.number} does not answer.",
            "within 10 seconds others write the attempt off as lost and try again, if one is alive",
            _attempt_detail(attempt),
        )
        return
    yield Reason(
        "with-executor",
        f"Attempt {attempt.number} is with the executor {attempt.executor!r} since {_time(attempt.queued_at)}"
        + (f": {attempt.last_word}" if attempt.last_word else "."),
        "wait; the executor starts it as soon as it can",
        _attempt_detail(attempt),
    )


def _running(facts: Facts, node: NodeFacts) -> Iterator[Reason]:
    attempt = facts.attempt
    assert attempt is not None
    if not attempt.scheduler_alive:
        yield from _handed_over(facts, node)
        return
    since = attempt.started_at or attempt.queued_at
    yield Reason(
        "running",
        f"It is running: attempt {attempt.number} on {attempt.executor!r} since {_time(since)}"
        + (f"; its last line: {attempt.last_word}" if attempt.last_word else "."),
        f"agentflow logs {facts.run.id} '{node.address}' --follow",
        _attempt_detail(attempt),
    )


def _attempt_detail(attempt: AttemptFacts) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "state": attempt.state,
        "executor": attempt.executor,
        "queued_at": iso(attempt.queued_at),
        "started_at": iso(attempt.started_at),
        "last_word": attempt.last_word,
    }


def _deferred(facts: Facts, node: NodeFacts) -> Iterator[Reason]:
    if node.resume_key == "map":
        yield Reason(
            "indexes",
            f"It waits for {node.map_open} of its indexes.",
            f"ask about one of them: '{node.address}[0]'",
            {"open": node.map_open},
        )
    elif node.sub_runs:
        run, state = node.sub_runs[0]
        limit = f"; its time is up at {_time(node.resume_at)}" if node.resume_at else ""
        yield Reason(
            "sub-run",
            f"It waits for its sub-run {run}, which is {state}{limit}.",
            f"agentflow runs show {run}",
            {"runs": [{"id": one, "state": its} for one, its in node.sub_runs], "resume_at": iso(node.resume_at)},
        )
    else:
        until = f" until {_time(node.resume_at)}" if node.resume_at else ""
        yield Reason(
            "deferred",
            f"It waits without a slot{until}.",
            "wait, or mark it",
            {"resume_at": iso(node.resume_at), "waits_for": node.resume_key},
        )
        if node.resume_at is not None and node.resume_at <= facts.run.now:
            yield from _no_scheduler(facts)


def _retrying(facts: Facts, node: NodeFacts) -> Iterator[Reason]:
    attempt = facts.attempt
    number, word = (attempt.number, attempt.last_word) if attempt else (0, None)
    yield Reason(
        "retry",
        f"Attempt {number} did not succeed{f' ({word})' if word else ''}; the next one starts at {_time(node.resume_at)}.",
        f"wait, or look at the log: agentflow logs {facts.run.id} '{node.address}'",
        {
            "resume_at": iso(node.resume_at),
            "failures": node.failures,
            "retries": node.retries,
            "losses": node.losses,
        },
    )
    yield from _no_scheduler(facts)


def _ended(facts: Facts, node: NodeFacts) -> Iterator[Reason]:
    bad = [one for one in node.upstreams if one.state in _BAD]
    match node.state:
        case NodeRunState.UPSTREAM_FAILED:
            fact = f"Its rule {node.trigger_rule} cannot be met any more: {_listed(f'{u.node} ({u.state.value})' for u in bad)}."
            advice = "mend what failed, then clear it with --downstream"
        case NodeRunState.SKIPPED:
            fact = "It was skipped: its rule, its `when`, a branch or its own exit said so."
            advice = "clear it to run it again"
        case NodeRunState.FAILED:
            message = (node.error or {}).get("message", "no message")
            fact = f"It failed: {str(message).splitlines()[0] if message else 'no message'}"
            advice = f"agentflow logs {facts.run.id} '{node.address}'"
        case NodeRunState.CANCELLED:
            fact, advice = "It was cancelled.", "clear it to run it again"
        case _:
            fact, advice = "It has ended in success.", "clear it to run it again"
    yield Reason("ended", fact, advice, {"upstreams": [{"node": u.node, "state": u.state.value} for u in bad]})


def _listed(words: Iterator[str]) -> str:
    return ", ".join(words)


def _plural(count: int, one: str, many: str | None = None) -> str:
    return one if count == 1 else many or f"{one}s"


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "an unknown time"


_BAD = frozenset({NodeRunState.FAILED, NodeRunState.UPSTREAM_FAILED, NodeRunState.CANCELLED})
_BY_STATE: dict[NodeRunState, Callable[[Facts, NodeFacts], Iterator[Reason]]] = {
    NodeRunState.PENDING: _pending,
    NodeRunState.READY: _ready,
    NodeRunState.QUEUED: _handed_over,
    NodeRunState.RUNNING: _running,
    NodeRunState.DEFERRED: _deferred,
    NodeRunState.RETRYING: _retrying,
    NodeRunState.SUCCESS: _ended,
    NodeRunState.FAILED: _ended,
    NodeRunState.SKIPPED: _ended,
    NodeRunState.UPSTREAM_FAILED: _ended,
    NodeRunState.CANCELLED: _ended,
}
