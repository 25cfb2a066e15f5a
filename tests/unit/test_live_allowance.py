"""How many messages a socket may send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webserver.live.allowance import BURST, EXCESS, RATE, Allowance


def test_a_burst_is_taken_then_refused_then_too_much() -> None:
    allowance = Allowance(0.0)
    verdicts = [allowance.take(0.0) for _ in range(BURST + EXCESS + 2)]
    assert verdicts == ["taken"] * BURST + ["refused"] * EXCESS + ["over"] * 2


def test_who_keeps_to_the_rate_is_never_refused() -> None:
    allowance = Allowance(0.0)
    for _ in range(BURST):
        allowance.take(0.0)
    assert {allowance.take(n / RATE) for n in range(1, 1000)} == {"taken"}


def test_who_waits_as_long_as_told_is_taken_again() -> None:
    allowance = Allowance(5.0)
    for _ in range(BURST + 50):
        allowance.take(5.0)
    assert allowance.wait == 3  # 50 refused ones and the next
    assert allowance.take(5.0 + allowance.wait) == "taken"


def test_who_goes_on_while_refused_is_over_however_evenly() -> None:
    allowance = Allowance(0.0)
    verdicts = [allowance.take(n / (2 * RATE)) for n in range(3 * (BURST + EXCESS))]
    assert verdicts.index("over") > verdicts.index("refused") > BURST


@given(st.lists(st.floats(0, 10), max_size=300))
def test_no_more_are_taken_than_burst_and_rate_allow(pauses) -> None:
    now, taken, allowance = 0.0, 0, Allowance(0.0)
    for pause in pauses:
        now += pause
        taken += allowance.take(now) == "taken"
    assert taken <= BURST + RATE * now + 1
