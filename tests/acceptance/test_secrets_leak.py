"""A secret is used by the nodes that name it and seen nowhere else: not in tables, logs, answers, files or processes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from sqlalchemy import text

VALUE = 'S3cr3t/with+signs&"quotes" ü'
HANDOVER = "handed-over-by-environment"  #: Of the node that gets its secret as an environment variable.
FORMS = {
    "plain": VALUE,
    "json": json.dumps(VALUE)[1:-1],
    "url": quote(VALUE, safe=""),
    "form": quote_plus(VALUE),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "basic": base64.b64encode(f"me:{VALUE}".encode()).decode()[6:-4],
    "hex": VALUE.encode().hex(),
    "environment": HANDOVER,
}

WORKFLOW = """
name: leaky
params: {fifo: {type: string}}
nodes:
  talk:
    type: python
    config:
      args: {value: "{{ secrets.TOKEN }}"}
      code: |
        import base64, json, os, subprocess, sys
        from urllib.parse import quote, quote_plus
        def main(value):
            basic = base64.b64encode(f"me:{value}".encode()).decode()
            forms = [value, json.dumps(value), quote(value, safe=""), quote_plus(value), basic,
                     base64.b64encode(value.encode()).decode()]
            for form in forms:
                print(form)
                print("x" * 1000 + form, file=sys.stderr)
            os.write(1, value.encode())
            subprocess.run(["cat"], input=value.encode())
            return {"forms": forms, "nested": [{value: forms}], "length": len(value)}
  read_on: {type: noop, needs: [talk], config: {output: "{{ nodes.talk.output }}"}}
  echo: {type: noop, config: {output: "{{ secrets.TOKEN }}"}}
  fail:
    type: python
    config:
      args: {value: "{{ secrets.TOKEN }}"}
      code: |
        def main(value):
            raise RuntimeError(f"cannot log in with {value}")
  misfit: {type: wait, config: {file: /, poke_interval: "{{ secrets.TOKEN }}"}}
  missing: {type: noop, config: {output: "{{ secrets.NOT_THERE }} {{ secrets.TOKEN }}"}}
  hold:
    type: shell
    config:
      env: {TOKEN: "{{ secrets.HANDOVER }}", FIFO: "{{ params.fifo }}"}
      files: {key: "{{ secrets.TOKEN }}"}
      command: |
        cat key; echo "$TOKEN"; wc -c < key
        read -r _ < "$FIFO"
