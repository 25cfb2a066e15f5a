"""Bad input: the exit code, a message that says where and what to do, and nothing half-written in the database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from agentflow.postgres import EmbeddedPostgres
from agentflow.postgres.config import UNSAFE_FAST


@pytest.fixture(scope="module")
def database_url(shared_engine):
    """One database for all: nothing that is bad may leave a trace in it."""
    return shared_engine.url.render_as_string(hide_password=False)


HEAD = "name: bad\nnodes:\n"
GOOD = "name: good\nnodes:\n  a: {type: noop}\n"
#: Valid: its problem shows only with the database or the settings.
POOL = HEAD + "  a:\n    type: noop\n    pool: defalt\n"

#: File -> content, place of the problem, words of the message, words of the hint.
FILES = {
    "cycle.yaml": (HEAD + "  a: {type: noop, needs: [b]}\n  b: {type: noop, needs: [a]}\n",
                   ":3:", "cycle: a -> b -> a", "remove one of these `needs`"),
    "itself.yaml": (HEAD + "  a: {type: noop, needs: [a]}\n", ":3:", "a needs itself", "remove it"),
    "upstream.yaml": (HEAD + "  fetch: {type: noop}\n  b:\n    type: noop\n    needs: [fecth]\n",
                      ":6:", "there is no node `fecth`", "did you mean `fetch`?"),
    "type.yaml": (HEAD + "  a:\n    type: pyhton\n", ":4:", "no node type `pyhton`", "did you mean `python`?"),
    "config_type.yaml": (HEAD + "  a:\n    type: python\n    config:\n      code: 5\n", ":6:", "must be text", ""),
    "config_key.yaml": (HEAD + "  a:\n    type: shell\n    config:\n      command: ls\n      enf: {}\n",
                        ":7:", "unknown key `enf`", "did you mean `env`?"),
    "code.yaml": (HEAD + "  a:\n    type: python\n    config:\n      code: |\n        def main(:\n",
                  ":6:", "invalid syntax", ""),
    "template.yaml": (HEAD + "  a: {type: noop}\n  b: {type: noop}\n  c:\n    type: template\n    needs: [a]\n"
                      '    config:\n      template: "{{ nodes.b.output }}"\n',
                      ":9:", "`nodes.b`, which is not upstream of `c`", "needs: [a, b]"),
    "cron.yaml": ('name: bad\ntriggers:\n  - {type: cron, cron: "0 25 * * *"}\nnodes:\n  a: {type: noop}\n',
                  ":3:", "hour: 25 is out of range", "0 to 23"),
    "six_fields.yaml": ('name: bad\ntriggers:\n  - {type: cron, cron: "0 0 6 * * *"}\nnodes:\n  a: {type: noop}\n',
                        ":3:", "6 fields", "leave out the seconds"),
    "duration.yaml": (HEAD + "  a:\n    type: noop\n    timeout: 5 parsecs\n", ":5:", "'5 parsecs' is not a duration", ""),
    "twice.yaml": (HEAD + "  a: {type: noop}\n  a: {type: noop}\n", ":4:", "duplicate node id `a`", "is in line 3"),
    "key.yaml": (HEAD + "  a:\n    type: noop\n    type: shell\n", ":5:", "duplicate key `type`", "is in line 4"),
    "key.json": ('{"name": "bad", "nodes": {\n"a": {"type": "noop"},\n"a": {"type": "noop"}}}',
                 ":3:", "duplicate node id `a`", "is in line 2"),
    "unknown.yaml": (HEAD + "  a:\n    type: noop\n    need: []\n", ":5:", "unknown key `need`", "did you mean `needs`?"),
    "executor.yaml": (HEAD + "  a:\n    type: noop\n    executor: locall\n",
                      ":5:", "no executor `locall`", "did you mean `local`?"),
    "wait_kinds.yaml": (HEAD + "  a:\n    type: wait\n    config:\n      for: 1s\n      file: /x\n",
                        ":6:", "give exactly one of `for`, `until`, `run`, `http`, `sql` and `file`", ""),
    "wait_poke.yaml": (HEAD + "  a:\n    type: wait\n    config:\n      file: /x\n      poke_interval: 10ms\n",
                       ":7:", "must be from 1s to 1d", ""),
    "wait_path.yaml": (HEAD + "  a:\n    type: wait\n    config:\n      file: {path: data.csv}\n",
                       ":6:", "must be an absolute path", ""),
    "wait_key.yaml": (HEAD + "  a:\n    type: wait\n    config:\n      for: 1s\n      softfail: true\n",
                      ":7:", "unknown key `softfail`", "did you mean `soft_fail`?"),
    "wait_condition.yaml": (HEAD + "  a:\n    type: wait\n    config:\n      http:\n        url: https://x.org\n"
                                   '        condition: "{{ params.x }}"\n',
                            ":8:", "knows only `response`", ""),
    "wait_secret.yaml": (HEAD + '  a:\n    type: wait\n    config:\n      for: "{{ secrets.pause }}"\n',
                         ":6:", "secrets are not available in expressions that the scheduler evaluates", ""),
    "retry_on.yaml": (HEAD + "  a:\n    type: noop\n    retry_on: [Timeout, 'a b']\n", ":5:", "must be the type of an error", ""),
    "fail_on.yaml": (HEAD + "  a:\n    type: noop\n    fail_on: [0]\n", ":5:", "an exit code from 1 to 255", ""),
    "retry_jitter.yaml": (HEAD + "  a:\n    type: noop\n    retry_jitter: 1.5\n", ":5:", "at most 1", ""),
    "map.yaml": (HEAD + '  a:\n    type: noop\n    for_each: "{{ [1] }} and more"\n',
                 ":5:", "`for_each` must be a list or exactly one", "all of it inside {{ }}"),
    "map_mapping.yaml": (HEAD + "  a:\n    type: noop\n    for_each: {a: 1}\n",
                         ":5:", "`for_each` must be a list, not a mapping", "list its items"),
    "map_branch.yaml": (HEAD + "  a:\n    type: branch\n    for_each: [1]\n    config: {cases: [{when: true, to: []}]}\n",
                        ":5:", "a branch cannot be mapped", ""),
    "parallel.yaml": (HEAD + "  a:\n    type: noop\n    max_parallel: 2\n", ":5:", "says nothing without `for_each`", "for_each"),
    "item.yaml": (HEAD + "  a:\n    type: template\n    config:\n      template: '{{ item }}'\n",
                  ":6:", "`item` exists only in nodes with `for_each`", ""),
    "subrun.yaml": (HEAD + "  a:\n    type: workflow\n    config:\n      name: No Name\n", ":6:", "must be the name of a workflow", ""),
    "subrun_secret.yaml": (HEAD + "  a:\n    type: workflow\n    config:\n      name: x\n      params: {t: '{{ secrets.token }}'}\n",
                           ":7:", "secrets are not available", "compare it in a node"),
    "repeat.yaml": (HEAD + "  a:\n    type: noop\n    repeat: {until: true, max: 3}\n",
                    ":5:", "only nodes of type `workflow` repeat", "a workflow of its own"),
    "until.yaml": (HEAD + "  a:\n    type: workflow\n    config: {name: x}\n    repeat:\n      until: 'x > {{ 1 }}'\n      max: 3\n",
                   ":7:", "`until` must be exactly one", "all of it inside {{ }}"),
    "outputs.yaml": ("name: bad\noutputs:\n  total: '{{ nodes.sum.output }}'\nnodes:\n  a: {type: noop}\n",
                     ":3:", "names the node `sum`, which does not exist", ""),
    "event.yaml": ("name: bad\ntriggers:\n  - {type: event}\nnodes:\n  a: {type: noop}\n", ":3:", "names `workflow`, or `workflows`", "workflow: ingest"),
    "event_all.yaml": ("name: bad\ntriggers:\n  - {type: event, workflow: x, mode: all}\nnodes:\n  a: {type: noop}\n", ":3:", "`all` needs several", ""),
    "event_within.yaml": ("name: bad\ntriggers:\n  - {type: event, workflow: x, within: 1h}\nnodes:\n  a: {type: noop}\n", ":3:", "`within` says nothing without", ""),
    "event_start.yaml": ("name: bad\ntriggers:\n  - {type: event, workflow: x, start: '2026-01-01'}\nnodes:\n  a: {type: noop}\n", ":3:", "an event trigger has no `start`", "its keys"),
    "event_states.yaml": ("name: bad\ntriggers:\n  - {type: event, workflow: x, states: [done]}\nnodes:\n  a: {type: noop}\n", ":3:", "success", ""),
    "calendar.yaml": ("name: bad\ntriggers:\n  - {type: calendar, every: {hours: 1}, at: '06:00'}\nnodes:\n  a: {type: noop}\n", ":3:", "is not a calendar unit", "every: {months: 1}"),
    "calendar_at.yaml": ("name: bad\ntriggers:\n  - {type: calendar, every: {days: 1}, at: noon}\nnodes:\n  a: {type: noop}\n", ":3:", "is not a time of day", "06:00"),
    "jitter.yaml": ("name: bad\ntriggers:\n  - {type: interval, every: 5m, jitter: 2d}\nnodes:\n  a: {type: noop}\n", ":3:", "longer than a day", ""),
    "ends.yaml": ("name: bad\ntriggers:\n  - {type: interval, every: 5m, start: '2026-02-01', end: '2026-01-01'}\nnodes:\n  a: {type: noop}\n", ":3:", "the end is before the start", ""),
    "never.yaml": ("name: bad\ntriggers:\n  - {type: cron, cron: '0 0 30 2 *'}\nnodes:\n  a: {type: noop}\n", ":3:", "does not fire once in 8 years", "check the day"),
    "step.yaml": ("name: bad\ntriggers:\n  - {type: cron, cron: '*/0 * * * *'}\nnodes:\n  a: {type: noop}\n", ":3:", "step", ""),
    "past.yaml": ("name: bad\ndepends_on_past: maybe\nnodes:\n  a: {type: noop}\n", ":2:", "true or false", ""),
    "failures.yaml": ("name: bad\nmax_consecutive_failures: 0\nnodes:\n  a: {type: noop}\n", ":2:", "at least 1", ""),
    "webhook.yaml": ("name: bad\ntriggers:\n  - {type: webhook}\n  - {type: webhook}\nnodes:\n  a: {type: noop}\n",
                     ":4:", "trigger 1 is a webhook too", "give this one a `name`"),
    "webhook_clock.yaml": ("name: bad\ntriggers:\n  - {type: webhook, jitter: 5s}\nnodes:\n  a: {type: noop}\n",
                           ":3:", "has no `jitter`", ""),
    "latin1.yaml": ("name: bad\ntitle: Müller\n".encode("latin-1"), ":2:", "not UTF-8: byte 0xfc", "save it as UTF-8"),
    "utf16.yaml": (GOOD.encode("utf-16"), ":1:", "UTF-16", "save it as UTF-8"),
    "latin1.py": ('x = "Müller"\n'.encode("latin-1"), ":1:", "not UTF-8", "save it as UTF-8"),
    "nul.yaml": (b"name: bad\ntitle: a\0b\n", ":2:", "NUL", "is it a text file?"),
    "empty.yaml": ("", ":1:", "the file is empty", "`name` and `nodes`"),
    "comment.yaml": ("# soon\n", ":1:", "nothing but comments", "name: my-workflow"),
    "empty.py": ("", ":1:", "no workflow", "@workflow"),
    "broken.yaml": ("name: bad\nnodes: [a\n", ":3:", "not YAML", ""),
    "broken.json": ('{"name": "bad",\n "nodes": }', ":2:", "not JSON", ""),
    "raises.py": ('x = 1\ny = {}["missing"]\n', ":2:", "KeyError: 'missing'", ""),
    "syntax.py": ("x = 1\ndef f(:\n", ":2:", "SyntaxError", ""),
    "exits.py": ("import sys\nsys.exit(3)\n", ":2:", "importing it calls exit(3)", "__main__"),
    "dies.py": ("import os\nos._exit(3)\n", "", "exit code 3", "os._exit"),
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_a_bad_file_is_refused_with_its_place_and_a_hint(file, write, cli, nothing_stored):
    content, place, message, hint = FILES[file]
    write(file, content)
    with nothing_stored():
        said = cli("apply", file)
        assert (said.code, said.out) == (1, "")
        assert f"Error: {file}{place}" in said.err
        assert message in said.err
        assert hint in said.err
        error = cli("apply", file, "--json")
        assert error.code == 1
        assert error.error["file"] == file
        assert error.error["line"] == (int(place.strip(":")) if place else None)
        assert cli("run", file).err == said.err
        if not file.endswith(".py"):  # each reading of one is a process
            assert cli("next", file).err == said.err
        checked = cli("validate", file, "--json")
    assert checked.code == 1
    report = checked.document["files"][0]
    assert (checked.document["valid"], report["file"], report["valid"]) == (False, file, False)
    assert any(message in problem["message"] for problem in report["errors"])
    assert set(report["errors"][0]) == {"line", "column", "path", "message", "hint"}


@pytest.mark.parametrize(
    ("target", "message"),
    [("gone.yaml", "does not exist"), ("gone.py", "does not exist"), ("folder.yaml", "is a directory"),
     ("folder.py", "is not a file")],
)  # fmt: skip
@pytest.mark.parametrize("command", ["apply", "run", "validate", "next"])
def test_a_file_that_cannot_be_read_is_named_with_a_hint(command, target, message, cli, nothing_stored):
    for folder in ("folder.yaml", "folder.py"):
        Path(folder).mkdir()
    with nothing_stored():
        said = cli(command, target)
    assert said.code == 1
    assert f"{target} {message}" in said.out + said.err
    assert "hint:" in (said.out + said.err).lower()


def test_a_python_file_that_loops_for_ever_is_ended(write, environment, monkeypatch, cli, nothing_stored):
    from agentflow.loader import files
    from agentflow.loader.process import ChildLimits

    monkeypatch.setattr(files.load_python, "__kwdefaults__", {"root": None, "limits": ChildLimits(timeout=0.5)})
    write("loops.py", "x = 1\nwhile True:\n    x += 1\n")
    began = time.monotonic()
    with nothing_stored():
        said = cli("apply", "loops.py")
    assert said.code == 1
    assert "did not end within 0.5 s" in said.err
    assert "Error: loops.py:" in said.err
    assert "move slow work into a @node function" in said.err
    assert time.monotonic() - began < 10


def test_of_several_files_none_is_stored_when_one_is_bad(write, cli, nothing_stored):
    write("good.yaml", GOOD.replace("good", "whole"))
    write("bad.yaml", HEAD + "  a: {type: nop}\n")
    write("pool.yaml", POOL)
    with nothing_stored():
        assert cli("apply", "good.yaml", "bad.yaml").code == 1
        assert cli("apply", "good.yaml", "pool.yaml").code == 1  # found out inside the transaction
        assert cli("apply", "good.yaml", "gone.yaml").code == 1
    assert cli("apply", "good.yaml", "--json").document == {
        "items": [{"name": "whole", "version": 1, "changed": True, "created": True}]
    }


@pytest.mark.parametrize("command", ["apply", "run"])
def test_an_unknown_pool_is_named_with_the_one_that_was_meant(command, write, shell, nothing_stored):
    write("pool.yaml", POOL)
    with nothing_stored():
        said = shell(command, "pool.yaml", "--json")
    assert (said.code, said.error["type"]) == (1, "not-found")
    assert said.error["detail"] == "nodes.a.pool: there is no pool 'defalt'."
    assert "did you mean `default`?" in said.error["hint"]
    assert "agentflow pools set defalt SLOTS" in said.error["hint"]


def test_run_refuses_an_executor_that_does_not_run_here(write, shell, nothing_stored):
    write("good.yaml", GOOD)
    write("stub.yaml", HEAD + "  a: {type: noop, executor: stub}\n")
    with nothing_stored():
        unknown = shell("run", "good.yaml", "--executor", "locall", "--json")
        disabled = shell("run", "stub.yaml", "--json")
    assert (unknown.code, unknown.error["type"]) == (1, "executor-unknown")
    assert "did you mean `local`?" in unknown.error["hint"]
    assert (disabled.code, disabled.error["type"]) == (1, "executor-unknown")
    assert "nodes.a.executor" in disabled.error["detail"]
    assert disabled.error["hint"].startswith("AGENTFLOW_EXECUTORS=local,")
    assert disabled.error["hint"].endswith(",stub")


PARAMS = """\
name: params
params:
  city: {type: string}
  count: {type: integer}
  ratio: {type: number, minimum: 0}
  wide: {type: boolean, default: false}
  tags: {type: array, default: []}
