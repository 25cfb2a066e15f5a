"""SEMANTICS section 1 on real Postgres: rules, when, branch, retries, losses, outcomes. One thread, stub executor."""

from __future__ import annotations

import pytest

from agentflow.templates import render
from executors.stub import fail, skip, succeed
from tests.engine_kit import branch

# What two upstreams ended as: s(uccess) f(ailed) u(pstream_failed) k (skipped).
PAIRS = ["ss", "sf", "su", "sk", "ff", "fu", "fk", "uu", "uk", "kk"]
# What the node becomes: S it ran, U upstream_failed, K skipped.
RULES = {
    "all_success": "SUUKUUUUUK",
    "all_failed": "KUUKSSUSUK",
    "all_done": "SSSSSSSSSS",
    "all_done_min_one_success": "SSSSUUUUUK",
    "one_success": "SSSSUUUUUK",
    "one_failed": "KSSKSSSSSK",
    "one_done": "SSSSSSSUUK",
    "none_failed": "SUUSUUUUUS",
    "none_failed_min_one_success": "SUUSUUUUUK",
    "none_skipped": "SSSKSSUSUK",
    "all_skipped": "KUUKUUUUUS",
    "always": "SSSSSSSSSS",
}
WORDS = {"S": "success", "U": "upstream_failed", "K": "skipped"}


def test_every_rule_over_every_pair_of_upstreams(kit):
    nodes = {
        **{name: {} for name in ("s1", "s2", "f1", "f2")},
        **{name: {"needs": ["f1"]} for name in ("u1", "u2")},
        **{name: {"when": False} for name in ("k1", "k2")},
    }
    expected = {}
    for rule, outcomes in RULES.items():
        for pair, outcome in zip(PAIRS, outcomes, strict=True):
            nodes[f"{rule}_{pair}"] = {"trigger_rule": rule, "needs": [f"{pair[0]}1", f"{pair[1]}2"]}
            expected[f"{rule}_{pair}"] = WORDS[outcome]
    kit.apply(nodes)
    kit.stub.script("f1", fail())
    kit.stub.script("f2", fail())

    run = kit.run()

    states = kit.states(run)
    assert {name: states[name] for name in expected} == expected
    assert kit.state(run) == "failed"


@pytest.mark.parametrize(
    ("rule", "first", "then"),
    [
        ("all_success", fail(), "upstream_failed"),
        ("none_failed", fail(), "upstream_failed"),
        ("none_failed_min_one_success", fail(), "upstream_failed"),
        ("one_success", succeed(), "success"),
        ("one_failed", fail(), "success"),
        ("one_done", succeed(), "success"),
        ("one_done", fail(), "success"),
        ("all_success", succeed(), "pending"),
        ("all_failed", fail(), "pending"),
        ("all_done", fail(), "pending"),
        ("all_skipped", skip(), "pending"),
        ("one_success", fail(), "pending"),
        ("one_failed", succeed(), "pending"),
    ],
)
def test_a_rule_is_decided_as_soon_as_it_is_certain_and_not_before(kit, rule, first, then):
    kit.apply({"a": {}, "b": {}, "c": {"needs": ["a", "b"], "trigger_rule": rule}})
    kit.stub.script("a", first)
    kit.stub.hold("b")

    run = kit.run()

    assert kit.states(run)["b"] == "running"
    assert kit.states(run)["c"] == then


