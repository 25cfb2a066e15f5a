"""Files made to hurt end soon: the bounds are far above what is measured, and far below what a quadratic step takes."""

from __future__ import annotations

import json
import time

import pytest

from agentflow.errors import SpecError
from agentflow.spec import content_hash, load_file, parse_document, parse_text, to_yaml

NODES = 50_000
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def large():
    """A chain of 50,000 nodes."""
    nodes = {
        f"n{index}": {"type": "noop", "needs": [f"n{index - 1}"] if index else [], "config": {"output": index}}
        for index in range(NODES)
    }
    return {"name": "large", "nodes": nodes}


@pytest.fixture
def stopwatch():
    """Seconds of processor time, so that a busy machine does not count."""
    started = time.process_time()
    return lambda: time.process_time() - started


def test_50_000_nodes_from_json_are_checked_and_hashed_in_seconds(large, stopwatch):
    spec = parse_text(json.dumps(large), file="large.json")
    assert len(content_hash(spec)) == 64
    assert stopwatch() < 30  # measured: 4


def test_50_000_nodes_are_exported_and_read_back_from_yaml_in_seconds(large, stopwatch, tmp_path):
    pytest.importorskip("_ruamel_yaml", reason="without libyaml this takes about 25 s")
    spec = parse_document(large)
    file = tmp_path / "large.yaml"
    file.write_text(to_yaml(spec))
    assert content_hash(load_file(file)) == content_hash(spec)
    assert stopwatch() < 60  # measured: 10


def test_50_000_mistakes_are_told_in_seconds(large, stopwatch):
    nodes = {name: {**node, "need": []} for name, node in large["nodes"].items()}
    with pytest.raises(SpecError) as caught:
        parse_text(json.dumps({"name": "w", "nodes": nodes}), file="large.json")
    assert caught.value.problems[-1].message == "and 49,950 more problems"
    assert stopwatch() < 30


def test_a_typing_error_in_each_upstream_of_50_000_nodes_is_told_in_seconds(large, stopwatch):
    nodes = {name: {**node, "needs": [f"x{name}"]} for name, node in large["nodes"].items()}
    with pytest.raises(SpecError) as caught:
        parse_document({"name": "w", "nodes": nodes})
    assert len(caught.value.problems) == 51
    assert stopwatch() < 40


HOSTILE = {
    "brackets": "[" * MEGABYTE,
    "dashes": "- " * (MEGABYTE // 2),
    "braces": "{a: " * (MEGABYTE // 4),
    "scalar": "a" * MEGABYTE,
    "comment": "#" * MEGABYTE,
    "question marks": "? " * (MEGABYTE // 2),
    "values": "[" + "a," * (MEGABYTE // 2) + "]",
    "anchors": "[" + "&a b," * (MEGABYTE // 6) + "]",
    "blank lines": "a: |\n" + "\n" * MEGABYTE,
    "keys": "\n".join(f"k{index}: 1" for index in range(MEGABYTE // 12)),
    "bangs": "!" * MEGABYTE,
    "same keys": "a: 1\n" * (MEGABYTE // 5),
    "digits": "a: " + "9" * MEGABYTE,
    "escapes": '"' + "\\x41" * (MEGABYTE // 4) + '"',
    "json": '{"a":' * (MEGABYTE // 5),
    "json keys": "{" + '"a":1,' * (MEGABYTE // 6) + '"b":1}',
    "a long name": "name: " + "n" * MEGABYTE + "\nnodes: {}",
    "a long key": "? " + "n" * MEGABYTE + "\n: 1",
    "a long tag": "a: !" + "n" * MEGABYTE + " x",
    "a long alias": "a: *" + "n" * MEGABYTE,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_soon_and_in_few_words(text, stopwatch):
    pytest.importorskip("_ruamel_yaml", reason="the pure parser is slow")
    with pytest.raises(SpecError) as caught:
        parse_text(text, file="f.yaml")

    assert stopwatch() < 15  # measured: at most 1.5
    assert len(caught.value.problems) <= 51
    assert len(str(caught.value)) < 50_000
