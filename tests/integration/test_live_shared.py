"""Feeds of two web processes that read changes of runs for each other through Redis: never older, never lost."""

from __future__ import annotations

import random
import uuid

import pytest

from agentflow.runs import delete_run, live, set_note
from tests.feed_kit import Clock, Sockets
from tests.live_kit import until
from webserver.live.changes import SharedChanges, Wanted, is_of_use
from webserver.live.runs import TURN, TURNS, RunFeed
from webserver.shared.link import RedisLink
from webserver.shared.turns import Turns

WORKSPACE = 1


class Process:
    """A web process as far as runs are concerned, with one socket, which checks what it is told."""

    def __init__(self, kit, redis_url: str, clock: Clock) -> None:
        self.kit = kit
        self.clock = clock
        self.sockets = Sockets()
        self.link = RedisLink(redis_url)
        self.reads = 0
        self.before_read = lambda: None
        self.feed = RunFeed(self.read, self.sockets, SharedChanges(self.read_changes, Turns(self.link, lambda: "t:")))
        self.seq = -1
        self.nodes: dict[str, str] = {}
        self.gone = False

    def read(self, _workspace, work):
        return self.kit.call(work)

    def read_changes(self, workspace, work):
        self.reads += 1
        self.before_read()
        return self.read(workspace, work)

    def work(self, passed: float = 1.0) -> float | None:
        wait = self.clock.work(self.feed, passed)
        for message in self.sockets.take("s"):
            if message.get("gone"):
                self.gone = True
                continue
            assert message["seq"] >= self.seq, "older than what was shown"
            assert (message["from"] is None) or message["from"] <= self.seq, "something is missing in between"
            self.seq = message["seq"]
            self.nodes |= {node["node"]: node["state"] for node in message["nodes"]}
        return wait


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def processes(kit, redis_server, clock, monkeypatch):
    monkeypatch.setattr("webserver.live.runs.SHARED_FROM", 0)
    made = [Process(kit, redis_server.url, clock) for _ in range(2)]
    yield made
    for each in made:
        each.link.close()