def test_always_starts_at_once(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"], "trigger_rule": "always"}})
    kit.stub.hold("a")
    run = kit.run()
    assert kit.states(run) == {"a": "running", "b": "success"}


WHENS = {
    True: "success",
    False: "skipped",
    "{{ nodes.a.output.n > 1 }}": "success",
    "{{ nodes.a.output.n > 2 }}": "skipped",
    "{{ nodes.a.output.nothing }}": "skipped",  # it is there, and null
    "{{ params.go }}": "success",
    "{{ nodes.a.output.n }}": "failed",  # a number is no answer
    "{{ nodes.a.output }}": "failed",
    "{{ 'true' }}": "failed",
    "{{ nodes.a.output.missing }}": "failed",
    "{{ 1 // 0 }}": "failed",
}


def test_when_runs_skips_or_fails_its_own_node_only(kit):
    names = {f"w{number}": when for number, when in enumerate(WHENS)}
    kit.apply(
        {
            "a": {},
            **{name: {"needs": ["a"], "when": when, "retries": 3} for name, when in names.items()},
            **{f"after_{name}": {"needs": [name], "trigger_rule": "all_done"} for name in names},
        },
        params={"go": {"type": "boolean", "default": True}},
    )
    kit.stub.script("a", succeed({"n": 2, "nothing": None}))

    run = kit.run()

    states = kit.states(run)
    assert {when: states[name] for name, when in names.items()} == WHENS
    assert {states[f"after_{name}"] for name in names} == {"success"}
    failed = [node for node in kit.nodes(run).values() if node["state"] == "failed"]
    assert all(node["attempt"] == 0 and node["error"]["message"] for node in failed)  # never retried


def test_when_is_not_evaluated_when_the_rule_says_no(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"], "when": "{{ nodes.a.output.missing }}"}})
    kit.stub.script("a", fail())
    assert kit.states(kit.run())["b"] == "upstream_failed"


def test_branch_skips_what_it_does_not_choose_whatever_the_rule(kit):
    kit.apply(
        {
            "choose": branch("yes"),
            "yes": {"needs": ["choose"]},
            "no": {"needs": ["choose"]},
            "stubborn": {"needs": ["choose"], "trigger_rule": "all_done"},
            "after_no": {"needs": ["no"]},
            "join": {"needs": ["yes", "no"], "trigger_rule": "none_failed_min_one_success"},
        }
    )

    run = kit.run()

    assert kit.states(run) == {
        "choose": "success",
        "yes": "success",
        "no": "skipped",
        "stubborn": "skipped",
        "after_no": "skipped",
        "join": "success",
    }
    assert kit.state(run) == "success"


def test_a_branch_may_choose_nothing_or_everything(kit):
    below = {"a": {"needs": ["choose"]}, "b": {"needs": ["choose"]}}
    kit.apply({"choose": branch()} | below)
    assert kit.states(kit.run()) == {"choose": "success", "a": "skipped", "b": "skipped"}
    kit.apply({"choose": branch("a", "b")} | below)
    assert kit.states(kit.run()) == {"choose": "success", "a": "success", "b": "success"}


def test_a_branch_takes_the_first_true_case_in_the_evaluator_and_never_an_executor(kit):
    cases = [{"when": "{{ params.n > 5 }}", "to": ["large"]}, {"when": "{{ params.n > 2 }}", "to": ["medium"]}]
    choose = {"type": "branch", "config": {"cases": cases, "default": ["small"]}}
    below = {name: {"needs": ["choose"]} for name in ("large", "medium", "small")}
    kit.apply({"choose": choose} | below, params={"n": {"type": "integer"}})
    for number, chosen in ((9, "large"), (5, "medium"), (1, "small")):
        run = kit.run(params={"n": number})
        assert {node for node, state in kit.states(run).items() if state == "success"} == {"choose", chosen}
        assert kit.nodes(run)["choose"]["output"] == [chosen]
    assert "choose" not in kit.started()
    kit.check_books()


def test_a_failed_branch_chooses_nothing_and_leaves_its_downstreams_to_their_rules(kit):
    choose = {"type": "branch", "retries": 3, "config": {"cases": [{"when": "{{ 7 }}", "to": ["a"]}]}}
    kit.apply({"choose": choose, "a": {"needs": ["choose"]}, "b": {"needs": ["choose"], "trigger_rule": "all_done"}})
    assert kit.states(kit.run()) == {"choose": "failed", "a": "upstream_failed", "b": "success"}


def test_an_output_that_is_not_there_is_null_in_a_join(kit):
    kit.apply(
        {
            "choose": branch("b"),
            "a": {"needs": ["choose"]},
            "b": {"needs": ["choose"]},
            "join": {
                "needs": ["a", "b"],
                "trigger_rule": "none_failed_min_one_success",
                "config": {"output": "{{ nodes.a.output or nodes.b.output }}"},
            },
        }
    )
    kit.stub.script("b", succeed({"from": "b"}))

    kit.run()

    workload = kit.stub.submitted[-1]
    assert workload.context["nodes"] == {
        "a": {"output": None, "state": "skipped"},
        "b": {"output": {"from": "b"}, "state": "success"},
    }
    assert render(workload.config, workload.context, literal=frozenset()) == {"output": {"from": "b"}}


def test_the_workload_has_params_run_and_variables(kit):
    from agentflow.settings_store import set_variable

    kit.call(set_variable, "city", "Bonn", actor="test")
    kit.call(set_variable, "unused", 1, actor="test")
    text = "{{ vars.city }} {{ params.n }} {{ run.triggered_by }}"
    kit.apply({"a": {"config": {"output": text}}}, params={"n": {"type": "integer", "default": 1}})

    kit.run(params={"n": 7})

    (workload,) = kit.stub.submitted
    assert workload.context["vars"] == {"city": "Bonn"}
    assert render(workload.config, workload.context, literal=frozenset()) == {"output": "Bonn 7 manual"}


# -- outcomes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nodes", "failing", "state"),
    [
        ({"a": {}, "b": {"needs": ["a"]}}, [], "success"),
        ({"a": {}, "b": {"needs": ["a"]}}, ["b"], "failed"),
        ({"a": {}, "b": {"needs": ["a"]}}, ["a"], "failed"),  # the leaf is upstream_failed
        ({"a": {}, "b": {"needs": ["a"], "trigger_rule": "all_done"}}, ["a"], "success"),  # handled
        ({"a": {}, "b": {"needs": ["a"], "trigger_rule": "one_failed"}}, ["a"], "success"),
        ({"a": {}, "b": {"needs": ["a"], "trigger_rule": "one_failed"}}, [], "success"),  # a skipped leaf is fine
        ({"a": {}, "b": {}}, ["a"], "failed"),  # another leaf's success does not help
        ({"a": {"when": False}, "b": {"needs": ["a"]}}, [], "success"),  # nothing ran
    ],
)
def test_the_leaves_decide_how_a_run_ends(kit, nodes, failing, state):
    kit.apply(nodes)
    for node in failing:
        kit.stub.script(node, fail())
    run = kit.run()
    assert kit.state(run) == state
    assert kit.show(run)["finished_at"] is not None


@pytest.mark.parametrize("length", [99, 100, 101, 250])
def test_a_long_chain_is_skipped_to_its_end(kit, length):
    chain = {f"n{i}": {"needs": [f"n{i - 1}"]} for i in range(1, length)}
    kit.apply({"n0": {}, **chain})
    kit.stub.script("n0", skip())
    run = kit.run()
    assert set(kit.states(run).values()) == {"skipped"}
    assert kit.state(run) == "success"
    assert len(kit.events(run, "node")) == length


def test_a_long_chain_below_a_when_fails_to_its_end(kit):
    chain = {f"n{i}": {"needs": [f"n{i - 1}"]} for i in range(1, 250)}
    kit.apply({"n0": {"when": "{{ 1 // 0 }}"}, **chain, "handler": {"needs": ["n249"], "trigger_rule": "one_failed"}})
    run = kit.run()
    states = kit.states(run)
    assert states.pop("n0") == "failed"
    assert states.pop("handler") == "success"
    assert set(states.values()) == {"upstream_failed"}
    assert kit.state(run) == "success"


def test_a_diamond_of_skips_that_are_cut_off_counts_each_upstream_once(kit):
    left = {f"l{i}": {"needs": [f"l{i - 1}"]} for i in range(1, 150)}
    right = {f"r{i}": {"needs": [f"r{i - 1}"]} for i in range(1, 120)}
    kit.apply({"l0": {"when": False}, "r0": {"when": False}, **left, **right, "end": {"needs": ["l149", "r119"]}})
    assert kit.states(kit.run())["end"] == "skipped"


def test_a_long_cascade_goes_on_without_waiting_for_the_poll(kit):
    kit.apply({"n0": {}, **{f"n{i}": {"needs": [f"n{i - 1}"]} for i in range(1, 350)}})
    kit.stub.script("n0", skip())
    run = kit.create()
    kit.starter.work()
    kit.tick()
    for _ in range(4):
        kit.loop.tick()
        assert kit.state(run) == "success" or kit.loop._pause() == 0.0
    assert kit.state(run) == "success"


@pytest.mark.parametrize("rule", ["always", "one_success", "one_done", "one_failed", "all_success"])
def test_no_rule_decides_a_node_before_its_branch_has_chosen(kit, rule):
    # Given a node below a branch and an upstream that ends first, in a way that satisfies an early rule or ends it
    ending = fail() if rule in ("one_failed", "all_success") else succeed()
    kit.stub.script("quick", ending)
    kit.stub.hold("gate")
    kit.apply(
        {
            "quick": {},
            "gate": {},
            "fork": branch("other", needs=["gate"]),
            "join": {"needs": ["quick", "fork"], "trigger_rule": rule},
            "other": {"needs": ["fork"]},
        }
    )
    run_id = kit.run()
    assert kit.states(run_id)["join"] == "pending"
    # When the branch leaves the node out
    kit.stub.release("gate")
    kit.settle()
    # Then it is skipped, whatever its rule and however early the other upstream ended
    assert kit.states(run_id)["join"] == "skipped"
