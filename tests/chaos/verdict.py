"""The promises, checked after the storm: each complaint is a line; none means that all were kept."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agentflow.db.engine import make_engine, transact
from agentflow.settings_store import list_pools
from scheduler.consistency import Consistency
from tests.chaos.shapes import Shape
from tests.chaos.site import Place

STALL = 1.0  #: Seconds.
Execution = tuple[str, str, int | None, int]  #: Run, node, map index, attempt.

_RUNS = "SELECT r.*, w.name FROM run r JOIN workflow w ON w.id = r.workflow_id ORDER BY r.id"
_NODES = """
SELECT nr.*, vn.node_id FROM node_run nr
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
"""
_ATTEMPTS = """
SELECT a.*, vn.node_id, vn.type FROM attempt a
JOIN node_run nr USING (run_id, node_no, map_index)
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
"""
_GAPS = """
SELECT r.id FROM run r LEFT JOIN run_event e ON e.run_id = r.id
GROUP BY r.id, r.event_seq HAVING count(e.seq) <> r.event_seq OR coalesce(max(e.seq), 0) <> r.event_seq
"""
_EVENTS = "SELECT kind, count(*) AS n FROM run_event WHERE kind IN ('refused', 'repaired') GROUP BY kind"
#: How long nodes that were ready waited for their start: a kill of their scheduler costs up to 10 s.
_WAITS = """
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s) AS median, percentile_cont(0.99) WITHIN GROUP (ORDER BY s) AS p99,
  max(s) AS longest FROM (
    SELECT extract(epoch FROM queued_at - ready_at)::float AS s FROM node_run
    WHERE state IN ('success', 'failed') AND queued_at >= ready_at) AS waits
"""


@dataclass
class Verdict:
    """What was found."""

    complaints: list[str] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)  #: By state.
    attempts: Counter[str] = field(default_factory=Counter)  #: By state.
    losses: Counter[str] = field(default_factory=Counter)  #: Lost and refused attempts, by what was told.
    refused: int = 0  #: Late results that were turned away.
    unaccepted: int = 0  #: Executions that left a trace outside, and whose attempt was not accepted.
    waits: dict[str, float] = field(default_factory=dict)
    #: Times, by seconds and moment of their beginning, in which nothing began though something was ready.
    stalls: list[tuple[float, datetime]] = field(default_factory=list)

    def complain(self, found: Iterator[str]) -> None:
        """Add what is wrong."""
        self.complaints += found


def judge(place: Place, shapes: Sequence[Shape], count: int) -> Verdict:
    """Look at everything; nothing of AgentFlow runs any more."""
    site = place.site
    verdict = Verdict()
    runs, nodes, attempts = site.rows(_RUNS), site.rows(_NODES), site.rows(_ATTEMPTS)
    executions = read_journal(site.journal)
    verdict.runs = Counter(run["state"] for run in runs)
    verdict.attempts = Counter(attempt["state"] for attempt in attempts)
    verdict.losses = Counter(
        (attempt["error"] or {}).get("message", "")[:70]
        for attempt in attempts
        if attempt["state"] in ("lost", "refused")
    )
    by_name = {shape.name: shape for shape in shapes}
    verdict.complain(_wrong_runs(runs, nodes, by_name, count))
    verdict.complain(_wrong_attempts(nodes, attempts))
    verdict.complain(_wrong_executions(attempts, executions))
    verdict.complain(_wrong_requests(attempts, place.asked))
    verdict.complain(f"run {row['id']}: its history has gaps" for row in site.rows(_GAPS))
    accepted = {_execution(row) for row in attempts if row["state"] in ("success", "failed")}
    verdict.unaccepted = len(executions.keys() - accepted)
    told = {row["kind"]: row["n"] for row in site.rows(_EVENTS)}
    verdict.refused = told.get("refused", 0)
    if told.get("repaired"):
        verdict.complaints.append(f"{told['repaired']} runs were repaired: a counter was wrong")
    verdict.complain(_wrong_books(site.url))
    verdict.waits = {name: value or 0.0 for name, value in site.rows(_WAITS)[0].items()}
    verdict.stalls = find_stalls(attempts, nodes)
    verdict.complain(f"left behind: {process}" for process in site.leftovers())
    return verdict


def read_journal(path: Path) -> dict[Execution, list[str]]:
    """What each execution left outside, in order."""
    found: dict[Execution, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        run, node, index, attempt, _pid, what, _at = json.loads(line)
        found[run, node, index, attempt].append(what)
    return found


def find_stalls(attempts: Sequence[dict[str, Any]], nodes: Sequence[dict[str, Any]]) -> list[tuple[float, datetime]]:
    """Times of more than STALL seconds without any claim, though some node waited for one all the time."""
    claims = sorted(attempt["queued_at"] for attempt in attempts if attempt["executor"])
    waits = [(node["ready_at"], node["queued_at"]) for node in nodes if node["ready_at"] and node["queued_at"]]
    found = []
    for before, after in itertools.pairwise(claims):
        since = min((ready for ready, queued in waits if queued == after or ready <= before < queued), default=after)
        begin = max(before, since)
        seconds = (after - begin).total_seconds()
        if seconds > STALL:
            found.append((seconds, begin))
    return sorted(found, reverse=True)


def _wrong_runs(
    runs: Sequence[dict[str, Any]], nodes: Sequence[dict[str, Any]], shapes: dict[str, Shape], count: int
) -> Iterator[str]:
    """Every run, and every node of it, ended as the model says."""
    of_run: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        of_run[node["run_id"]].append(node)
    own = [run for run in runs if run["parent_run_id"] is None]
    numbers = Counter(run["params"]["number"] for run in own)
    if sorted(numbers) != list(range(count)) or max(numbers.values(), default=0) > 1:
        yield f"{len(own)} runs instead of {count}"
    for run in runs:
        shape, rows = shapes[run["name"]], of_run[run["id"]]
        where = f"run {run['id']} ({shape.name})"
        if run["state"] != shape.state:
            yield f"{where} is {run['state']} instead of {shape.state}"
        if len(rows) != shape.rows or run["open_nodes"]:
            yield f"{where} has {len(rows)} node runs instead of {shape.rows}, {run['open_nodes']} open"
        for row in rows:
            if row["state"] != shape.end_of(row["node_id"]):
                yield f"{where}: {row['node_id']}[{row['map_index']}] is {row['state']}: {row['error']}"
    parents = Counter((run["parent_run_id"], run["state"]) for run in runs if run["parent_run_id"] is not None)
    for run in own:
        if shapes[run["name"]].child is not None and parents[run["id"], "success"] != 1:
            yield f"run {run['id']}: {parents[run['id'], 'success']} sub-runs succeeded instead of one"


def _wrong_attempts(nodes: Sequence[dict[str, Any]], attempts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Numbers without gaps, nothing open, one accepted success per node that succeeded, every loss with its reason."""
    by_node: dict[tuple[Any, int, int], list[dict[str, Any]]] = defaultdict(list)
    for attempt in attempts:
        by_node[attempt["run_id"], attempt["node_no"], attempt["map_index"]].append(attempt)
    for node in nodes:
        tries = by_node[node["run_id"], node["node_no"], node["map_index"]]
        where = f"run {node['run_id']}: {node['node_id']}[{node['map_index']}]"
        states = [attempt["state"] for attempt in sorted(tries, key=lambda attempt: attempt["attempt"])]
        if sorted(attempt["attempt"] for attempt in tries) != list(range(1, len(tries) + 1)):
            yield f"{where}: numbers of attempts have gaps"
        if not set(states) <= {"success", "failed", "lost", "refused"}:
            yield f"{where}: attempts are {states}"
        if states.count("success") != (node["state"] == "success" and bool(states)) or "success" in states[:-1]:
            yield f"{where} is {node['state']}, its attempts {states}"
        for attempt in tries:
            if attempt["state"] in ("lost", "refused") and not (attempt["error"] or {}).get("message"):
                yield f"{where}: nobody knows why attempt {attempt['attempt']} was {attempt['state']}"


