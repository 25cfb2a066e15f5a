from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import ParamError
from agentflow.spec import check_params, read_cli_params
from agentflow.spec.param_schema import schema_findings

SCHEMA = {
    "city": {"type": "string", "default": "Berlin", "minLength": 2, "maxLength": 10},
    "count": {"type": "integer", "minimum": 1, "maximum": 5},
}


def problems(call, *args):
    with pytest.raises(ParamError) as caught:
        call(*args)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def test_defaults_fill_what_is_not_given_in_the_order_of_the_schemas():
    assert list(check_params(SCHEMA, {"count": 2}).items()) == [("city", "Berlin"), ("count", 2)]


def test_a_default_is_copied_so_that_runs_do_not_share_it():
    schema = {"rows": {"type": "array", "default": []}}
    check_params(schema, {})["rows"].append(1)
    assert check_params(schema, {}) == {"rows": []}


def test_unknown_missing_and_wrong_params_are_reported_all_at_once():
    assert problems(check_params, SCHEMA, {"citty": 1, "city": "x"}) == [
        ("citty", "there is no param `citty`"),
        ("city", "must have at least 2 characters, has 1"),
        ("count", "is required and has no default"),
    ]


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"type": "string"}, 1, "must be string, not integer 1"),
        ({"type": "integer"}, True, "must be integer, not boolean True"),
        ({"type": "integer"}, 1.0, "must be integer, not number 1.0"),
        ({"type": "number"}, "1", "must be number, not string '1'"),
        ({"type": "boolean"}, 0, "must be boolean, not integer 0"),
        ({"type": "array"}, {}, "must be array, not object"),
        ({"type": "object"}, [], "must be object, not array"),
        ({"type": "null"}, 0, "must be null, not integer 0"),
        ({"type": ["string", "null"]}, 0, "must be string or null, not integer 0"),
        ({"enum": ["a", 1]}, True, "must be one of 'a', 1"),
        ({"enum": [{"a": [0]}]}, {"a": [False]}, "must be one of {'a': [0]}"),
        ({"const": 1}, 2, "must be 1"),
        ({"minimum": 1}, 0.5, "must be at least 1"),
        ({"maximum": 5}, 6, "must be at most 5"),
        ({"minLength": 2}, "é", "must have at least 2 characters, has 1"),
        ({"maxLength": 2}, "abc", "must have at most 2 characters, has 3"),
        ({"pattern": "^a+$"}, "ab", "must match ^a+$"),
        ({"format": "date"}, "2026-02-30", "must be a date such as 2026-12-01"),
        ({"format": "date"}, "20260201", "must be a date such as 2026-12-01"),
        ({"format": "date-time"}, "2026-12-01T09:00:00", "must be a time with offset such as 2026-12-01T09:00:00Z"),
        ({"required": ["a"]}, {}, "`a` is missing"),
        ({}, "\x00", "the text contains \\u0000, which Postgres cannot store"),
        ({}, "\ud800", "the text contains half of a surrogate pair"),
        ({}, float("nan"), "nan is not JSON"),
    ],
)
def test_a_value_that_does_not_fit_says_why(schema, value, message):
    assert problems(check_params, {"p": schema}, {"p": value}) == [("p", message)]


