"""Random workflows against a plain model, in random orders; and random interference from three connections."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentflow.errors import AgentFlowError
from agentflow.states import TriggerRule
from executors.stub import fail, lose, skip, succeed
from tests.engine_kit import Kit

FINAL = {"success", "failed", "cancelled"}
NUMBERS = itertools.count()
MAX_ROUNDS = 500


# -- the model: what SEMANTICS section 1 says, written down once more ---------------------------------------------------
@dataclass(frozen=True)
class Step:
    """A node of a random workflow."""

    needs: tuple[int, ...] = ()
    rule: str = "all_success"
    when: object = None  #: None: it has none.
    endings: str = "s"  #: Of its attempts: s(uccess) f(ail) l(ose) k (skip); the last one goes on for ever.
    retries: int = 0
    chooses: frozenset[int] | None = None  #: A branch, and which nodes it chooses.
    items: tuple[str, ...] | None = None  #: Mapped: the endings of each index.


WHENS = {
    None: "go",
    True: "go",
    "{{ 1 < 2 }}": "go",
    False: "skip",
    "{{ none }}": "skip",
    "{{ 2 < 1 }}": "skip",
    "{{ 7 }}": "fail",
    "{{ 1 // 0 }}": "fail",
}
BAD = {"failed", "upstream_failed", "cancelled"}


def rule_says(rule: str, ups: list[str]) -> str:
    """`go`, or what the node becomes, once all its upstreams are final."""
    good, bad = ups.count("success"), sum(up in BAD for up in ups)
    ran, skipped = good + ups.count("failed") + ups.count("cancelled"), ups.count("skipped")
    go = {
        "all_success": good == len(ups),
        "all_failed": bad == len(ups),
        "all_done": True,
        "all_done_min_one_success": good > 0,
        "one_success": good > 0,
        "one_failed": bad > 0,
        "one_done": ran > 0,
        "none_failed": bad == 0,
        "none_failed_min_one_success": bad == 0 and good > 0,
        "none_skipped": skipped == 0,
        "all_skipped": skipped == len(ups),
        "always": True,
    }[rule]
    if go or not ups:
        return "go"
    return "upstream_failed" if bad else "skipped"


def attempts_end(step: Step) -> tuple[str, int]:
    """How a node's attempts end together, and how many it takes."""
    failures = losses = 0
    for number in itertools.count(1):
        ending = step.endings[min(number, len(step.endings)) - 1]
        if ending in "sk":
            return {"s": "success", "k": "skipped"}[ending], number
        failures, losses = failures + (ending == "f"), losses + (ending == "l")
        if failures > step.retries or losses > 5:
            return "failed", number
    raise AssertionError("unreachable")


def run_end(step: Step) -> tuple[str, int]:
    """State and attempts of a node, or of one index, whose rule is satisfied."""
    state = {"go": "success", "skip": "skipped", "fail": "failed"}[WHENS[step.when]]
    return (state, 0) if state != "success" or step.chooses is not None else attempts_end(step)


def mapped_end(step: Step) -> str:
    """State of a mapped node: failed if any index is, skipped if none ran, else success."""
    ends = {run_end(replace(step, endings=endings))[0] for endings in step.items or ()}
    return "failed" if "failed" in ends else "success" if "success" in ends else "skipped"


def expected(steps: list[Step]) -> tuple[dict[str, tuple[str, int]], str]:
    """State and number of attempts per node, and the run's state."""
    states: list[str] = []
    tries: list[int] = []
    for number, step in enumerate(steps):
        left_out = any(
            states[up] == "success" and steps[up].chooses is not None and number not in steps[up].chooses
            for up in step.needs
        )
        state = "skipped" if left_out else rule_says(step.rule, [states[up] for up in step.needs])
        count = 0
        if state == "go" and step.items is not None:
            state = mapped_end(step)
        elif state == "go":
            state, count = run_end(step)
        states.append(state)
        tries.append(count)
    inner = {up for step in steps for up in step.needs}
    leaves = [state for number, state in enumerate(states) if number not in inner]
    run = "failed" if {"failed", "upstream_failed"} & set(leaves) else "success"
    return {f"n{i}": both for i, both in enumerate(zip(states, tries, strict=True))}, run


def expected_indexes(steps: list[Step], there: Collection[str]) -> dict[str, tuple[str, int]]:
    """State and number of attempts per index of the mapped nodes whose rule let them begin."""
    return {
        f"n{number}[{index}]": run_end(replace(step, endings=endings))
        for number, step in enumerate(steps)
        for index, endings in enumerate(step.items or ())
        if f"n{number}[0]" in there
    }


