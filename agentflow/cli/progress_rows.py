"""What a progress view shows: rows chosen and described from a run's document. Pure; drawing is `progress.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from agentflow.cli.output import Document, clean, read_time
from agentflow.states import NODE_RUN_FINAL, NodeRunState

#: What people want to see first when not everything fits.
_RANK = {
    state: rank
    for rank, states in enumerate(
        [
            {NodeRunState.FAILED},
            {NodeRunState.RUNNING},
            {NodeRunState.RETRYING, NodeRunState.DEFERRED, NodeRunState.QUEUED},
            {NodeRunState.READY},
            {NodeRunState.UPSTREAM_FAILED, NodeRunState.CANCELLED},
            {NodeRunState.PENDING},
            {NodeRunState.SKIPPED, NodeRunState.SUCCESS},
        ]
    )
    for state in states
}
_LAST = len(_RANK)
_WAITING = frozenset({NodeRunState.DEFERRED, NodeRunState.RETRYING})


@dataclass(frozen=True, slots=True)
class Row:
    """One node run as the view shows it."""

    label: str  #: `fetch`, or `[3]` below its mapped node.
    depth: int  #: 1 for an index of a mapped node.
    state: str
    seconds: float | None  #: So far, or in all.
    detail: str  #: Attempt number, progress of a mapped node, or the error's first line.


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that fit, in the run's order, and how many of each state were left out."""

    shown: Sequence[Row]
    hidden: Counter[str]


def node_name(node: Document) -> str:
    """`fetch`, or `fetch[3]` for an index of a mapped node."""
    return node["node"] if node["map_index"] is None else f"{node['node']}[{node['map_index']}]"


def work_items(nodes: Iterable[Document]) -> list[Document]:
    """What really runs: indexes of mapped nodes instead of their summaries."""
    nodes = list(nodes)
    mapped = {node["node"] for node in nodes if node["map_index"] is not None}
    return [node for node in nodes if node["map_index"] is not None or node["node"] not in mapped]


def counts(nodes: Iterable[Document]) -> Counter[str]:
    """How many node runs are in each state; a mapped node counts by its indexes."""
    return Counter(node["state"] for node in work_items(nodes))


def done(states: Counter[str]) -> int:
    """How many of the counted node runs are final."""
    return sum(count for state, count in states.items() if state in NODE_RUN_FINAL)


def choose(nodes: Sequence[Document], limit: int, now: datetime) -> Rows:
    """At most `limit` rows: failures (up to half of them), then what runs, then what waits, then what is done."""
    if len(nodes) <= limit:
        picked = list(range(len(nodes)))
    else:
        order = sorted(range(len(nodes)), key=lambda index: _RANK.get(nodes[index]["state"], _LAST))
        failed = [index for index in order if nodes[index]["state"] == NodeRunState.FAILED]
        surplus = set(failed[max(1, limit // 2) :])
        order = [index for index in order if index not in surplus] + sorted(surplus)
        picked = sorted(order[:limit])
    progress = _mapped_progress(nodes)
    shown = [row_of(nodes[index], now, progress) for index in picked]
    chosen = set(picked)
    hidden = Counter(node["state"] for index, node in enumerate(nodes) if index not in chosen)
    return Rows(shown, hidden)


def row_of(node: Document, now: datetime, progress: dict[str, str] | None = None) -> Row:
    """One node run, described."""
    index = node["map_index"]
    return Row(
        label=node["node"] if index is None else f"[{index}]",
        depth=0 if index is None else 1,
        state=node["state"],
        seconds=seconds_of(node, now),
        detail=_detail(node, (progress or {}).get(node["node"]) if index is None else None),
    )


def seconds_of(item: Document, now: datetime) -> float | None:
    """How long a run or node run has been going, or took; None before its start."""
    start = read_time(item.get("started_at"))
    if start is None:
        return None
    end = read_time(item.get("finished_at")) or now
    return max(0.0, (end - start).total_seconds())  # the clocks of two machines may differ a little


def due_text(node: Document) -> str:
    """When a node run that waits is due: its end, its next look, or its next attempt; empty when it waits for no time."""
    due = read_time(node.get("resume_at")) if node["state"] in _WAITING else None
    return f"{due:%Y-%m-%d %H:%M:%S} UTC" if due is not None else ""


def error_line(error: Document | None) -> str:
    """`Type: first line of the message`."""
    if not error:
        return ""
    message = str(error.get("message") or "").strip().splitlines()
    return clean(": ".join(part for part in (str(error.get("type") or ""), message[0] if message else "") if part))


def _detail(node: Document, progress: str | None) -> str:
    parts = []
    if progress:
        parts.append(progress)
    if node["attempt"] > 1:
        parts.append(f"attempt {node['attempt']}")
    if due := due_text(node):
        parts.append(f"due {due}")
    if node["state"] in {NodeRunState.FAILED, NodeRunState.RETRYING} and node.get("error"):
        parts.append(error_line(node["error"]))
    return "  ".join(parts)


def _mapped_progress(nodes: Sequence[Document]) -> dict[str, str]:
    totals: Counter[str] = Counter()
    finals: Counter[str] = Counter()
    for node in nodes:
        if node["map_index"] is not None:
            totals[node["node"]] += 1
            finals[node["node"]] += node["state"] in NODE_RUN_FINAL
    return {name: f"{finals[name]}/{total}" for name, total in totals.items()}
