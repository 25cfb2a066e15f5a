from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import FileNotReadable, SpecError
from agentflow.spec import load_file, parse_text
from agentflow.spec.json_reader import Unreadable, read_json
from agentflow.spec.paths import NoPlaces
from agentflow.spec.source import read_document
from agentflow.spec.yaml_reader import read_yaml

MINIMAL = "name: w\nnodes:\n  a: {type: noop}\n"


@pytest.fixture(params=["libyaml", "pure"])
def read(request):
    if request.param == "libyaml":
        pytest.importorskip("_ruamel_yaml")
    return lambda text: read_yaml(text, pure=request.param == "pure")


def complaint(read, text):
    with pytest.raises(Unreadable) as caught:
        read(text)
    problem = caught.value.problems[0]
    return problem.line, problem.column, problem.message


def test_a_minimal_workflow_loads_from_a_file(tmp_path):
    file = tmp_path / "w.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    spec = load_file(file)
    assert spec.name == "w"
    assert list(spec.nodes) == ["a"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2026-12-01", "2026-12-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("=", "="),
        ("", None),
        ("~", None),
        ("Null", None),
        ("TRUE", True),
        ("false", False),
        ("012", 12),
        ("0o14", 12),
        ("0xC", 12),
        ("+3", 3),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("-", None),
        ("'5'", "5"),
        ('"\\u00e9"', "é"),
        ("|\n  5", "5"),
        ("5 apples", "5 apples"),
        ("1.2.3", "1.2.3"),
        ("-x", "-x"),
    ],
)
def test_scalars_follow_yaml_1_2(read, written, value):
    if written == "-":
        assert read("a:\n  -")[0] == {"a": [None]}
        return
    result = read(f"a: {written}")[0]["a"]
    assert (result, type(result)) == (value, type(value))


def test_keys_are_text_as_written(read):
    assert read("on: 1\ntrue: 2\n1: 3\nnull: 4\n1.50: 5")[0] == {"on": 1, "true": 2, "1": 3, "null": 4, "1.50": 5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [1,\nc: 2", "not YAML"),
        ("a: 1\nb:\n\t- 1", "not YAML"),
        ("a: 1\n---\nb: 2", "a second document begins here"),
        ("a: !!python/object:os.system x", "tags such as"),
        ("a: !thing x", "tags such as"),
        ("a: .nan", ".nan is not JSON"),
        ("a: -.inf", "-.inf is not JSON"),
        ("a: 1e999", "1e999 is too large"),
        ("a: " + "9" * 400, "a number of 400 digits"),
        ("a: *b", ""),
        ("a: &x [*x]", ""),
        ("? [a, b]\n: 1", "a key must be text"),
        ("[" * 65, "nested deeper than 64 levels"),
        ("- " * 65 + "x", "nested deeper than 64 levels"),
        ("a: 'x", "not YAML"),
        ("a: \x07", "not YAML"),
    ],
)
def test_what_a_workflow_file_may_not_contain_is_refused(read, text, expected):
    assert expected in complaint(read, text)[2]


def test_a_duplicate_key_is_told_with_both_places(read):
    with pytest.raises(Unreadable) as caught:
        read("name: w\nnodes:\n  a: {type: noop}\n  b: {type: noop, type: noop}\n  a: {type: noop}")
    first, second = caught.value.problems
    assert (first.line, first.column, first.path, first.message) == (4, 19, "nodes.b.type", "duplicate key `type`")
    assert (second.line, second.column, second.message) == (5, 3, "duplicate node id `a`")
    assert second.hint == "the first one is in line 3"


def test_aliases_are_read_and_share_their_anchor(read):
    assert read("a: &x {k: [1]}\nb: *x\n&key c: *x\nd: *key")[0] == {
        "a": {"k": [1]},
        "b": {"k": [1]},
        "c": {"k": [1]},
        "d": "c",
    }


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
            for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: &a '" + "x" * 1_000_000 + "'\nb: [" + "*a," * 20 + "]",
        "a: &a {? " + "k" * 1_000_000 + " : 1}\nb: [" + "*a," * 20 + "]",
    ],
)
def test_an_alias_bomb_is_refused_before_it_expands(read, bomb):
    assert "aliases expand to more than 10 MB" in complaint(read, bomb)[2]