# -- random workflows ---------------------------------------------------------------------------------------------------
@st.composite
def workflows(draw: st.DrawFn) -> list[Step]:
    size = draw(st.integers(1, 12))
    branches = [draw(st.integers(0, 3)) == 0 for _ in range(size)]
    steps = []
    for number in range(size):
        endings = st.sampled_from(["s"] * 6 + ["f"] * 3 + ["fs", "ffs", "ls", "lfls", "l", "k", "fk"])
        mapped = not branches[number] and draw(st.integers(0, 3)) == 0
        needs = draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else set()
        rules = [rule.value for rule in TriggerRule]
        steps.append(
            Step(
                needs=tuple(sorted(needs)),
                rule=draw(st.sampled_from(rules)),
                when=draw(st.sampled_from([None] * 8 + list(WHENS))),
                endings=draw(endings),
                items=tuple(draw(st.lists(endings, max_size=4))) if mapped else None,
                retries=draw(st.sampled_from([0, 0, 1, 2])),
                chooses=draw(st.frozensets(st.integers(number + 1, size), max_size=4)) if branches[number] else None,
            )
        )
    return steps


def nodes_of(steps: list[Step]) -> dict[str, dict[str, object]]:
    nodes = {}
    for number, step in enumerate(steps):
        node = {
            "needs": [f"n{up}" for up in step.needs],
            "trigger_rule": step.rule,
            "retries": step.retries,
            "retry_delay": "1h" if number % 2 else "0s",
        }
        if step.when is not None:
            node["when"] = step.when
        if step.chooses is not None:
            chosen = [f"n{other}" for other in sorted(step.chooses) if number in needs_of(steps, other)]
            node |= {"type": "branch", "config": {"cases": [{"when": True, "to": chosen}]}}
        if step.items is not None:
            node["for_each"] = list(range(len(step.items)))
            if number % 3 == 0:
                node["max_parallel"] = 2
        nodes[f"n{number}"] = node
    return nodes


def needs_of(steps: list[Step], number: int) -> tuple[int, ...]:
    return steps[number].needs if number < len(steps) else ()


def script(stub, steps: list[Step]) -> None:
    stub._scripts.clear()
    stub._held = {f"n{number}" for number in range(len(steps))}
    for number, step in enumerate(steps):
        kinds = {"s": succeed(), "f": fail(), "l": lose(), "k": skip()}
        stub.script(f"n{number}", *(kinds[ending] for ending in step.endings))
        for index, endings in enumerate(step.items or ()):
            stub.script(f"n{number}[{index}]", *(kinds[ending] for ending in endings))


def finish_some(kit, rng: random.Random, most: int) -> None:
    """End some of the running attempts, in any order."""
    running = kit.stub.running
    for workload in rng.sample(running, min(len(running), rng.randint(0, most))):
        kit.stub._end(workload, kit.stub._next_ending(workload))


def play(kit, run: str, rng: random.Random, most: int) -> None:
    """Let everything happen in a random order until the run has ended."""
    for _ in range(MAX_ROUNDS):
        if rng.random() < 0.4:
            kit.gates.work()
        kit.tick()
        finish_some(kit, rng, most)
        if not kit.stub.running and not kit.inbox._events:
            if kit.state(run) in FINAL:
                return
            kit.sql("UPDATE node_run SET resume_at = clock_timestamp() WHERE state = 'retrying'")
    raise AssertionError(f"the run did not end: {kit.states(run)}")


# A join whose upstreams end by failure, by a skip and by a success, in one batch.
@example(steps=[Step(endings="f"), Step(when=False), Step(), Step((0, 1, 2), "all_done")], seed=1, most=9)
@example(steps=[Step(chooses=frozenset({1})), Step((0,)), Step((0,)), Step((1, 2), "none_failed")], seed=1, most=1)
@example(steps=[Step(items=("s", "fs", "l")), Step((0,), "one_failed")], seed=1, most=1)
@example(steps=[Step(items=("k", "k"), when=None), Step((0,), "all_skipped", items=("s",))], seed=1, most=9)
@pytest.mark.timeout(300)  # on a busy machine
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=workflows(), seed=st.integers(0, 2**16), most=st.sampled_from([1, 2, 12]))
def test_every_order_and_batching_gives_what_the_model_says(kit, steps, seed, most):
    name = f"flow{next(NUMBERS)}"
    kit.apply(nodes_of(steps), name=name)
    script(kit.stub, steps)
    run = kit.create(name)
    kit.starter.work()

    play(kit, run, random.Random(seed), most)

    nodes, state = expected(steps)
    found = {node: (row["state"], row["attempt"]) for node, row in kit.nodes(run).items()}
    assert {node: both for node, both in found.items() if "[" not in node} == nodes
    assert {node: both for node, both in found.items() if "[" in node} == expected_indexes(steps, found.keys())
    assert kit.state(run) == state
    kit.check_books()
    kit.forget()


# -- interference -------------------------------------------------------------------------------------------------------
LAYERS, WIDTH = 4, 5
RULES = ["all_success", "all_done", "one_success", "none_failed", "one_failed"]


def layered(rng: random.Random) -> list[Step]:
    steps = []
    for layer in range(LAYERS):
        for _ in range(WIDTH):
            above = range((layer - 1) * WIDTH, layer * WIDTH) if layer else []
            steps.append(
                Step(
                    needs=tuple(sorted(rng.sample(above, 3))) if layer else (),
                    rule=rng.choice(RULES),
                    endings=rng.choice(["s", "s", "s", "f", "fs", "ls", "k"]),
                    retries=rng.choice([0, 1]),
                    when=rng.choice([None, None, None, "{{ 1 < 2 }}", "{{ 2 < 1 }}"]),
                )
            )
    return steps


