from __future__ import annotations

import os
import signal
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.runner import wire
from agentflow.workload import Outcome, Workload
from executors.processes.deadlines import Deadlines
from executors.processes.handle import Handle
from executors.processes.item import Item
from executors.processes.outcomes import ProcessEnd, StopReason, died, stopped
from executors.processes.prefetch import Prefetch
from executors.processes.protocol import Breach


@pytest.mark.parametrize(
    ("status", "breach", "outcome", "kind"),
    [
        (3 << 8, None, Outcome.FAILED, "ExitCode"),
        (0, None, Outcome.FAILED, "ExitCode"),
        (signal.SIGSEGV, None, Outcome.FAILED, "Signal"),
        (signal.SIGTERM, None, Outcome.FAILED, "Signal"),
        (signal.SIGKILL, None, Outcome.LOST, "Lost"),
        (signal.SIGKILL, Breach.MEMORY, Outcome.FAILED, "OutOfMemory"),
        (signal.SIGKILL, Breach.PROCESSES, Outcome.FAILED, "TooManyProcesses"),
        (signal.SIGKILL, Breach.CPU, Outcome.FAILED, "CpuTimeExceeded"),
        (signal.SIGXCPU, None, Outcome.FAILED, "CpuTimeExceeded"),
        (signal.SIGSEGV | 128, None, Outcome.FAILED, "Signal"),  # with a core dump
    ],
)
def test_lost_or_failed(status, breach, outcome, kind):
    found, error = died(ProcessEnd(int(status), breach))
    assert (found, error.type) == (outcome, kind)


@pytest.mark.parametrize(
    ("reason", "outcome", "kind"),
    [
        (StopReason.CANCEL, Outcome.CANCELLED, "Cancelled"),
        (StopReason.TIMEOUT, Outcome.FAILED, "Timeout"),
        (StopReason.SHUTDOWN, Outcome.LOST, "Shutdown"),
    ],
)
def test_what_we_stopped(reason, outcome, kind):
    found, error = stopped(reason, 2.5)
    assert (found, error.type) == (outcome, kind)


def _prefetch(*durations):
    prefetch = Prefetch()
    for duration in durations:
        prefetch.observe(duration)
    return prefetch.queue, prefetch.pipeline


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ((), (0, 1)),
        ((0.0001,) * 10, (64, 16)),
        ((0.002,) * 10, (20, 1)),
        ((0.010,) * 10, (0, 1)),
        ((3.0,), (0, 1)),
        ((0.0001,) * 100 + (1.0,), (0, 1)),  # one long attempt is enough to stop looking ahead
    ],
)
def test_how_far_to_look_ahead(durations, expected):
    assert _prefetch(*durations) == expected


def test_short_attempts_bring_the_queue_back():
    assert _prefetch(1.0, *[0.0001] * 100) == (64, 16)


@given(st.lists(st.tuples(st.integers(1, 20), st.binary(max_size=50)), max_size=20), st.integers(1, 30))
def test_messages_do_not_depend_on_how_the_bytes_arrive(messages, step):
    data = b"".join(wire.frame(kind, body) for kind, body in messages)
    reader = wire.FrameReader()
    found = [frame for start in range(0, len(data), step) for frame in reader.feed(data[start : start + step])]
    assert found == messages


def test_garbage_is_not_taken_for_a_huge_message():
    with pytest.raises(wire.WireError):
        wire.FrameReader().feed(b"\xff" * 10)


def test_deadlines_come_in_order_and_ended_attempts_are_forgotten():
    deadlines = Deadlines()
    still_open = {f"a{number}" for number in range(3)}
    for number in range(10_000):
        deadlines.add(float(number), f"a{number}", still_open)
    assert len(deadlines._heap) < 3000
    assert deadlines.first == 0.0
    assert deadlines.pop_due(2.0)[:3] == ["a0", "a1", "a2"]


def _item(number):
    workload = Workload(
        attempt_id=f"r/{number}/-1/1",
        token="t",
        run_id="r",
        workspace="w",
        workflow="f",
        version=1,
        node="n",
        attempt=1,
        type="noop",
        config={},
    )
    return Item(workload)


@pytest.fixture
def handle():
    handle = Handle(1)
    yield handle
    handle.close()


def test_what_a_runner_has_not_begun_can_be_taken_back(handle):
    items = [_item(number) for number in range(5)]
    for item in items[:3]:
        handle.hand_over(item, 0.0)
    handle.flush()
    os.read(handle.token_read, 1)  # the runner begins the first
    for item in items[3:]:
        handle.hand_over(item, 0.0)
    assert handle.take_back() == items[1:]
    assert handle.items == deque(items[:1])
    handle.flush()
    assert handle.take_back() == []


def test_a_workload_handed_over_again_gets_another_number(handle):
    item = _item(1)
    handle.hand_over(item, 0.0)
    first = item.seq
    handle.take_back()
    handle.hand_over(item, 0.0)
    assert item.seq > first
    assert handle.item(first) is None
    assert handle.item(item.seq) is item


def test_a_runner_that_was_told_to_discard_reads_only_what_is_left(handle):
    for number in range(3):
        handle.hand_over(_item(number), 0.0)
    handle.flush()
    os.read(handle.token_read, 1)
    handle.take_back()
    handle.hand_over(_item(9), 0.0)
    handle.flush()
    frames = wire.FrameReader().feed(handle.remote_sock.recv(65536))
    seqs = [(kind, wire.SEQ_BODY.unpack_from(body)[0]) for kind, body in frames]
    assert seqs == [(wire.RUN, 1), (wire.RUN, 2), (wire.RUN, 3), (wire.DISCARD, 2), (wire.RUN, 4)]