"""


@pytest.fixture
def started(environment, tmp_path, shell, write):
    """`agentflow run` of the workflow on an executor, in its middle; gives the process and how to let it go on."""
    processes = []

    def run(executor: str):
        for name, value in {"TOKEN": VALUE, "HANDOVER": HANDOVER}.items():
            write("value", value)
            assert shell("secrets", "set", name, "--from-file", "value").code == 0
            (tmp_path / "work" / "value").unlink()
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        command = ["run", write("leaky.yaml", WORKFLOW), "--json", "--executor", executor, "--param", f"fifo={fifo}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "agentflow", *command],
            env={**os.environ, "AGENTFLOW_LOG_LEVEL": "DEBUG", "AGENTFLOW_EXECUTORS": executor},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        processes.append(process)
        deadline = time.monotonic() + 60
        while True:
            try:
                return process, os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def found_in(data: str | bytes) -> list[str]:
    """Names of the forms of the secrets that some text or bytes hold, quoted and escaped as deep as may be."""
    raw = bare(data.encode() if isinstance(data, str) else data)
    return [name for name, form in FORMS.items() if bare(form.encode()) in raw]


def bare(raw: bytes) -> bytes:
    return raw.replace(b"\\", b"").replace(b'"', b"")


def processes_that_show(needle: bytes) -> dict[str, bytes]:
    shown = {}
    for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
        with suppress(OSError):
            if needle in (content := path.read_bytes()):
                shown[str(path)] = content
    return shown


def files_that_show(folder: Path) -> list[str]:
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and found_in(path.read_bytes())
    ]


def everything(engine) -> str:
    """All rows of all tables as text, logs unpacked."""
    with engine.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [row for table in tables for row in connection.scalars(text(f'SELECT t::text FROM "{table}" AS t'))]
        logs = [zlib.decompress(data).decode() for data in connection.scalars(text("SELECT data FROM log_chunk"))]
    assert logs
    return "\n".join(rows + logs)


def test_the_search_finds_every_form_however_it_is_quoted():
    for name, form in FORMS.items():
        quoted = json.dumps(form, ensure_ascii=False)
        for said in (form, quoted, json.dumps(quoted, ensure_ascii=False)):
            assert name in found_in(said)
    assert found_in("S3cr3t") == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
@pytest.mark.parametrize("executor", ["local", "subprocess"])
def test_a_secret_is_seen_nowhere_but_in_the_nodes_that_name_it(executor, started, cli, engine, tmp_path):
    process, gate = started(executor)

    assert processes_that_show(VALUE.encode()) == {}
    handed = processes_that_show(HANDOVER.encode())
    assert handed, "the node's own process has it"
    assert all(path.endswith("environ") and b"AGENTFLOW_NODE=hold" in found for path, found in handed.items())
    os.write(gate, b"go\n")
    os.close(gate)
    out, err = process.communicate(timeout=60)

    run = json.loads(out)
    nodes = {node["node"]: node for node in run["nodes"]}
    assert {name: node["state"] for name, node in nodes.items()} == {
        "talk": "success", "read_on": "success", "echo": "success", "hold": "success",
        "fail": "failed", "misfit": "failed", "missing": "failed",
    }, err.decode()  # fmt: skip
    assert nodes["talk"]["output"]["length"] == len(VALUE), "the node had the true value"
    assert nodes["echo"]["output"] == "***"
    assert nodes["fail"]["error"]["message"] == "cannot log in with ***"
    assert nodes["missing"]["error"]["type"] == "SecretMissing"
    assert "NOT_THERE" in nodes["missing"]["error"]["message"]
    size = str(len(VALUE.encode()))
    assert nodes["hold"]["output"]["stdout"].split()[-1] == size, "the file had the true value"

    logs = cli("logs", run["id"]).out
    assert "***" in logs
    assert "the output contained the value of the secret `TOKEN`" in logs
    answers = [
        out, err, logs,
        *(cli(*command).out for command in (
            ["runs", "show", run["id"], "--json"], ["runs", "show", run["id"]], ["runs", "list", "--json"],
            ["logs", run["id"], "--json"], ["secrets", "list", "--json"], ["config", "--json"], ["doctor", "--json"],
        )),
    ]  # fmt: skip
    assert [found_in(answer) for answer in answers] == [[]] * len(answers)
    assert found_in(everything(engine)) == []
    assert files_that_show(tmp_path) == []


def test_an_export_has_the_name_and_not_the_value(cli, shell, write, tmp_path):
    write("value", VALUE)
    assert shell("secrets", "set", "TOKEN", "--from-file", "value").code == 0
    write("leaky.yaml", WORKFLOW)
    assert cli("apply", "leaky.yaml").code == 0
    for command in (["export", "leaky"], ["export", "leaky", "--json"], ["workflows", "show", "leaky", "--json"]):
        assert found_in(cli(*command).out) == []
    assert "{{ secrets.TOKEN }}" in cli("export", "leaky").out


def test_a_scheduler_on_an_external_database_does_not_start_without_a_key(shell, monkeypatch):
    monkeypatch.delenv("AGENTFLOW_SECRET_KEY")
    said = shell("scheduler", "--json", timeout=30)
    assert (said.code, said.error["type"]) == (2, "settings")
    assert "AGENTFLOW_SECRET_KEY is not set" in said.error["detail"]
    assert "openssl rand" in said.error["hint"]
