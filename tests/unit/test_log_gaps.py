"""What a log says about lines that the database would not take."""

from __future__ import annotations

import json
import zlib

from agentflow.workload import LogChunk
from scheduler import loggaps
from scheduler.loggaps import Gaps


def chunk(number: int, first: int, lines: int, attempt: str = "r/0/-1/1") -> LogChunk:
    return LogChunk(attempt, "t", number, first, lines, b"", 0)


def stored(gap: LogChunk) -> list:
    (line,) = zlib.decompress(gap.data).splitlines()
    return json.loads(line)


def test_chunks_that_follow_each_other_make_one_gap_in_place_of_the_first():
    gaps = Gaps()
    assert gaps.add(chunk(3, 40, 10), "full")
    assert not gaps.add(chunk(4, 50, 5), "full")
    ((_, gap),) = gaps.waiting()
    assert (gap.chunk_no, gap.first_seq, gap.lines) == (3, 40, 15)
    seq, at, stream, level, text = stored(gap)
    assert (seq, stream, level, text) == (40, "system", "error", "gap: lines 40 to 54 could not be stored: full")
    assert at > 0


def test_a_chunk_that_was_stored_in_between_parts_two_gaps():
    gaps = Gaps()
    assert gaps.add(chunk(0, 1, 10), "full")
    assert gaps.add(chunk(2, 21, 10), "full")
    assert gaps.add(chunk(0, 1, 10, attempt="r/1/-1/1"), "full")
    assert [(gap.first_seq, gap.lines) for _, gap in gaps.waiting()] == [(1, 10), (21, 10), (1, 10)]


def test_a_gap_waits_until_it_is_stored():
    gaps = Gaps()
    assert not gaps
    assert gaps.patience() is None
    gaps.add(chunk(0, 1, 10), "full")
    assert gaps.due()
    ((key, _),) = gaps.waiting()
    assert not gaps.due()
    assert 0 < gaps.patience() <= loggaps.RETRY
    assert gaps
    gaps.stored(key)
    assert not gaps


def test_gaps_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(loggaps, "MAX_GAPS", 2)
    gaps = Gaps()
    for attempt in "abc":
        gaps.add(chunk(0, 1, 10, attempt), "full")
    gaps.add(chunk(1, 11, 10, "a"), "full")  # one that is known goes on growing
    assert sorted(gap.lines for _, gap in gaps.waiting()) == [10, 20]
