"""Reading cron expressions: what is accepted means what Debian's cron means; the rest is refused with a hint."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from agentflow.triggers.errors import InvalidTrigger
from agentflow.triggers.expression import ALIASES, parse_cron

SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)

#: expression, a word of the message, a word of the hint
REFUSED = [
    ("", "0 of the five", "0 6 * * 1-5"),
    ("* * * *", "4 of the five", "0 6 * * 1-5"),
    ("0 0 6 * * *", "6 fields", "seconds"),
    ("0 0 6 * * * 2026", "7 fields", "year"),
    ("@reboot", "@reboot", "by hand"),
    ("@annually", "not supported", "@yearly"),
    ("@midnight", "not supported", "@daily"),
    ("@every 5m", "not known", "@hourly"),
    ("0 0 L * *", "`L`", "28-31"),
    ("0 0 LW * *", "`L`", "28-31"),
    ("0 0 L-3 * *", "`L`", "28-31"),
    ("0 0 * * 5L", "`L`", "28-31"),
    ("0 0 * * friL", "`L`", "28-31"),
    ("0 0 15W * *", "`W`", "1-5"),
    ("0 0 * * mon#1", "`#`", "every week"),
    ("0 0 * * 1#2", "`#`", "every week"),
    ("0 0 ? * 1", "`?`", "write `*`"),
    ("H * * * *", "`H`", "jitter"),
    ("H/15 * * * *", "`H`", "jitter"),
    ("H(0-29) * * * *", "`H`", "jitter"),
    ("*/0 * * * *", "is 0", "begin at 1"),
    ("5-10/0 * * * *", "is 0", "begin at 1"),
    ("*/61 * * * *", "larger", "interval"),
    ("*/90 * * * *", "larger", "interval"),
    ("0 */25 * * *", "larger", "interval"),
    ("0 0 */32 * *", "larger", "interval"),
    ("0 0 1 */13 *", "larger", "interval"),
    ("0 0 * * */8", "larger", "interval"),
    ("30-10 * * * *", "backwards", "30-59,0-10"),
    ("0 22-2 * * *", "backwards", "22-23,0-2"),
    ("0 0 * nov-feb *", "backwards", "11-12,1-2"),
    ("0 0 * * sat-sun", "backwards", "6,0"),
    ("0 0 * * fri-mon", "backwards", "5-6,0-1"),
    ("60 * * * *", "60 is out of range", "0 to 59"),
    ("0 24 * * *", "24 is out of range", "midnight is 0"),
    ("0 0 0 * *", "0 is out of range", "1 to 31"),
    ("0 0 32 * *", "32 is out of range", "1 to 31"),
    ("0 0 1 0 *", "0 is out of range", "1 to 12"),
    ("0 0 1 13 *", "13 is out of range", "1 to 12"),
    ("0 0 * * 8", "8 is out of range", "0 to 7"),
    ("0 0 * * 1-8", "8 is out of range", "0 to 7"),
    ("0 0 * foo *", "cannot read 'foo'", "jan-dec"),
    ("0 0 jan * *", "cannot read 'jan'", "1 to 31"),
    ("0 0 * mon *", "cannot read 'mon'", "jan-dec"),
    ("0 0 * * monday", "cannot read 'monday'", "sun-sat"),
    ("0 0 * * jan", "cannot read 'jan'", "sun-sat"),
    ("-1 * * * *", "cannot read '-1'", "0 to 59"),
    ("1- * * * *", "cannot read '1-'", "0 to 59"),
    ("1-2-3 * * * *", "cannot read '1-2-3'", "0 to 59"),
    ("1,,2 * * * *", "cannot read ''", "0 to 59"),
    ("1, * * * *", "cannot read ''", "0 to 59"),
    ("*5 * * * *", "cannot read '*5'", "0 to 59"),
    ("*-5 * * * *", "cannot read '*-5'", "0 to 59"),
    ("*/ * * * *", "cannot read '*/'", "0 to 59"),
    ("/5 * * * *", "cannot read '/5'", "0 to 59"),
    ("*/5/2 * * * *", "cannot read '*/5/2'", "0 to 59"),
    ("1.5 * * * *", "cannot read '1.5'", "0 to 59"),
    ("+5 * * * *", "cannot read '+5'", "0 to 59"),
    ("٣ * * * *", "cannot read", "0 to 59"),
    ("² * * * *", "cannot read", "0 to 59"),
    ("99999999999999999999 * * * *", "cannot read", "0 to 59"),
    ("0 0 30 2 *", "does not fire", "the day"),
    ("0 0 31 2,4,6,9,11 *", "does not fire", "the day"),
    ("0 0 31 feb */2", "does not fire", "the day"),
    ("1," * 600 + "1 * * * *", "characters", None),
]


@pytest.mark.parametrize(("text", "message", "hint"), REFUSED)
def test_expression_is_refused_with_a_hint(text, message, hint):
    with pytest.raises(InvalidTrigger) as refusal:
        parse_cron(text)
    [problem] = refusal.value.problems
    assert problem.path == "cron"
    assert message in problem.message
    assert (hint is None) or hint in (problem.hint or "")


@pytest.mark.parametrize("value", [None, 5, 0.5, True, ["0 0 * * *"], {"minute": 0}])
def test_expression_that_is_not_text_is_refused(value):
    with pytest.raises(InvalidTrigger, match="is text"):
        parse_cron(value)


@pytest.mark.parametrize("hint", [hint for _, message, hint in REFUSED if message == "backwards"])
def test_hint_of_a_backward_range_can_be_pasted(hint):
    assert any(
        _is_accepted(template.format(hint)) for template in ("{} * * * *", "0 {} * * *", "0 0 * {} *", "0 0 * * {}")
    )


def _is_accepted(text: str) -> bool:
    try:
        parse_cron(text)
    except InvalidTrigger:
        return False
    return True


@pytest.mark.parametrize(("alias", "text"), ALIASES.items())
def test_alias_is_its_five_fields(alias, text):
    assert parse_cron(f" {alias.upper()} ") == parse_cron(text)


def test_both_sundays_are_one_day():
    assert {parse_cron(f"0 0 * * {day}").weekdays for day in ("0", "7", "sun", "Sun", "0,7", "7-7")} == {frozenset({0})}


@pytest.mark.parametrize(
    ("text", "elapsed"),
    [
        ("* 2 * * *", True),
        ("*/5 2 * * *", True),
        ("0 * * * *", True),
        ("0 */2 * * *", True),
        ("0-59 2 * * *", False),
        ("0 0-23 * * *", False),
        ("5 2 * * *", False),
    ],
)
def test_star_in_minute_or_hour_means_elapsed_time(text, elapsed):
    assert parse_cron(text).follows_elapsed_time is elapsed


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("0 0 13 * 5", False),
        ("0 0 1-31 * 5", False),
        ("0 0 * * 5", True),
        ("0 0 13 * *", True),
        ("0 0 */2 * 5", True),
        ("0 0 13 * */2", True),
        ("0 0 *,13 * 5", True),
    ],
)
def test_day_fields_are_joined_by_or_only_if_neither_begins_with_a_star(text, both):
    assert parse_cron(text).needs_both_days is both


NAMES = {
    3: ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    4: ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


@st.composite
def field_texts(draw: st.DrawFn, index: int) -> tuple[str, set[int]]:
    """A field's text and the numbers it stands for."""
    low, high = BOUNDS[index]
    texts, numbers = [], set()
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
        step = draw(st.integers(1, high - low))
        write = _name(draw, index, low)
        text, found = draw(
            st.sampled_from(
                [
                    ("*", range(low, high + 1)),
                    (f"*/{step}", range(low, high + 1, step)),
                    (write(first), range(first, first + 1)),
                    (f"{write(first)}/{step}", range(first, high + 1, step)),
                    (f"{write(first)}-{write(last)}", range(first, last + 1)),
                    (f"{write(first)}-{write(last)}/{step}", range(first, last + 1, step)),
                ]
            )
        )
        texts.append(text)
        numbers |= set(found)
    return ",".join(texts), numbers