def _execution(attempt: dict[str, Any]) -> Execution:
    index = attempt["map_index"]
    return str(attempt["run_id"]), attempt["node_id"], index if index >= 0 else None, attempt["attempt"]


def _wrong_executions(attempts: Sequence[dict[str, Any]], executions: dict[Execution, list[str]]) -> Iterator[str]:
    """Every accepted attempt ran exactly once, none ran twice, and none is unknown to the books."""
    known = {_execution(attempt): attempt for attempt in attempts}
    for execution, notes in executions.items():
        attempt = known.get(execution)
        if attempt is None:
            yield f"{execution} ran, but the books do not know it"
        elif notes.count("begin") != 1:
            yield f"{execution} ({attempt['state']}) ran {notes.count('begin')} times"
    wanted = {"success": ["begin", "end"], "failed": ["begin", "fail"]}
    for execution, attempt in known.items():
        if attempt["type"] == "python" and attempt["state"] in wanted:
            notes = executions.get(execution, [])
            if notes != wanted[attempt["state"]]:
                yield f"{execution} is {attempt['state']}, its journal says {notes}: {attempt['error']}"


def _wrong_requests(attempts: Sequence[dict[str, Any]], asked: dict[str, int]) -> Iterator[str]:
    """The web server has seen every accepted request, and none that no attempt stands for."""
    tries, accepted = Counter[str](), Counter[str]()
    for attempt in attempts:
        if attempt["type"] == "http":
            tries[str(attempt["run_id"])] += 1
            accepted[str(attempt["run_id"])] += attempt["state"] == "success"
    for run in tries.keys() | asked.keys():
        if not accepted[run] <= asked.get(run, 0) <= tries[run]:
            yield f"run {run}: {asked.get(run, 0)} requests, {tries[run]} attempts, {accepted[run]} accepted"


def _wrong_books(url: str) -> Iterator[str]:
    """Counters equal a recount, and no slot of a pool is taken."""
    engine = make_engine(url)
    try:
        repairs = Consistency(engine, quiet=-1.0).check()
        if repairs:
            yield f"{repairs} runs had to be repaired"
        pools, _ = transact(engine, list_pools)
        for pool in pools:
            if pool["used"]:
                yield f"{pool['used']} slots of the pool {pool['name']} are taken"
    finally:
        engine.dispose()
