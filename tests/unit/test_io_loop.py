from __future__ import annotations

import threading

import pytest

from executors.processes import io_loop


@pytest.fixture
def loop():
    loop = io_loop.IoLoop(lambda: None, "test-loop")
    loop.start()
    yield loop
    loop.call(loop.stop)
    assert loop.join(5)


def test_a_call_that_comes_while_wakes_are_read_does_not_silence_later_ones(loop, monkeypatch):
    first, second = threading.Event(), threading.Event()
    read = io_loop.os.read
    calls = [first.set]

    def read_late(fd, size):
        if fd == loop._wake_read and calls:
            loop.call(calls.pop())  # as another thread may do just then
        return read(fd, size)

    monkeypatch.setattr(io_loop.os, "read", read_late)
    loop.call(lambda: None)
    assert first.wait(5)
    loop.call(second.set)
    assert second.wait(5)


def test_one_bad_call_does_not_end_the_loop(loop, caplog):
    done = threading.Event()
    loop.call(lambda: 1 / 0)
    loop.call(done.set)
    assert done.wait(5)
    assert "executor_loop_error" in caplog.text
