from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.runner.capture import LineSplitter
from agentflow.runner.logs import AREA_SIZE, CHUNK_MAX, LINE_MAX, LogBuffer, read_pending
from agentflow.runner.masking import Masker

MIB = 2**20


def _buffer(log_max=MIB, secrets=(), **fields):
    chunks = []
    return LogBuffer(chunks.append, log_max=log_max, mask=Masker(secrets), **fields), chunks


def _rows(chunks):
    return [json.loads(line) for chunk in chunks for line in zlib.decompress(chunk.data).splitlines()]


def _texts(chunks):
    return [row[4] for row in _rows(chunks)]


def test_lines_are_numbered_over_chunks_without_gaps():
    log, chunks = _buffer()
    for number in range(5000):
        log.line(f"line {number} {'x' * 40}", "stdout")
    log.close()
    assert len(chunks) > 2
    assert [chunk.chunk_no for chunk in chunks] == list(range(len(chunks)))
    assert [row[0] for row in _rows(chunks)] == list(range(1, 5001))
    assert all(chunk.raw_bytes <= CHUNK_MAX for chunk in chunks)
    assert all(chunk.first_seq == _rows([chunk])[0][0] for chunk in chunks)


def test_an_attempt_that_prints_nothing_has_no_chunk():
    log, chunks = _buffer()
    log.close()
    assert chunks == []


def test_over_the_cap_lines_are_counted_and_the_last_line_says_so():
    log, chunks = _buffer(log_max=10_000)
    for _ in range(1000):
        log.line("x" * 99, "stdout")
    log.close()
    *kept, last = _texts(chunks)
    dropped = 100_000 - 100 * len(kept)
    assert last == f"truncated: {dropped} bytes dropped"
    assert [chunk.truncated_bytes for chunk in chunks][-1] == dropped
    assert sum(chunk.truncated_bytes for chunk in chunks[:-1]) == 0


def test_after_the_cap_no_shorter_line_slips_in():
    log, chunks = _buffer(log_max=500)
    log.line("x" * 600, "stdout")
    log.line("short", "stdout")
    log.close()
    assert _texts(chunks) == ["truncated: 607 bytes dropped"]


@pytest.mark.parametrize("char", ["x", "é", "\x01", "\U0001f600"])
def test_long_lines_are_split(char):
    log, chunks = _buffer(log_max=10 * MIB)
    log.line(char * (2 * LINE_MAX + 1), "stdout")
    log.close()
    assert [len(text) for text in _texts(chunks)] == [LINE_MAX, LINE_MAX, 1]


def test_nul_and_half_surrogates_become_replacement_characters():
    log, chunks = _buffer()
    log.line("a\0b\udc80c", "stdout")
    log.close()
    assert _texts(chunks) == ["a\ufffdb\ufffdc"]


def test_unknown_streams_and_levels_are_normalised():
    log, chunks = _buffer()
    log.line("a", 'x"y', "LOUD")
    log.close()
    assert _rows(chunks)[0][2:4] == ["system", "info"]


def test_pending_lines_can_be_read_from_the_area_after_a_crash():
    area = bytearray(AREA_SIZE)
    log, chunks = _buffer(area=area, number=7)
    log.line("sent", "stdout")
    log.flush()
    log.line("pending", "stderr")
    log.note_partial("stdout", b"unfinished")
    found = read_pending(bytes(area))
    assert _texts(chunks) == ["sent"]
    assert found.number == 7
    assert found.chunk is not None
    assert (found.chunk.chunk_no, found.chunk.first_seq) == (1, 2)
    assert _texts([found.chunk]) == ["pending"]
    assert found.partial == {"stdout": b"unfinished", "stderr": b""}


def test_nothing_pending_means_no_chunk():
    area = bytearray(AREA_SIZE)
    log, _ = _buffer(area=area, number=7)
    log.line("sent", "stdout")
    log.flush()
    assert read_pending(bytes(area)).chunk is None


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_lines_do_not_depend_on_how_the_bytes_arrive(pieces):
    def lines(parts):
        log, chunks = _buffer()
        splitter = LineSplitter("stdout")
        for part in parts:
            splitter.feed(part, log)
        splitter.finish(log)
        log.close()
        return _texts(chunks)

    assert lines(pieces) == lines([b"".join(pieces)])


def test_a_flood_without_line_ends_stays_bounded_and_hides_secrets():
    log, chunks = _buffer(log_max=100 * MIB, secrets=["topsecret"])
    splitter = LineSplitter("stdout")
    data = b"x" * 1000 + b"topsecret"
    for _ in range(1000):
        splitter.feed(data, log)
    splitter.finish(log)
    log.close()
    text = "".join(_texts(chunks))
    assert "topsecret" not in text
    assert "secret" not in text
    assert text.count("x") == 1_000_000
    assert text.count("***") == 1000