@pytest.fixture
def run(kit, processes):
    """A run that both watch."""
    kit.apply({"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}})
    run = kit.create()
    for each in processes:
        each.feed.join("s", WORKSPACE, uuid.UUID(run), live.WHOLE)
        each.work()
    return run


def seq_of(kit, run: str) -> int:
    return kit.row("SELECT event_seq FROM run WHERE id = :id", id=uuid.UUID(run)).event_seq


def note(kit, run: str, *processes: Process) -> int:
    seq = seq_of(kit, run)
    for each in processes:
        each.feed.note(WORKSPACE, {uuid.UUID(run): seq})
    return seq


def truth(kit, run: str) -> dict[str, str]:
    return {node["node"]: node["state"] for node in kit.show(run)["nodes"]}


def agree(kit, run: str, *processes: Process) -> None:
    for each in processes:
        assert (each.seq, each.nodes) == (seq_of(kit, run), truth(kit, run))


def test_one_reads_for_both(kit, run, processes) -> None:
    one, other = processes
    kit.finish(run)
    note(kit, run, one, other)
    one.work()
    before = other.reads
    other.work()
    assert other.reads == before
    agree(kit, run, one, other)


def test_what_is_small_is_read_by_each(kit, run, processes, monkeypatch) -> None:
    one, other = processes
    monkeypatch.setattr("webserver.live.runs.SHARED_FROM", 3)
    for changed, reads in ((3, 2), (0, 1), (0, 2)):  # the run has three nodes, a note none; the change before decides
        kit.finish(run) if changed else kit.call(set_note, run, str(seq_of(kit, run)), actor="test")
        note(kit, run, one, other)
        before = one.reads + other.reads
        one.work()
        other.work()
        assert one.reads + other.reads == before + reads
        agree(kit, run, one, other)


def test_who_comes_while_it_is_being_read_waits_a_moment(kit, run, processes) -> None:
    one, other = processes
    kit.finish(run)
    note(kit, run, one, other)
    before, waits = other.reads, []
    one.before_read = lambda: waits.append(other.work())
    one.work()
    assert waits == [pytest.approx(TURN)]
    other.work(TURN)
    assert other.reads == before
    agree(kit, run, one, other)


def test_who_waits_for_one_that_died_reads_in_the_end(kit, run, processes) -> None:
    one, other = processes
    kit.finish(run)
    note(kit, run, one, other)

    def die() -> None:
        raise OSError("killed")

    one.before_read = die
    with pytest.raises(OSError, match="killed"):
        one.work()
    before = other.reads
    looks = 0
    while other.seq < seq_of(kit, run):
        assert (other.work(TURN) is None) == (other.reads > before)
        looks += 1
    assert looks <= TURNS + 1
    agree(kit, run, other)
    one.before_read = lambda: None
    for _ in range(TURNS + 1):  # its own turn may still be held
        one.work(TURN)
    agree(kit, run, one)


def test_what_does_not_reach_far_enough_is_not_taken(kit, run, processes, monkeypatch) -> None:
    monkeypatch.setattr("webserver.shared.turns.HELD", 0.001)  # its turn is over when the run has ended
    one, other = processes
    kit.starter.work()
    note(kit, run, one, other)
    one.work()
    kit.finish(run)
    note(kit, run, other)
    other.work()
    agree(kit, run, other)
    note(kit, run, one)
    before = one.reads
    one.work()
    assert one.reads == before, "the other's change begins before its position"
    agree(kit, run, one, other)


def test_a_newcomer_is_told_what_is_true_now(kit, run, processes) -> None:
    """It may know from the API what this process was not told yet."""
    one, other = processes
    kit.starter.work()
    middle = note(kit, run, one, other)
    one.work()
    other.work()
    kit.finish(run)
    other.feed.join("s", WORKSPACE, uuid.UUID(run), middle)
    other.work()
    agree(kit, run, other)


def test_a_deleted_run_is_gone_whatever_others_have_read(kit, run, processes) -> None:
    one, other = processes
    kit.finish(run)
    note(kit, run, one, other)
    one.work()
    kit.call(delete_run, run, actor="test")
    other.feed.note(WORKSPACE, {uuid.UUID(run): -1})
    other.work()
    assert other.gone


def test_what_is_looked_for_after_lost_notifications_may_be_shared(kit, run, processes) -> None:
    one, other = processes
    kit.finish(run)
    one.feed.look()
    one.work()
    before = other.reads
    other.feed.look()
    other.work()
    assert other.reads == before
    agree(kit, run, one, other)


def test_too_many_to_name_are_read_from_the_database(kit, run, processes) -> None:
    one, other = processes
    kit.starter.work()
    note(kit, run, one, other)
    one.work()
    kit.finish(run)
    other.feed.note(WORKSPACE, None)
    other.work()
    agree(kit, run, other)


@pytest.mark.parametrize("way", ["kill", "freeze"])
def test_without_redis_each_reads_for_itself_and_nothing_is_lost(kit, run, processes, redis_server, way) -> None:
    one, other = processes
    kit.starter.work()
    note(kit, run, one, other)
    one.before_read = getattr(redis_server, way)  # in flight: it has the turn, and cannot give
    one.work()
    one.before_read = lambda: None
    other.work()
    agree(kit, run, one, other)
    kit.finish(run)
    note(kit, run, one, other)
    one.work()
    other.work()
    agree(kit, run, one, other)
    redis_server.start() if way == "kill" else redis_server.thaw()
    until(lambda: not one.link.away and not other.link.away, "Redis is found again")
    kit.call(set_note, run, "seen", actor="test")
    note(kit, run, one, other)
    before = one.reads + other.reads
    one.work()
    other.work()
    assert one.reads + other.reads == before + 1
    agree(kit, run, one, other)


class Chance:
    """Lets things happen in any order, notifications late or not at all."""

    def __init__(self, kit, run: str, processes: list[Process], redis_server, seed: int) -> None:
        self.kit, self.run, self.processes, self.redis_server = kit, run, processes, redis_server
        self.random = random.Random(seed)
        self.late: list[tuple[Process, int]] = []
        self.plan = [self.engine] * 4 + [self.hear] * 8 + [self.work] * 12 + [self.remark] * 4
        self.plan += [self.lose, self.look, self.come_back, self.forget]

    def step(self) -> None:
        self.random.choice(self.plan)()

    def engine(self) -> None:
        self.kit.starter.work()
        self.kit.tick()
        self.late += [(each, seq_of(self.kit, self.run)) for each in self.processes]

    def remark(self) -> None:
        self.kit.call(set_note, self.run, str(self.random.random()), actor="test")
        self.late += [(each, seq_of(self.kit, self.run)) for each in self.processes]

    def hear(self) -> None:
        if self.late:
            process, seq = self.late.pop(self.random.randrange(len(self.late)))
            process.feed.note(WORKSPACE, {uuid.UUID(self.run): seq})

    def lose(self) -> None:
        if self.late:
            self.late.pop(self.random.randrange(len(self.late)))

    def look(self) -> None:
        self.random.choice(self.processes).feed.look()

    def work(self) -> None:
        self.random.choice(self.processes).work(self.random.choice([TURN, 0.1]))

    def come_back(self) -> None:
        process = self.random.choice(self.processes)
        process.feed.join("s", WORKSPACE, uuid.UUID(self.run), process.seq)

    def forget(self) -> None:
        with self.redis_server.client() as client:
            client.flushall()


@pytest.mark.parametrize("seed", range(6))
def test_however_things_happen_nobody_goes_back_and_all_end_with_the_truth(
    kit, run, processes, redis_server, seed
) -> None:
    chance = Chance(kit, run, processes, redis_server, seed)
    for _ in range(150):
        chance.step()
    kit.finish(run)
    for each in processes:
        each.feed.look()
        for _ in range(TURNS + 2):
            each.work()
    agree(kit, run, *processes)


RUN = uuid.UUID(int=7)
GOOD = {"run": {"id": str(RUN)}, "from": 3, "seq": 5, "nodes": []}


@pytest.mark.parametrize(
    ("change", "after", "least", "expected"),
    [
        ({}, 3, 5, True),
        ({}, 4, 5, True),
        ({}, 3, 4, True),
        ({}, 2, 5, False),
        ({}, 3, 6, False),
        ({}, 3, None, False),
        ({"nodes": None, "reset": True}, 3, 5, True),
        ({"nodes": None}, 3, 5, False),
        ({"from": None}, 3, 5, False),
        ({"from": "3"}, 3, 5, False),
        ({"seq": "5"}, 3, 5, False),
        ({"run": {"id": "other"}}, 3, 5, False),
        ({"run": []}, 3, 5, False),
    ],
)
def test_which_changes_of_others_are_of_use(change, after, least, expected) -> None:
    assert is_of_use(GOOD | change, RUN, Wanted(after, least)) is expected


@pytest.mark.parametrize("document", [None, 3, [], "x", {}])
def test_what_is_no_change_is_of_no_use(document) -> None:
    assert not is_of_use(document, RUN, Wanted(3, 5))