def test_too_many_values_are_refused(read, monkeypatch):
    monkeypatch.setattr("agentflow.spec.yaml_reader.MAX_VALUES", 100)
    assert "more than 100 values" in complaint(read, "[" + "1," * 200 + "]")[2]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab:,{}[]" \\é'), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def all_paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from all_paths(item, (*path, key))


@given(json_values, st.sampled_from([None, 1]))
def test_every_value_of_a_json_text_is_located(value, indent):
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    document, locator = read_json(text)
    assert document == value
    lines = text.split("\n")
    paths = list(all_paths(value))
    for path, place in zip(paths, locator.locate([(path, False) for path in paths]), strict=True):
        inner = value
        for part in path:
            inner = inner[part]
        rest = "\n".join([lines[place[0] - 1][place[1] - 1 :], *lines[place[0] :]])
        assert json.JSONDecoder().raw_decode(rest)[0] == inner


@given(json_values.filter(lambda value: isinstance(value, dict)))
def test_json_with_a_key_twice_is_refused_at_the_second(value):
    text = json.dumps({"first": value, "last": 1})[:-1] + ', "first": 2}'
    with pytest.raises(Unreadable) as caught:
        read_json(text)
    [problem] = caught.value.problems
    assert (problem.path, problem.column) == ("first", text.rindex('"first"') + 1)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ('{"name": 1,}', "not JSON", 1),
        ('{\n"name" 1}', "not JSON", 2),
        ('{"a": NaN}', "NaN is not JSON", None),
        ('{"a": 1e999}', "too large", None),
        ('{"a": ' + "1" * 400 + "}", "400 digits", None),
        ("[" * 100_000, "nested deeper than 64 levels", None),
    ],
)
def test_a_json_file_that_is_no_json_is_refused(text, message, line):
    with pytest.raises(SpecError) as caught:
        parse_text(text, file="w.json")
    assert message in caught.value.problems[0].message
    assert caught.value.problems[0].line == line


def test_yaml_in_flow_style_is_not_taken_for_json():
    assert parse_text("{name: w, nodes: {a: {type: noop}}}", file="w.yaml").name == "w"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "the file is empty"),
        (b" \n\n", 1, "the file is empty"),
        (b"# only\n", 1, "a workflow is a mapping, this is nothing but comments"),
        (b"name: w\nx: \xff\n", 2, "the file is not UTF-8: byte 0xff"),
        ("name: w".encode("utf-16"), 1, "the file is UTF-16, not UTF-8"),
        (b"name: w\n\0", 2, "the file contains a NUL byte"),
        (b"- a\n- b\n", 1, "a workflow is a mapping, this is a list"),
        (b"hello", 1, "a workflow is a mapping, this is text"),
        (b"42", 1, "a workflow is a mapping, this is a single value"),
        (b"x" * (10 * 2**20 + 1), None, "f.yaml has 10,485,761 bytes"),
    ],
)
def test_a_file_that_is_no_workflow_document_says_what_it_is(content, line, message):
    with pytest.raises(SpecError) as caught:
        parse_text(content, file="f.yaml")
    [problem] = caught.value.problems
    assert (problem.line, problem.message[: len(message)]) == (line, message)


def test_a_file_that_cannot_be_read_is_told_apart(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large.yaml").open("wb") as large:
        large.truncate(10 * 2**20 + 1)
    for path, message in [
        (tmp_path / "none.yaml", "does not exist"),
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "is not a regular file"),
        (tmp_path / "large.yaml", "has 10,485,761 bytes"),
        ("a\0b", "cannot be read"),
    ]:
        with pytest.raises(FileNotReadable, match=message):
            load_file(path)


def test_a_file_without_permission_is_not_readable(tmp_path, monkeypatch):
    file = tmp_path / "w.yaml"
    file.write_text(MINIMAL)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(FileNotReadable, match="cannot be read: Permission denied"):
        load_file(file)


@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!|>'\"%@`#,? \n\t0x.~<", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused_with_problems(content):
    try:
        document, locator = read_document(content, file="f.yaml")
    except Unreadable:
        return
    assert not isinstance(locator, NoPlaces)
    json.dumps(document)
    assert None not in locator.locate([(path, True) for path in all_paths(document)])