def with_maps(rng: random.Random) -> list[Step]:
    """As `layered`, with some nodes mapped."""
    return [
        replace(step, items=tuple(rng.choice(["s", "f", "fs", "ls", "k"]) for _ in range(rng.randint(0, 4))))
        if rng.random() < 0.25
        else step
        for step in layered(rng)
    ]


def interfere(kit, ids: list[str], names: list[str], rng: random.Random) -> None:
    """Clear, mark and cancel at random; what is refused (an attempt runs, the run is being stopped) is left."""
    for _ in range(40):
        run, node = rng.choice(ids), rng.choice(names)
        acts = [
            kit.clear,
            lambda run, node: kit.clear(run, node, downstream=True),
            lambda run, node: kit.clear(run, only_failed=True),
            lambda run, node: kit.mark(run, node, rng.choice(["success", "failed", "skipped"])),
            lambda run, node: kit.mark(run, node, rng.choice(["success", "failed", "skipped"])),
            lambda run, node: kit.cancel(run) if rng.random() < 0.2 else None,
        ]
        with contextlib.suppress(AgentFlowError):
            rng.choice(acts)(run, node)


@pytest.mark.parametrize("seed", range(3))
def test_clear_mark_and_cancel_amid_finishes_leave_right_counters(kit, seed):
    # Given three runs whose attempts end in random order, while two others clear, mark and cancel
    rng = random.Random(seed)
    steps = layered(rng)
    kit.apply(nodes_of(steps))
    script(kit.stub, steps)
    ids = [kit.create() for _ in range(3)]
    kit.starter.work()
    names = [f"n{number}" for number in range(len(steps))]
    with ThreadPoolExecutor(2) as others:
        working = [others.submit(interfere, kit, ids, names, random.Random(f"{seed} {number}")) for number in (1, 2)]
        # When the engine works beside them
        while not all(future.done() for future in working):
            kit.gates.work()
            kit.tick()
            finish_some(kit, rng, 6)
            kit.sql("UPDATE node_run SET resume_at = clock_timestamp() WHERE state = 'retrying' AND node_no % 2 = 1")
    # Then nobody failed, every counter equals a recount, and every run comes to its end
    assert [future.exception() for future in working] == [None, None]
    kit.check_books()
    for run in ids:
        play(kit, run, rng, 20)
    kit.check_books()
    gaps = kit.rows("SELECT run_id, node_no FROM attempt GROUP BY 1, 2 HAVING max(attempt) <> count(*)")
    assert gaps == []


@pytest.fixture
def rivals(shared_engine, tmp_path):
    """Two more schedulers on the same database."""
    kits = [Kit(shared_engine, tmp_path / f"rival-{number}", parallelism=8) for number in (1, 2)]
    yield kits
    for kit in kits:
        kit.close()


def finish_until(kit, over: threading.Event, rng: random.Random) -> None:
    """One scheduler's work: claim, and end attempts in a random order."""
    while not over.is_set():
        kit.tick()
        finish_some(kit, rng, 4)
        kit.sql("UPDATE node_run SET resume_at = clock_timestamp() WHERE state = 'retrying' AND node_no % 2 = 1")


@pytest.mark.parametrize("seed", range(2))
def test_three_schedulers_finish_while_others_clear_mark_and_cancel(kit, rivals, seed):
    # Given three runs with mapped nodes, and three schedulers whose attempts end in random order, each in its own thread
    rng = random.Random(f"three {seed}")
    steps = with_maps(rng)
    kit.apply(nodes_of(steps))
    crew = [kit, *rivals]
    for each in crew:
        script(each.stub, steps)
        each.stub._context = rivals[0].stub._context  # few slots each, so that all get some
    ids = [kit.create() for _ in range(3)]
    kit.starter.work()
    names = [f"n{number}" for number in range(len(steps))]
    over = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(finish_until, each, over, random.Random(f"{seed} {n}")) for n, each in enumerate(crew)]
        # When somebody clears, marks and cancels meanwhile
        acting = threads.submit(interfere, kit, ids, names, random.Random(f"{seed} acts"))
        while not acting.done():
            kit.gates.work()
        over.set()
    # Then nobody failed, every counter equals a recount, and every run comes to its end
    assert [future.exception() for future in (*work, acting)] == [None] * 4
    assert min(len(each.stub.submitted) for each in crew) > 0
    kit.check_books()
    for _ in range(MAX_ROUNDS):
        for each in crew:
            finish_some(each, rng, 20)
            each.tick()
        kit.gates.work()
        kit.sql("UPDATE node_run SET resume_at = clock_timestamp() WHERE state = 'retrying'")
        if all(kit.state(run) in FINAL for run in ids):
            break
    assert {kit.state(run) for run in ids} <= FINAL
    kit.check_books()
    sent = [workload.attempt_id for each in crew for workload in each.stub.submitted]
    assert len(sent) == len(set(sent))