def test_places_inside_a_value_are_named():
    schema = {"p": {"properties": {"rows": {"type": "array", "items": {"type": "integer"}}}}}
    assert problems(check_params, schema, {"p": {"rows": [1, "x"]}}) == [
        ("p.rows[1]", "must be integer, not string 'x'")
    ]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "number"}, 1),
        ({"type": ["integer", "null"]}, None),
        ({"const": 1}, 1.0),
        ({"pattern": "b"}, "abc"),
        ({"format": "date-time"}, "2026-12-01T09:00:00.5+01:00"),
        ({"properties": {"a": {"type": "string"}}}, {"b": 1}),
        ({}, {"anything": [1, None]}),
    ],
)
def test_a_value_that_fits_is_taken(schema, value):
    assert check_params({"p": schema}, {"p": value}) == {"p": value}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "must be a schema"),
        ({"minimun": 1}, "unknown schema keyword `minimun`"),
        ({"type": "text"}, "`type` 'text' is not a type"),
        ({"enum": []}, "`enum` must be a list with at least one value"),
        ({"minLength": -1}, "`minLength` must be a whole number from 0"),
        ({"minimum": True}, "`minimum` must be a number"),
        ({"pattern": "("}, "`pattern` is not a pattern we can match"),
        ({"pattern": "(?=a)"}, "`pattern` is not a pattern we can match"),
        ({"format": "email"}, "`format` 'email' is not supported"),
        ({"required": "a"}, "`required` must be a list of names"),
        ({"items": 1}, "must be a schema"),
        ({"properties": []}, "`properties` must be a mapping"),
        ({"properties": {"a": {"typ": 1}}}, "unknown schema keyword `typ`"),
        ({"type": "integer", "default": "1"}, "the default does not fit the schema: must be integer"),
    ],
)
def test_a_schema_we_cannot_keep_to_is_refused(schema, message):
    assert message in next(schema_findings(schema, ("params", "p"))).message


def test_a_pattern_that_explodes_elsewhere_takes_linear_time():
    started = time.perf_counter()
    assert problems(check_params, {"p": {"pattern": "^(a+)+$"}}, {"p": "a" * 100_000 + "b"})
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "007", "007"),
        ("string", " x=y ", " x=y "),
        ("integer", "-7", -7),
        ("number", "1e3", 1000.0),
        ("boolean", "true", True),
        ("array", "[1, 2]", [1, 2]),
        ("object", '{"a": null}', {"a": None}),
        ("null", "null", None),
        (None, "5", 5),
        (None, "five", "five"),
        (["string", "null"], "null", None),
        (["string", "null"], "x", "x"),
    ],
)
def test_command_line_values_are_read_by_the_type_of_the_param(kind, text, value):
    schema = {"p": {"type": kind} if kind else {}}
    assert read_cli_params(schema, [f"p={text}"]) == {"p": value}


@pytest.mark.parametrize(
    ("kind", "text"),
    [("integer", "5.0"), ("integer", " 5"), ("integer", "five"), ("boolean", "yes"), ("boolean", "True"), ("number", "NaN"),
     ("object", "{"), ("null", "")],
)  # fmt: skip
def test_command_line_values_are_read_strictly(kind, text):
    [(path, message)] = problems(read_cli_params, {"p": {"type": kind}}, [f"p={text}"])
    assert path == "p"
    assert message.startswith(f"must be {kind}, not ")


def test_every_wrong_word_of_the_command_line_is_listed():
    found = problems(read_cli_params, SCHEMA, ["city", "count=x", "town=Rome", "city=Oslo", "city=Rome"])

    assert sorted(path for path, _ in found) == ["city", "city", "count", "town"]


def test_params_without_default_are_asked_for_and_defaults_are_not_returned():
    assert problems(read_cli_params, SCHEMA, []) == [("count", "is required and has no default")]
    assert read_cli_params(SCHEMA, ["count=3"]) == {"count": 3}


def test_an_at_sign_reads_json_from_a_file(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("[1, 2]")
    assert read_cli_params({"rows": {"type": "array"}}, [f"rows=@{file}"]) == {"rows": [1, 2]}


@pytest.mark.parametrize("content", [b"{", b"\xff", None])
def test_a_params_file_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "rows.json"
    if content is not None:
        file.write_bytes(content)
    [(path, message)] = problems(read_cli_params, {"rows": {}}, [f"rows=@{file}"])
    assert path == "rows"
    assert str(file) in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé=@ "),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=6,
)


@given(json_values.filter(lambda value: not isinstance(value, str)))
def test_any_json_given_for_an_untyped_param_comes_back(value):
    assert read_cli_params({"p": {}}, [f"p={json.dumps(value)}"]) == {"p": value}
