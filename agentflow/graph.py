"""The graph of a workflow: order, cycles, reachability. Pure, linear and iterative: a chain may be 100,000 nodes deep.

A graph is given as `needs`: every node with its direct upstreams, in spec order. Every upstream must be a key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentflow.errors import Problem, SpecError

Needs = Mapping[str, Collection[str]]

MAX_NODES = 100_000
MAX_EDGES = 200_000
_CHUNK = 4096  # targets per pass of `not_upstream`: bits of one integer per node, about 50 MB at 100,000 nodes


class CycleFound(ValueError):
    """The graph has a cycle, so its nodes have no order."""

    def __init__(self, cycle: list[str]) -> None:
        self.cycle = cycle
        super().__init__(" -> ".join([*cycle, cycle[0]]))


def downstreams(needs: Needs) -> dict[str, list[str]]:
    """Every node with its direct downstreams, each once, in spec order."""
    result: dict[str, list[str]] = {node: [] for node in needs}
    for node, upstreams in needs.items():
        for upstream in dict.fromkeys(upstreams):
            result[upstream].append(node)
    return result


def topological_order(needs: Needs) -> list[str]:
    """Every node after all its upstreams; nodes that are free at the same time keep spec order.

    Raises:
        CycleFound: There is no such order.
    """
    order = _sorted_part(needs)
    if len(order) < len(needs):
        raise CycleFound(_cycle_among(needs, set(needs).difference(order)))
    return order


def find_cycle(needs: Needs) -> list[str] | None:
    """The nodes of one cycle, each upstream of the next and the last of the first; None when there is none."""
    order = _sorted_part(needs)
    if len(order) == len(needs):
        return None
    return _cycle_among(needs, set(needs).difference(order))


def ancestors(needs: Needs, *starts: str) -> set[str]:
    """Everything upstream of the nodes, directly or not, without the nodes themselves unless one is upstream of one."""
    return _reach(needs, starts)


def descendants(needs: Needs, *starts: str) -> set[str]:
    """Everything downstream of the nodes, directly or not."""
    return _reach(downstreams(needs), starts)


def not_upstream(needs: Needs, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those pairs (target, node) whose target is not an ancestor of the node.

    Ancestor sets of all nodes at once would take nodes x nodes; so targets go in chunks, as bits of one integer
    that flows down the graph. The graph must have no cycle.
    """
    open_pairs = {(target, node) for target, node in pairs if target not in needs[node]}
    if not open_pairs:
        return set()
    order = topological_order(needs)
    targets = list(dict.fromkeys(target for target, _ in sorted(open_pairs)))
    for start in range(0, len(targets), _CHUNK):
        bit = {target: 1 << index for index, target in enumerate(targets[start : start + _CHUNK])}
        seen: dict[str, int] = {}
        for node in order:
            bits = 0
            for upstream in needs[node]:
                bits |= seen[upstream] | bit.get(upstream, 0)
            seen[node] = bits
        open_pairs = {(target, node) for target, node in open_pairs if not seen[node] & bit.get(target, 0)}
    return open_pairs


def _sorted_part(needs: Needs) -> list[str]:
    """As much of a topological order as there is (Kahn): all nodes that are neither on nor below a cycle."""
    below = downstreams(needs)
    waiting = {node: len(set(upstreams)) for node, upstreams in needs.items()}
    order = [node for node, count in waiting.items() if count == 0]
    for node in order:  # grows while it is walked
        for downstream in below[node]:
            waiting[downstream] -= 1
            if waiting[downstream] == 0:
                order.append(downstream)
    return order


def _cycle_among(needs: Needs, left: set[str]) -> list[str]:
    """Walk upstream among nodes that each have an upstream among them: the walk must meet itself."""
    node = next(node for node in needs if node in left)
    place: dict[str, int] = {}
    path: list[str] = []
    while node not in place:
        place[node] = len(path)
        path.append(node)
        node = next(upstream for upstream in needs[node] if upstream in left)
    cycle = path[place[node] :][::-1]
    first = min(range(len(cycle)), key=lambda index: place[cycle[index]])
    return cycle[first:] + cycle[:first]


def _reach(edges: Needs, starts: Sequence[str]) -> set[str]:
    found: set[str] = set()
    stack = list(starts)
    while stack:
        for neighbour in edges[stack.pop()]:
            if neighbour not in found:
                found.add(neighbour)
                stack.append(neighbour)
    return found


class _Node(Protocol):
    @property
    def needs(self) -> Sequence[str]: ...


class _Spec(Protocol):
    @property
    def nodes(self) -> Mapping[str, _Node]: ...


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node as the engine counts it."""

    node_no: int  #: From 0, in spec order.
    id: str
    n_up: int  #: Direct upstreams, each counted once.
    is_leaf: bool  #: Has no downstreams, so it decides the run's outcome.


@dataclass(frozen=True, slots=True)
class CompiledGraph:
    """The graph of one version, as rows."""

    nodes: list[CompiledNode]
    edges: list[tuple[int, int]]  #: (up_no, down_no), each once, ordered by down_no.


def compile_graph(spec: _Spec) -> CompiledGraph:
    """Number the nodes and list the edges of a valid spec.

    Raises:
        SpecError: More than MAX_NODES nodes or MAX_EDGES edges.
    """
    check_size(spec.nodes)
    number = {node_id: node_no for node_no, node_id in enumerate(spec.nodes)}
    edges: list[tuple[int, int]] = []
    n_up: list[int] = []
    has_downstream: set[int] = set()
    for down_no, node in enumerate(spec.nodes.values()):
        upstreams = [number[upstream] for upstream in dict.fromkeys(node.needs)]
        edges.extend((up_no, down_no) for up_no in upstreams)
        has_downstream.update(upstreams)
        n_up.append(len(upstreams))
    nodes = [
        CompiledNode(node_no, node_id, n_up[node_no], node_no not in has_downstream)
        for node_id, node_no in number.items()
    ]
    return CompiledGraph(nodes, edges)


def check_size(nodes: Mapping[str, _Node]) -> None:
    """Refuse what is larger than the engine is built for.

    Raises:
        SpecError: More than MAX_NODES nodes or MAX_EDGES edges.
    """
    hint = "split the workflow, or map one node over a list"
    if len(nodes) > MAX_NODES:
        raise SpecError([Problem(f"{len(nodes):,} nodes are more than {MAX_NODES:,}", path="nodes", hint=hint)])
    edges = sum(len(node.needs) for node in nodes.values())
    if edges > MAX_EDGES:
        raise SpecError(
            [
                Problem(
                    f"{edges:,} edges are more than {MAX_EDGES:,}",
                    path="nodes",
                    hint="put a noop node between groups that all need each other: n + m edges instead of n x m",
                )
            ]
        )
