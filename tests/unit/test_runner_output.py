from __future__ import annotations

import enum
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentflow.runner.output import DEPTH_MAX, OutputInvalid, encode

MIB = 2**20
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


class Model(BaseModel):
    a: int = 1


class Number(enum.IntEnum):
    ONE = 1


@given(JSON)
def test_every_json_value_comes_back_equal(value):
    assert json.loads(encode(value, MIB)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "output is nan"),
        ({"rows": [0, {"at": float("inf")}]}, "output.rows[1].at is inf"),
        ({"a b": b"x"}, "output['a b'] is bytes"),
        ([{1}], "output[0] is a set; return a list"),
        ({"a": {1: 2}}, "output.a has the key 1 of type int"),
        ({None: 1}, "output has the key None"),
        ("a\0b", r"output contains the character \u0000"),
        ({"a\0": 1}, r"output['a\x00'] contains the character \u0000"),
        ("\ud800", "output contains half of a surrogate pair"),
        ({"m": Model()}, 'output.m is a Model object; return its `.model_dump(mode="json")`'),
        ([datetime(2026, 1, 1, tzinfo=UTC)], "output[0] is a datetime; return its `.isoformat()`"),
        (object(), "output is of type object, not JSON"),
        (lambda: 1, "output is of type function, not JSON"),
    ],
)
def test_what_is_not_json_is_named_with_its_path(value, message):
    with pytest.raises(OutputInvalid) as raised:
        encode(value, MIB)
    assert str(raised.value).startswith(message)


def test_a_value_that_contains_itself_is_an_error():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(OutputInvalid, match="nested deeper"):
        encode(loop, MIB)


def test_the_deepest_allowed_nesting_passes():
    value: object = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    assert encode(value, MIB).startswith("[[")
    with pytest.raises(OutputInvalid):
        encode([value], MIB)


def test_an_integer_beyond_pythons_conversion_limit_is_an_error():
    with pytest.raises(OutputInvalid, match="cannot be written as JSON"):
        encode(10**5000, MIB)


@pytest.mark.parametrize("value", ["x" * 99, "é" * 49 + "x", [1] * 49 + [10]])
def test_the_limit_counts_bytes_of_the_text(value):
    size = len(encode(value, MIB).encode())
    assert encode(value, size)
    with pytest.raises(OutputInvalid, match="AGENTFLOW_OUTPUT_MAX"):
        encode(value, size - 1)


def test_the_walk_stops_at_the_limit():
    class Endless(list):
        """A list whose walk would never end."""

        def __len__(self):
            return 1

        def __iter__(self):
            while True:
                yield "x" * 100

    with pytest.raises(OutputInvalid, match="larger than"):
        encode(Endless(), 10_000)


def test_enums_of_numbers_and_tuples_are_json():
    assert encode((Number.ONE, 2), MIB) == "[1,2]"
