"""The log writer on a real database: what it stores, what it gives up, and what readers are told."""

from __future__ import annotations

import json
import threading
import zlib

import pytest
from sqlalchemy import text

from agentflow.runs import read_logs
from agentflow.workload import LogChunk
from scheduler.logwriter import LogWriter
from tests.storage_kit import apply, create, make_spec

#: A disk on which no chunk of more than 160 bytes finds room.
FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF octet_length(new.data) > 160 THEN
    RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100';
  END IF;
  RETURN new;
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON log_chunk FOR EACH ROW EXECUTE FUNCTION full_disk();
"""


@pytest.fixture
def run_id(engine):
    with engine.begin() as connection:
        apply(connection, make_spec())
        return create(connection)["id"]


@pytest.fixture
def writer(engine):
    writer = LogWriter(engine.url.render_as_string(hide_password=False))
    writer.start()
    yield writer
    writer.stop()


class Source:
    """Makes the chunks of an attempt; counts how many were acknowledged."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._made = 0
        self._acknowledged = threading.Semaphore(0)

    def chunk(self, number: int, first: int, texts: list[str]) -> LogChunk:
        lines = "".join(json.dumps([first + i, 1.5, "stdout", "info", told]) + "\n" for i, told in enumerate(texts))
        self._made += 1
        return LogChunk(
            f"{self._run_id}/0/-1/1", "token", number, first, len(texts), zlib.compress(lines.encode(), 0), len(lines),
            stored=self._acknowledged.release,
        )  # fmt: skip

    def wait(self) -> None:
        """Until all were acknowledged."""
        for _ in range(self._made):
            assert self._acknowledged.acquire(timeout=20)
        self._made = 0


def told(engine, run_id: str, **keywords) -> list[tuple[int, str]]:
    with engine.connect() as connection:
        return [(line["seq"], line["text"]) for line in read_logs(connection, run_id, **keywords)]


def test_chunks_are_stored_once_and_acknowledged(engine, writer, run_id):
    source = Source(run_id)
    for _ in range(2):  # the second time as after a lost answer to a commit
        writer.put(source.chunk(0, 1, ["one", "two"]))
        writer.put(source.chunk(1, 3, ["three"]))
        source.wait()
    assert told(engine, run_id) == [(1, "one"), (2, "two"), (3, "three")]
    assert writer.dropped == 0


def test_what_finds_no_room_is_told_in_its_place_and_takes_nothing_along(engine, writer, run_id):
    with engine.begin() as connection:
        connection.execute(text(FULL))
    source = Source(run_id)
    writer.put(source.chunk(0, 1, ["one"]))
    writer.put(source.chunk(1, 2, ["x" * 200, "y"]))
    writer.put(source.chunk(2, 4, ["x" * 200]))
    writer.put(source.chunk(3, 5, ["five"]))
    source.wait()
    writer.stop()
    gap = "gap: lines 2 to 4 could not be stored: could not extend file"
    assert writer.dropped == 2
    assert told(engine, run_id) == [(1, "one"), (2, gap), (5, "five")]
    assert told(engine, run_id, after=2) == [(5, "five")]


def test_gaps_are_stored_once_there_is_room_again(engine, writer, run_id):
    with engine.begin() as connection:
        connection.execute(text(FULL.replace("> 160", "> 0")))
    source = Source(run_id)
    writer.put(source.chunk(0, 1, ["one"]))
    source.wait()
    assert told(engine, run_id) == []
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER full_disk ON log_chunk"))
    writer.stop()  # tries once more
    assert told(engine, run_id) == [(1, "gap: lines 1 to 1 could not be stored: could not extend file")]


def test_lines_that_are_missing_without_a_word_are_told_too(engine, writer, run_id):
    source = Source(run_id)
    writer.put(source.chunk(1, 4, ["four"]))
    writer.put(source.chunk(2, 5, ["five"]))
    writer.put(source.chunk(4, 8, ["eight"]))
    source.wait()
    first, second = "gap: lines 1 to 3 are missing", "gap: lines 6 to 7 are missing"
    assert told(engine, run_id) == [(1, first), (4, "four"), (5, "five"), (6, second), (8, "eight")]
    assert told(engine, run_id, after=5) == [(6, second), (8, "eight")]
