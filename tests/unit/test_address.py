"""Addresses of node runs and sub-runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import UsageError
from agentflow.runs.address import MAX_LENGTH, Step, format_address, parse_address

READ = [
    ("fetch", (Step("fetch"),)),
    ("fetch[3]", (Step("fetch", 3),)),
    ("sub", (Step("sub"),)),
    ("loop.sub[2]", (Step("loop", None, 2),)),
    ("loop.sub[2].fetch[3]", (Step("loop", None, 2), Step("fetch", 3))),
    ("a-b[0].sub[1].c.sub[0].d", (Step("a-b", 0, 1), Step("c", None, 0), Step("d"))),
]


@pytest.mark.parametrize(("text", "steps"), READ)
def test_an_address_is_read_step_by_step(text, steps):
    assert parse_address(text) == steps


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", "a.b", "a[", "a[x]", "a[-1]", "a[1][2]", "a.sub", "a.sub[1].", "a.sub[1][2]", "[1]", "9a", "a b",
     "a.sub[1]b", "a" * (MAX_LENGTH + 1), "a\n", "a[1]\n", "ä"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="not an address"):
        parse_address(text)


nodes = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)
numbers = st.integers(0, 10**9 - 1)
inner = st.builds(Step, nodes, st.none() | numbers, numbers)
last = st.builds(Step, nodes, st.none() | numbers, st.none() | numbers)


@given(st.tuples(st.lists(inner, max_size=5), last).map(lambda both: (*both[0], both[1])))
def test_what_is_written_is_read_back(steps):
    assert parse_address(format_address(steps)) == steps


@given(st.text(alphabet="ab.[]0sub9\n-_", max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        steps = parse_address(text)
    except UsageError:
        return
    assert format_address(steps) == text or "[0" in text  # leading zeros are dropped
