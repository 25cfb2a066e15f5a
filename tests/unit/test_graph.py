from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow import graph
from agentflow.errors import SpecError


@st.composite
def acyclic(draw):
    """Nodes in random spec order whose upstreams come earlier in a hidden order."""
    size = draw(st.integers(1, 12))
    names = [f"n{index}" for index in range(size)]
    needs = {
        name: draw(st.lists(st.sampled_from(names[:index]), max_size=4)) if index else []
        for index, name in enumerate(names)
    }
    order = draw(st.permutations(names))
    return {name: needs[name] for name in order}


@st.composite
def any_graph(draw):
    names = [f"n{index}" for index in range(draw(st.integers(1, 8)))]
    return {name: draw(st.lists(st.sampled_from(names), max_size=3)) for name in names}


def reachable(needs, node):
    """Reference: ancestors by repeated squaring of the relation."""
    found = set(needs[node])
    while True:
        more = found.union(*(needs[name] for name in found)) if found else found
        if more == found:
            return found
        found = more


@given(acyclic())
def test_an_order_has_every_node_once_after_its_upstreams(needs):
    order = graph.topological_order(needs)

    place = {name: index for index, name in enumerate(order)}
    assert sorted(order) == sorted(needs)
    assert all(place[upstream] < place[name] for name, upstreams in needs.items() for upstream in upstreams)


@given(any_graph())
def test_a_cycle_is_found_exactly_when_a_node_reaches_itself(needs):
    cycle = graph.find_cycle(needs)

    assert (cycle is not None) == any(name in reachable(needs, name) for name in needs)
    if cycle is not None:
        assert len(set(cycle)) == len(cycle)
        assert all(left in needs[right] for left, right in zip(cycle, cycle[1:] + cycle[:1], strict=True))


@given(any_graph())
def test_ancestors_and_descendants_agree_with_the_closure(needs):
    for name in needs:
        assert graph.ancestors(needs, name) == reachable(needs, name)
        assert graph.descendants(needs, name) == {other for other in needs if name in reachable(needs, other)}


@given(acyclic(), st.data(), st.integers(1, 3))
def test_not_upstream_answers_as_the_closure_in_chunks_of_any_size(needs, data, chunk):
    names = list(needs)
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=20))
    before, graph._CHUNK = graph._CHUNK, chunk
    try:
        hidden = graph.not_upstream(needs, pairs)
    finally:
        graph._CHUNK = before

    assert hidden == {(target, node) for target, node in pairs if target not in reachable(needs, node)}


def test_an_order_of_a_cyclic_graph_is_refused_with_the_cycle():
    with pytest.raises(graph.CycleFound) as caught:
        graph.topological_order({"a": [], "b": ["a", "d"], "c": ["b"], "d": ["c"], "e": ["d"]})

    assert caught.value.cycle == ["b", "c", "d"]
    assert str(caught.value) == "b -> c -> d -> b"


def test_free_nodes_keep_spec_order():
    assert graph.topological_order({"z": [], "a": [], "m": ["a", "z"], "b": []}) == ["z", "a", "b", "m"]


def test_a_chain_of_50_000_nodes_needs_no_recursion():
    needs = {f"n{index}": [f"n{index - 1}"] if index else [] for index in range(50_000)}

    assert len(graph.topological_order(needs)) == 50_000
    assert graph.find_cycle(needs) is None
    assert len(graph.ancestors(needs, "n49999")) == 49_999
    assert len(graph.descendants(needs, "n0", "n1")) == 49_999
    assert graph.not_upstream(needs, [("n0", "n49999"), ("n49999", "n0")]) == {("n49999", "n0")}


def test_many_far_references_in_a_long_chain_are_checked_in_bounded_time():
    needs = {f"n{index}": [f"n{index - 1}"] if index else [] for index in range(20_000)}
    far = [(f"n{random.Random(index).randrange(index - 2)}", f"n{index}") for index in range(3, 20_000)]

    assert graph.not_upstream(needs, far) == set()


def spec_of(needs):
    return SimpleNamespace(nodes={name: SimpleNamespace(needs=upstreams) for name, upstreams in needs.items()})


def test_compiling_numbers_nodes_in_spec_order_and_counts_each_edge_once():
    compiled = graph.compile_graph(spec_of({"late": ["a", "b", "a"], "a": [], "b": ["a"]}))

    assert [(node.node_no, node.id, node.n_up, node.is_leaf) for node in compiled.nodes] == [
        (0, "late", 2, True),
        (1, "a", 0, False),
        (2, "b", 1, False),
    ]
    assert compiled.edges == [(1, 0), (2, 0), (1, 2)]


def test_more_nodes_or_edges_than_the_engine_takes_are_refused():
    with pytest.raises(SpecError, match="100,001 nodes are more than 100,000"):
        graph.compile_graph(spec_of({f"n{index}": [] for index in range(100_001)}))
    wide = {f"u{index}": [] for index in range(500)} | {
        f"d{index}": [f"u{upstream}" for upstream in range(500)] for index in range(401)
    }
    with pytest.raises(SpecError, match="200,500 edges are more than 200,000"):
        graph.compile_graph(spec_of(wide))
