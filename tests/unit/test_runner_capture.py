"""Python's own output and that of child processes in one log, in the order in which it was written."""

from __future__ import annotations

import json
import os
import zlib

import pytest

from agentflow.runner.capture import Capture
from agentflow.runner.logs import LogBuffer
from agentflow.runner.masking import Masker
from agentflow.runner.termination import Termination


class Attempt:
    """A capture whose helper thread is slow: nothing is read from the pipes but by the attempt itself."""

    def __init__(self, pipes, children):
        self._chunks = []
        self._children = children
        self._capture = Capture(pipes, lifeline=-1, on_hangup=lambda: None, termination=Termination())
        self._capture.begin(LogBuffer(self._chunks.append, log_max=2**20, mask=Masker()))

    def prints(self, text, stream="stdout"):
        getattr(self._capture, stream).write(text)

    def child_prints(self, text, stream="stdout"):
        os.write(self._children[stream], text.encode())

    def log(self):
        self._capture.end()
        return [json.loads(line)[4] for chunk in self._chunks for line in zlib.decompress(chunk.data).splitlines()]


@pytest.fixture
def attempt():
    pairs = {stream: os.pipe() for stream in ("stdout", "stderr")}
    for reader, _ in pairs.values():
        os.set_blocking(reader, False)
    yield Attempt(
        {stream: reader for stream, (reader, _) in pairs.items()},
        {stream: writer for stream, (_, writer) in pairs.items()},
    )
    for pair in pairs.values():
        for fd in pair:
            os.close(fd)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_child_wrote_before_stands_before(attempt, stream):
    attempt.prints("first\n", stream)
    attempt.child_prints("second\n", stream)
    attempt.prints("third\n", stream)
    attempt.child_prints("fourth\n", stream)
    assert attempt.log() == ["first", "second", "third", "fourth"]


def test_an_unfinished_last_line_is_not_mixed_with_what_a_child_wrote_before(attempt):
    attempt.child_prints("from a child\n")
    attempt.prints("no line end")
    assert attempt.log() == ["from a child", "no line end"]


def test_a_child_does_not_get_into_a_line_that_is_printed_in_parts(attempt):
    attempt.prints("one ")
    attempt.child_prints("from a child\n")
    attempt.prints("line\n")
    assert attempt.log() == ["one line", "from a child"]


def test_a_line_that_a_child_began_is_gone_on_with_as_on_a_terminal(attempt):
    attempt.child_prints("downloading ... ")
    attempt.prints("done\n")
    assert attempt.log() == ["downloading ... done"]