nodes:
  a: {type: noop}
"""


@pytest.mark.parametrize("command", [("run", "params.yaml"), ("trigger", "params")])
def test_all_wrong_params_are_told_at_once(command, write, cli, nothing_stored):
    write("params.yaml", PARAMS)
    assert cli("apply", "params.yaml").code == 0
    words = ["count=many", "ratio=-1", "wide=maybe", "tags=@gone.json", "cty=Berlin", "alone"]
    arguments = [*command, *(part for word in words for part in ("--param", word))]
    with nothing_stored():
        said = cli(*arguments, "--json")
        shown = cli(*arguments)
    assert (said.code, said.error["type"]) == (2, "invalid-params")
    problems = {problem["path"]: problem for problem in said.error["errors"]}
    assert {"city", "count", "ratio", "wide", "tags", "cty"} <= set(problems)
    assert problems["city"]["hint"] == "give it: --param city=VALUE"
    assert problems["cty"]["hint"] == "did you mean `city`?"
    assert problems["count"]["message"] == "must be integer, not 'many'"
    assert "gone.json" in problems["tags"]["message"]
    assert shown.code == 2
    assert "city: is required and has no default (give it: --param city=VALUE)" in shown.err


# -- names and ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [("workflows", "show"), ("workflows", "pause"), ("workflows", "unpause"), ("workflows", "delete", "--yes"),
     ("trigger",), ("export",), ("next",), ("runs", "list", "--workflow")],
)  # fmt: skip
def test_a_misspelt_workflow_brings_the_name_that_was_meant(command, write, cli, nothing_stored):
    cli("apply", write("good.yaml", GOOD))
    with nothing_stored():
        said = cli(*command, "goood", "--json")
    assert (said.code, said.error["type"]) == (1, "not-found")
    assert said.error["detail"] == "There is no workflow 'goood'."
    assert said.error["hint"] == "did you mean `good`?"


@pytest.mark.parametrize(
    "run_id", ["x", "", "01a20541-4f15-7f97-a24a-86f33e2be03e", "' OR 1=1 --", "01a2\x00", "é" * 500]
)
@pytest.mark.parametrize(
    "command",
    [("runs", "show"), ("runs", "cancel"), ("runs", "clear"), ("runs", "wait"), ("runs", "rerun"), ("logs",)],
)
def test_an_unknown_run_is_not_found(command, run_id, cli, nothing_stored):
    with nothing_stored():
        said = cli(*command, "--json", "--", run_id)
    assert (said.code, said.error["type"]) == (1, "not-found")
    assert "agentflow runs list" in said.error["hint"]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("clear", "--from", "2026-11-01"), "--from"),
        (("clear", "--to", "2026-11-01"), "--to"),
        (("cancel", "--state", "queued"), "--state"),
    ],
)
def test_what_chooses_among_runs_is_not_passed_over_for_one(command, option, cli, nothing_stored):
    with nothing_stored():
        said = cli("runs", *command, "01a20541-4f15-7f97-a24a-86f33e2be03e", "--json")
    assert (said.code, said.error["type"]) == (2, "usage")
    assert said.error["detail"].startswith(f"{option} chooses among the runs of a workflow")
    assert "--workflow NAME" in said.error["hint"]


def test_a_name_of_a_file_of_the_folder_is_not_taken_by_apply(write, cli, engine, tmp_path, nothing_stored):
    from agentflow import catalog
    from agentflow.spec import load_file

    path = tmp_path / "dags" / "owned.yaml"
    path.write_text(GOOD.replace("good", "owned"))
    with engine.begin() as connection:
        catalog.apply_spec(
            connection, load_file(path), source="file", source_path="owned.yaml", actor="file:owned.yaml"
        )
    write("mine.yaml", GOOD.replace("good", "owned") + "  b: {type: noop}\n")
    write("other.yaml", GOOD.replace("good", "other"))
    with nothing_stored():
        said = cli("apply", "other.yaml", "mine.yaml", "--json")
    assert (said.code, said.error["type"]) == (1, "owned-by-file")
    assert "owned.yaml" in said.error["detail"]
    assert said.error["hint"]


# -- what nodes return and print ----------------------------------------------------------------------------------

RETURNED = {
    "nan": ("{'a': [1, float('nan')]}", "output.a[1] is nan"),
    "infinite": ("float('-inf')", "output is -inf"),
    "sets": ("{'tags': {1, 2}}", "output.tags is a set; return a list"),
    "bytes": ("{'body': b'x'}", "output.body is bytes; decode it"),
    "thing": ("[{'x': object()}]", "output[0].x is of type object, not JSON"),
    "number_key": ("{1: 2}", "output has the key 1 of type int"),
    "date": ("{'at': __import__('datetime').date.today()}", "output.at is a date; return its `.isoformat()`"),
    "nul": ("{'name': 'a' + chr(0)}", r"output.name contains the character \u0000"),
    "surrogate": ("[chr(0xd800)]", "output[0] contains half of a surrogate pair"),
    "huge": ("'x' * 100_000_000", "larger than 16 MiB (AGENTFLOW_OUTPUT_MAX); store the data elsewhere"),
}
WRITTEN = {
    "text": ("echo '{nope' > $AGENTFLOW_OUTPUT", "is not JSON"),
    "shell_nan": ("echo '{\"a\": NaN}' > $AGENTFLOW_OUTPUT", "output.a is nan"),
    "shell_nul": (r"""printf '{"a": "\\u0000"}' > $AGENTFLOW_OUTPUT""", r"output.a contains the character \u0000"),
    "shell_huge": ("head -c 100000000 /dev/zero > $AGENTFLOW_OUTPUT", "store the data elsewhere"),
}
PRINTS = r"""
import os, sys
def main():
    print("a\0b")
    sys.stdout.buffer.write(b"caf\xc3 \xff\n")
    os.write(1, b"raw \xfe\0 bytes\n")
    print("half \ud800")
    raise ValueError("nul \0 and \ud800")
