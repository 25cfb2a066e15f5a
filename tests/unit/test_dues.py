"""When gates look again: at each time that was noted, a few times at most, and never in a spin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from scheduler.dues import CLOCKS_APART, LOOK_AGAIN, MOST, Dues

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLL = 5.0


def at(seconds):
    return NOW + timedelta(seconds=seconds)


def noted(*seconds):
    dues = Dues()
    dues.note([at(each) for each in seconds], NOW, 0.0)
    return dues


def test_each_time_has_its_look():
    dues = noted(1, 0.5, 1)
    dues.note([at(3)], at(0.25), 0.25)
    looks, clock = [], 0.0
    while clock < 4:
        clock += dues.pause(clock, POLL)
        looks.append(clock)
        dues.found(at(clock), clock)
    assert looks == pytest.approx([0.5, 1, 3, 8])


def test_a_clock_that_is_behind_is_asked_a_few_times_and_not_for_ever():
    dues, looks = noted(1), []
    clock = dues.pause(0.0, POLL)
    while (pause := dues.pause(clock, POLL)) < POLL:
        looks.append(pause)
        clock += pause
    assert looks[0] == LOOK_AGAIN
    assert 4 <= len(looks) <= 8
    assert CLOCKS_APART / 2 <= clock - 1 <= CLOCKS_APART * 2


def test_what_was_found_keeps_what_is_due_a_moment_later():
    dues = noted(1, 1.01)
    dues.found(at(1.005), 1.02)  # the database's clock is behind ours
    assert dues.pause(1.02, POLL) == pytest.approx(0.01)
    dues.found(at(1.015), 1.03)
    assert dues.pause(1.03, POLL) == POLL


def test_only_the_first_times_are_kept():
    dues = noted(*range(MOST + 10, 0, -1))
    dues.note([at(0.5), at(1)], NOW, 0.0)
    assert dues.pause(0.0, POLL) == 0.5
    assert len(dues._times) == len(dues._known) == MOST
    assert dues._times[-1][0] == MOST - 1
