"""How often the rights of sockets are looked at."""

from __future__ import annotations

import pytest

from webserver.live.guard import CHECK, PAUSE_MAX, pause_after


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, CHECK), (0.1, CHECK), (0.5, 10.0), (1.0, PAUSE_MAX), (60.0, PAUSE_MAX)]
)
def test_rounds_take_a_small_part_of_the_time_but_come_often_enough(took, pause) -> None:
    assert pause_after(took) == pause
