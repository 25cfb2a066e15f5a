"""Ends with a large output reach the loop once that is stored, others at once; nothing is dropped."""

from __future__ import annotations

import json
import queue
import threading
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.objects.store import ObjectStoreUnreachable
from agentflow.runner.output import encode
from agentflow.workload import Finished, Outcome, Started
from scheduler.outputs import INLINE_MAX, OutputWriter, is_large

RUN = uuid.UUID("019ada00-0000-7000-8000-000000000000")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
LARGE = json.dumps("x" * INLINE_MAX)


class Shelf:
    """A store whose door may be shut."""

    def __init__(self):
        self.objects = {}
        self.open = threading.Event()
        self.open.set()
        self.tried = threading.Semaphore(0)
        self.away = False

    def put(self, name, data):
        self.tried.release()
        if self.away:
            raise ObjectStoreUnreachable("object store s3://b not reachable: refused")
        self.open.wait(20)
        self.objects[name] = data


def end(number=1, output=LARGE, outcome=Outcome.SUCCESS):
    return Finished(f"{RUN}/0/-1/{number}", "token", outcome, NOW, NOW, output)


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def heard():
    return queue.Queue()


@pytest.fixture
def make(shelf, heard, tmp_path):
    writers = []

    def made(**keys):
        writer = OutputWriter(shelf, heard.put, **keys)
        writer.start(tmp_path / "spilled")
        writers.append(writer)
        return writer

    yield made
    shelf.open.set()
    for writer in writers:
        writer.stop()


def test_small_outputs_failures_and_starts_pass_at_once(make, shelf, heard):
    shelf.open.clear()
    writer = make()
    events = [Started(f"{RUN}/0/-1/1", "token", NOW), end(output='"x"'), end(2, None, Outcome.FAILED)]
    for event in events:
        writer.emit(event)
    assert [heard.get_nowait() for _ in events] == events
    assert shelf.objects == {}


def test_a_large_output_is_stored_before_the_loop_hears_of_the_end(make, shelf, heard):
    shelf.open.clear()
    writer = make()
    writer.emit(end())
    assert shelf.tried.acquire(timeout=20)
    assert heard.empty()
    shelf.open.set()
    event = heard.get(timeout=20)
    name = f"runs/2025_12/{RUN}/0.-1.1.json"
    assert shelf.objects == {name: LARGE.encode()}
    assert (event.output, event.outcome, event.token) == (None, Outcome.SUCCESS, "token")
    assert (event.stored.ref, event.stored.bytes) == (name, len(LARGE))
    assert event.stored.preview == LARGE[:1000]


def test_a_store_that_comes_back_in_time_takes_the_output(make, shelf, heard):
    shelf.away = True
    make().emit(end())
    for _ in range(3):
        assert shelf.tried.acquire(timeout=20)
    assert heard.empty()
    shelf.away = False
    assert heard.get(timeout=20).stored is not None


def test_without_it_the_attempt_is_lost_and_says_why(make, shelf, heard):
    shelf.away = True
    make(patience=0.0).emit(end())
    event = heard.get(timeout=20)
    assert (event.outcome, event.stored, event.output) == (Outcome.LOST, None, None)
    assert event.error.message == (
        f"its output of {len(LARGE):,} bytes could not be stored: object store s3://b not reachable: refused"
    )


def test_what_does_not_fit_into_memory_waits_in_files(make, shelf, heard, tmp_path):
    shelf.open.clear()
    writer = make(memory=5 * len(LARGE))
    for number in range(1, 11):
        writer.emit(end(number, json.dumps("ü" * INLINE_MAX + str(number), ensure_ascii=False)))
    assert len(list((tmp_path / "spilled").iterdir())) >= 5
    shelf.open.set()
    events = [heard.get(timeout=20) for _ in range(10)]
    assert all(event.stored is not None for event in events)
    assert sorted(json.loads(data)[INLINE_MAX:] for data in shelf.objects.values()) == sorted(map(str, range(1, 11)))
    writer.stop()
    assert list((tmp_path / "spilled").iterdir()) == []


def test_at_the_stop_what_is_not_stored_yet_is_lost_and_never_told_twice(make, shelf, heard):
    shelf.open.clear()
    writer = make()
    for number in range(1, 9):
        writer.emit(end(number))
    writer.stop()
    told = [heard.get_nowait() for _ in range(8)]
    assert {event.outcome for event in told} == {Outcome.LOST}
    shelf.open.set()
    for thread in writer._threads:
        thread.join(20)
    assert heard.empty()


@pytest.mark.parametrize(
    ("output", "large"),
    [
        ("x" * INLINE_MAX, False),
        ("x" * (INLINE_MAX + 1), True),
        ("ü" * (INLINE_MAX // 2), False),
        ("ü" * (INLINE_MAX // 2 + 1), True),
    ],
)
def test_large_is_what_has_more_bytes_than_a_row_keeps(output, large):
    assert is_large(output) is large


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_is_stored_is_what_was_returned(value):
    text = encode([value, "x" * INLINE_MAX], 2**24)
    shelf, heard = Shelf(), queue.Queue()
    writer = OutputWriter(shelf, heard.put)
    writer.emit(end(output=text))
    writer._finish(writer._stored(writer._queue.popleft()))
    read = json.loads(shelf.objects[heard.get_nowait().stored.ref])
    assert read == [value, "x" * INLINE_MAX]
    assert json.dumps(read) == json.dumps([value, "x" * INLINE_MAX])  # the order of keys too
