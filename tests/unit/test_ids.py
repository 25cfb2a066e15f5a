"""Run ids: their time is their order, and the boundaries of partitions."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from agentflow.ids import fencing_token, uuid7, uuid7_floor, uuid7_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=200_000)).map(lambda age: EPOCH + age)
MILLISECOND = timedelta(milliseconds=1)


@given(MOMENTS)
def test_an_id_carries_its_millisecond_and_says_that_it_is_version_7(at):
    made = uuid7(at)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert timedelta(0) <= at - uuid7_time(made) < MILLISECOND


@given(MOMENTS, MOMENTS)
def test_ids_of_different_milliseconds_sort_by_time(one, other):
    first, second = sorted([one, other])
    if second - uuid7_time(uuid7(first)) >= MILLISECOND:
        assert uuid7(first) < uuid7(second)


@given(MOMENTS)
def test_the_floor_of_a_millisecond_is_below_its_ids_and_above_those_before(at):
    start = uuid7_time(uuid7(at))
    assert uuid7_floor(start) < uuid7(at)
    if start > EPOCH:
        assert uuid7(start - MILLISECOND) < uuid7_floor(start)


@given(MOMENTS)
def test_the_time_zone_of_the_moment_does_not_matter(at):
    elsewhere = at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert uuid7_floor(elsewhere) == uuid7_floor(at)
    assert uuid7_time(uuid7(elsewhere)) == uuid7_time(uuid7(at))


def test_many_ids_of_one_millisecond_differ():
    at = datetime(2026, 11, 22, tzinfo=UTC)
    assert len({uuid7(at) for _ in range(10_000)}) == 10_000


def test_without_a_moment_the_wall_clock_is_taken():
    before = datetime.now(UTC)
    assert before - MILLISECOND < uuid7_time(uuid7()) <= datetime.now(UTC)


def test_fencing_tokens_have_128_bits():
    tokens = {fencing_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(bytes.fromhex(token)) for token in tokens} == {16}