"""


def test_outputs_that_are_not_json_fail_their_node_and_name_the_path(write, shell):
    nodes = {
        name: {"type": "python", "config": {"code": f"def main():\n    return {value}\n"}}
        for name, (value, _) in RETURNED.items()
    }
    nodes |= {name: {"type": "shell", "config": {"command": command}} for name, (command, _) in WRITTEN.items()}
    nodes["prints"] = {"type": "python", "config": {"code": PRINTS}}
    nodes["shell_prints"] = {"type": "shell", "config": {"command": r"printf 'a\0b\xff\n'; printf 'err\xc3\n' >&2"}}
    run = shell("run", write("outputs.json", json.dumps({"name": "outputs", "nodes": nodes})), "--json")
    assert run.code == 1, run.out
    found = {node["node"]: node for node in run.document["nodes"]}
    for name, (_, message) in (RETURNED | WRITTEN).items():
        assert (found[name]["state"], found[name]["output"]) == ("failed", None), name
        assert message in found[name]["error"]["message"], name
    # What is printed is text for people: NUL and broken UTF-8 become U+FFFD, nothing fails.
    assert found["shell_prints"]["output"] == {"exit_code": 0, "stdout": "a\ufffdb\ufffd\n"}
    assert found["prints"]["error"]["message"] == "nul \ufffd and \ufffd"
    logged = shell("logs", run.document["id"], "prints", "--json")
    lines = [json.loads(line) for line in logged.out.splitlines()]
    # What goes around Python's streams comes through a pipe, whenever that is read.
    assert {line["text"] for line in lines[:4]} == {"a\ufffdb", "caf\ufffd \ufffd", "raw \ufffd\ufffd bytes", "half ?"}


# -- settings and database ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("PARALLELISM", "many", "AGENTFLOW_PARALLELISM"), ("DATABASE_URL", "mysql://x/y", "must begin with postgresql://"),
     ("LOG_LEVEL", "LOUD", "AGENTFLOW_LOG_LEVEL"), ("OUTPUT_MAX", "-1", "AGENTFLOW_OUTPUT_MAX"),
     ("EMBEDDED_POSTGRES_MAJOR", "x", "AGENTFLOW_EMBEDDED_POSTGRES_MAJOR")],
)  # fmt: skip
def test_a_wrong_setting_is_wrong_usage(name, value, told, cli, monkeypatch):
    monkeypatch.setenv(f"AGENTFLOW_{name}", value)
    said = cli("workflows", "list", "--json")
    assert (said.code, said.error["type"]) == (2, "settings")
    assert told in said.error["detail"]
    assert said.error["hint"]


def test_a_broken_settings_file_is_wrong_usage(write, cli):
    write("agentflow.toml", "parallelism = \n")
    said = cli("workflows", "list", "--json")
    assert (said.code, said.error["type"]) == (2, "settings")
    assert "agentflow.toml" in said.error["detail"]
    write("agentflow.toml", "paralelism = 3\n")
    said = cli("workflows", "list", "--json")
    assert (said.code, said.error["type"]) == (2, "settings")
    assert "PARALELISM" in said.error["detail"]


UNREACHABLE = {
    "refused": "postgresql://agentflow@127.0.0.1:1/agentflow",
    "unknown_host": "postgresql://agentflow@no-such-host.invalid/agentflow",
    "not_an_address": "postgresql://agentflow@127.0.0.1:port/agentflow",
    "unknown_option": "postgresql://agentflow@127.0.0.1:1/agentflow?frob=1",
}


@pytest.mark.parametrize("kind", UNREACHABLE)
@pytest.mark.parametrize("command", [("workflows", "list"), ("run", "good.yaml"), ("db", "upgrade"), ("scheduler",)])
def test_a_database_that_does_not_answer_ends_with_3_soon(command, kind, write, cli, monkeypatch):
    write("good.yaml", GOOD)
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", UNREACHABLE[kind])
    began = time.monotonic()
    said = cli(*command, "--json")
    assert (said.code, said.error["type"]) == (3, "database-unreachable"), said
    assert "AGENTFLOW_DATABASE_URL" in said.error["hint"]
    assert time.monotonic() - began < 6


def test_a_wrong_password_is_not_shown(database_url, cli, monkeypatch):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://somebody:s3cret-word@127.0.0.1:1/agentflow")
    said = cli("workflows", "list", "--json")
    assert said.code == 3
    assert "s3cret-word" not in said.out + said.err


@pytest.mark.parametrize(
    "command", [("workflows", "list"), ("run", "good.yaml"), ("apply", "good.yaml"), ("scheduler",)]
)
def test_a_database_without_schema_asks_for_the_upgrade(command, write, cli, empty_database_url, monkeypatch):
    write("good.yaml", GOOD)
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", empty_database_url)
    said = cli(*command, "--json")
    assert (said.code, said.error["type"]) == (3, "database-not-ready")
    assert "no AgentFlow schema" in said.error["detail"]
    assert "agentflow db upgrade" in said.error["hint"]


@pytest.mark.parametrize("command", [("workflows", "list"), ("run", "good.yaml"), ("db", "upgrade"), ("scheduler",)])
def test_a_newer_schema_is_left_alone(command, write, cli, engine, nothing_stored):
    write("good.yaml", GOOD)
    move = text("UPDATE alembic_version SET version_num = :to RETURNING (SELECT version_num FROM alembic_version)")
    with engine.begin() as connection:
        before = connection.scalar(move, {"to": "9999"})
    try:
        with nothing_stored():
            said = cli(*command, "--json")
    finally:
        with engine.begin() as connection:
            connection.execute(move, {"to": before})
    assert (said.code, said.error["type"]) == (3, "database-not-ready")
    assert "9999" in said.error["detail"]
    assert "newer" in said.error["detail"] + said.error["hint"]


CHAIN = "name: chain\nnodes:\n" + "".join(
    f"  n{i}:\n    type: shell\n    needs: [{f'n{i - 1}' if i else ''}]\n"
    f"    config:\n      command: sleep 0.1; echo {i}; echo {i} >> $JOURNAL\n      env: {{JOURNAL: '@JOURNAL@'}}\n"
    for i in range(12)
)


def test_a_run_outlives_a_kill_of_its_embedded_database(write, environment, open_home, tmp_path):
    journal = tmp_path / "journal"
    write("chain.yaml", CHAIN.replace("@JOURNAL@", str(journal)))
    server = EmbeddedPostgres(open_home, settings=UNSAFE_FAST)
    server.attach()
    env = {key: value for key, value in os.environ.items() if key != "AGENTFLOW_DATABASE_URL"}
    command = [sys.executable, "-m", "agentflow", "run", "chain.yaml", "--json"]
    try:
        with subprocess.Popen(
            command,
            env={**env, "AGENTFLOW_HOME": str(open_home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + 40
            while not (journal.exists() and "4" in journal.read_text()):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            postmaster = int((open_home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGKILL)
            out, err = process.communicate(timeout=60)
    finally:
        server.detach()
    assert process.returncode == 0, out + err
    document = json.loads(out)
    assert document["state"] == "success"
    assert {node["state"] for node in document["nodes"]} == {"success"}
    assert [node["attempt"] for node in document["nodes"]] == [1] * 12
    assert journal.read_text().split() == [str(i) for i in range(12)]
