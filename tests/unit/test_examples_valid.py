from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from agentflow.bundles import build_bundle, extract_bundle
from agentflow.loader import FolderReader, load_source
from agentflow.nodes import registry

DAGS = Path(__file__).parents[2] / "dags"
SCAN = FolderReader(DAGS).scan()
EXPECTED = {
    "daily_report.yaml": "daily-report",
    "draft_review.py": "draft-review",
    "flaky_retry.yaml": "flaky-retry",
    "handled_failure.yaml": "handled-failure",
    "http_call.yaml": "http-call",
    "invoice.yaml": "invoice",
    "life_pipeline.py": "life-pipeline",
    "sales_etl.py": "sales-etl",
    "shell_toolbox.yaml": "shell-toolbox",
    "support_triage.yaml": "support-triage",
    "word_count.py": "word-count",
    "wait_for_data.yaml": "wait-for-data",
}


@pytest.fixture(scope="module")
def specs():
    """The spec of each example, by file; the last one of a file is what it is about, the others are its parts."""
    results = [load_source(file) for file in SCAN.files]
    assert [problem for result in results for problem in result.problems] == []
    return {result.file.relative: spec for result in results for spec in result.specs}


def test_the_folder_holds_exactly_these_workflows(specs):
    assert SCAN.problems == ()
    assert {file: spec.name for file, spec in specs.items()} == EXPECTED


def test_every_example_is_described_and_listed(specs):
    readme = (DAGS / "README.md").read_text()
    for file, spec in specs.items():
        assert spec.title, file
        assert spec.description, file
        assert "example" in spec.tags, file
        assert f"[`{file}`]({file})" in readme
        head = (DAGS / file).read_text()[:400]
        assert head.startswith(("# ", '"""')), f"{file} begins with a comment that teaches something"
        assert "What to look at:" in head


def test_nothing_starts_by_itself(specs):
    triggers = [trigger for spec in specs.values() for trigger in spec.triggers]
    assert len(triggers) >= 2
    assert all(trigger.paused for trigger in triggers)


def test_no_param_needs_a_value(specs):
    for spec in specs.values():
        for name, schema in spec.params.items():
            assert "default" in schema, f"{spec.name}: {name}"


def test_the_examples_cover_what_they_promise(specs):
    types = {node.type for spec in specs.values() for node in spec.nodes.values()}
    assert types == set(registry.names())
    assert len(specs["life_pipeline.py"].nodes) >= 60


def test_the_functions_that_examples_name_are_in_the_bundle(specs, tmp_path):
    bundle = build_bundle(DAGS)
    assert bundle.hash == SCAN.bundle_hash
    folder = extract_bundle(bundle.data, bundle.hash, tmp_path)
    functions = sorted(
        {
            node.config["function"]
            for spec in specs.values()
            for node in spec.nodes.values()
            if "function" in node.config
        }
    )
    assert "lib.weather:summarise" in functions
    code = (
        "import importlib, sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    module, _, function = name.partition(':')\n"
        "    assert callable(getattr(importlib.import_module(module), function)), name\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(folder), *functions], check=False, cwd=tmp_path)
    assert done.returncode == 0


@pytest.fixture
def example(monkeypatch):
    """Imports an example's module as a test of its own would: its nodes are plain functions here."""
    monkeypatch.setattr(sys, "path", [str(DAGS), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_check_of_the_etl_stops_bad_data(example, tmp_path, monkeypatch):
    etl = example("sales_etl")
    monkeypatch.setattr(etl.tempfile, "gettempdir", lambda: str(tmp_path))
    rows = etl.extract("sales.csv")
    good = etl.check(rows, 0.1)
    assert 0 < len(good) < len(rows)
    totals = etl.transform(good)
    assert list(totals) == ["east", "north", "south", "west"]
    assert etl.load(totals, "test.db") == etl.load(totals, "test.db") == 4
    with pytest.raises(ValueError, match="rows are bad"):
        etl.check(rows, 0.01)


def test_the_pipeline_plays_the_game_of_life(example):
    life = example("life_pipeline")
    board = life.first()
    for alive in (6, 7, 9, 8):  # the R-pentomino's known populations
        board = life.generation(board)
        assert life.show(board)["alive"] == alive


def test_the_server_of_the_http_example_fails_once_and_then_answers(example):
    assert set(example("lib.quotes").serve_and_ask()) == {"text", "author"}


def test_the_merge_of_the_word_count_ranks_by_number_then_word(example):
    merge = example("word_count").merge
    assert merge([{"b": 1, "a": 2}, {"b": 1, "c": 3}], 2) == [["c", 3], ["a", 2]]


def test_the_weather_summary_marks_hot_days(example):
    weather = example("lib.weather")
    assert weather.summarise({"B": [10, 30], "A": [1]}, 25) == [
        {"name": "A", "mean": 1, "max": 1, "hot": False},
        {"name": "B", "mean": 20, "max": 30, "hot": True},
    ]
    assert len(weather.summarise(weather.readings(), 25)) == 4