def _name(draw: st.DrawFn, index: int, low: int):
    change = draw(st.sampled_from([str.lower, str.upper, str.title]))
    names = NAMES.get(index) if draw(st.booleans()) else None
    return lambda number: change(names[number - low]) if names and number - low < len(names) else str(number)


@given(st.tuples(*(field_texts(index) for index in range(5))))
def test_reading_gives_the_numbers_that_were_written(fields):
    minutes, hours, days, months, weekdays = (numbers for _, numbers in fields)
    texts = [text for text, _ in fields]
    if min(days) > 28:  # may never come
        days, texts[2] = {1}, "1"
    if texts[2].startswith("*") or texts[4].startswith(
        "*"
    ):  # both must hold: on one day of a year, that may never come
        months, texts[3] = set(range(1, 13)), "*"
    expression = parse_cron(" ".join(texts))
    assert expression.minutes == minutes
    assert expression.hours == hours
    assert expression.days == days
    assert expression.months == months
    assert expression.weekdays == {number % 7 for number in weekdays}
    assert parse_cron(expression.text) == expression


@given(st.text(alphabet="0123456789*/,-LW#?H @jansumo", max_size=30) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    assert not _is_accepted(text) or CronSim(parse_cron(text).text, SOME_DAY)  # cronsim accepts all that we accept
