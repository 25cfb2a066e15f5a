"""The same command lines on the database and through a webserver: the same output, documents and exit codes.

Two workspaces of one database begin alike. Every line is said in `here` on the database itself, and in `there` with an
API key through a real `agentflow webserver`; one scheduler serves both. What must differ (ids, times, who did it) is
replaced before the answers are compared.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from agentflow.access import api_keys, workspaces
from agentflow.cli.main import main
from agentflow.clock import utc_now
from agentflow.db import migrate
from agentflow.db.engine import transact
from tests.live_kit import until
from tests.site_kit import Site

HERE, THERE = "here", "side"
SECRET = "5e" * 32
HEAD = migrate.head()

FLOW = """
name: flow
title: A flow
tags: [a, b]
params: {city: {type: string, default: Rome}, count: {type: integer, default: 2}}
triggers: [{type: cron, cron: "0 6 * * *", name: daily}, {type: webhook, name: hook}]
nodes:
  zebra: {type: shell, config: {command: "echo hello {{ params.city | shell_quote }}; echo two; echo three >&2"}}
  list: {type: python, needs: [zebra], config: {code: "def main():\\n    return [1, 2]"}}
  each: {type: python, needs: [list], for_each: "{{ nodes.list.output }}", config: {code: "def main(x):\\n    print('item', x)\\n    return x * 10", args: {x: "{{ item }}"}}}
"""
FAILS = """
name: fails
nodes:
  bad: {type: shell, config: {command: "echo sorry; exit 3"}}
  after: {type: noop, needs: [bad]}
"""
OUTER = """
name: outer
nodes:
  call: {type: workflow, config: {name: flow, params: {city: Oslo}}}
"""
CODE = """
from agentflow import node, workflow
import helper

@node
def double(n: int) -> int:
    return helper.twice(n)

@workflow(name="coded", params={"n": {"type": "integer", "default": 4}})
def coded(n):
    double(n)
"""


@dataclass
class Said:
    code: int
    out: str
    err: str


class Sides:
    """Says lines on both sides; what a line printed may be kept for later ones."""

    def __init__(self, environments: dict[str, dict[str, str]], folder: Path) -> None:
        self.environments, self.folder = environments, folder
        self.kept: dict[str, dict[str, str]] = {HERE: {}, THERE: {}}

    def say(self, side: str, line: str, stdin: str = "") -> Said:
        words = shlex.split(line.format(**self.kept[side], folder=self.folder))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
        out, err = io.StringIO(), io.StringIO()
        with ExitStack() as stack:
            stack.enter_context(patch("agentflow.db.migrate.head", return_value=HEAD))  # read once is enough
            stack.enter_context(patch.dict(os.environ, clean | self.environments[side], clear=True))
            stack.enter_context(patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            code = main(words)
        return Said(code, out.getvalue(), err.getvalue())

    def both(
        self, line: str, *, code: int = 0, keep: str = "", stdin: str = "", unordered: bool = False, same: bool = True
    ) -> Said:
        """Say a line on both sides; they must answer alike (in other words if not `same`), with this exit code."""
        here, there = (self.say(side, line, stdin) for side in (HERE, THERE))
        told = f"{line}\n--- here: {here}\n--- there: {there}"
        assert (here.code, there.code) == (code, code), told
        if same:
            assert plain(here.out, unordered) == plain(there.out, unordered), told
        if same and "wait" not in line:  # progress is what each saw, and when
            assert plain(here.err, unordered) == plain(there.err, unordered), told
        if keep:
            for side, said in ((HERE, here), (THERE, there)):
                self.kept[side][keep] = said.out.strip().splitlines()[0]
        return there


_ALIKE = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "<time>"),
    (r"\d\d:\d\d:\d\d\.\d{3}", "<time>"),
    (r"\b(cli|key):[\w.-]+", "<who>"),
    (r"/hooks/\S+?(?=[\s\"]|$)", "/hooks/<token>"),
    (r"\b\d+ms\b|\b\d+\.\ds\b", "<took>"),
    (r"\b(cli|api)\b(?=\s+(-|<time>)\s+<time>)", "<by>"),
    (r"triggered by\s+(cli|api)", "triggered by <by>"),
    (rf"\b{THERE}\b", HERE),
    (r'"id": \d+', '"id": 0'),
    (r"[ \t]+", " "),
]
#: What a side may tell in its own way.
_OWN = {"beat_age", "key", "event_seq", "request_id", "triggered_by", "token", "signing_secret", "used_at", "prefix"}
_OWN |= {"state_counts"}  # kept a moment after a run's end


def plain(text: str, unordered: bool) -> Any:
    """An answer without what differs between two sides that do the same."""
    documents = []
    for line in text.splitlines():
        try:
            documents.append(json.dumps(_strip(json.loads(line))))
        except ValueError:
            documents.append(line)
    text = "\n".join(documents)
    for pattern, word in _ALIKE:
        text = re.sub(pattern, word, text)
    lines = [line.strip() for line in text.splitlines()]
    return sorted(lines) if unordered else lines


def _strip(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _strip(value) for key, value in document.items() if key not in _OWN}
    return [_strip(item) for item in document] if isinstance(document, list) else document


def _key(connection: Any, workspace: str) -> str:
    made = api_keys.create_api_key(
        connection, "cli", scopes=["admin"], user=None, now=utc_now(), actor="test", workspace=workspace
    )
    return str(made["key"])


@pytest.fixture(scope="module")
def sides(shared_engine, tmp_path_factory, unused_port):
    folder = tmp_path_factory.mktemp("remote")
    url = shared_engine.url.render_as_string(hide_password=False)
    site = Site(url, folder, secret_key=SECRET)

    def prepare(connection: Any) -> str:
        for name in (HERE, THERE):
            workspaces.create_workspace(connection, name, actor="test")
            key = _key(connection, name)
        return key

    key = transact(shared_engine, prepare)
    for name, content in (
        ("flow.yaml", FLOW),
        ("fails.yaml", FAILS),
        ("outer.yaml", OUTER),
        ("broken.yaml", "name: ["),
        ("secret.txt", "hush-hush-hush"),
    ):
        (folder / name).write_text(content)
    (folder / "code").mkdir()
    (folder / "code" / "coded.py").write_text(CODE)
    (folder / "code" / "helper.py").write_text("def twice(n):\n    return 2 * n\n")
    server_home = {"AGENTFLOW_DATABASE_URL": url, "AGENTFLOW_HOME": str(folder), "AGENTFLOW_SECRET_KEY": SECRET}
    limits = {f"AGENTFLOW_RATE_LIMIT_{name}": "" for name in ("READ", "RUN", "WRITE", "LOGIN", "HOOK", "REFUSED")}
    log = (folder / "webserver.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "agentflow", "webserver", "--port", str(unused_port)],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("AGENTFLOW_")}, **server_home, **limits},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{unused_port}"

    def answers() -> bool:
        assert server.poll() is None, (folder / "webserver.log").read_text()
        try:
            return httpx.get(f"{address}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, "an answer of the webserver", 60)
        yield Sides(
            {
                HERE: {**server_home, "AGENTFLOW_WORKSPACE": HERE},
                THERE: {
                    "AGENTFLOW_API_URL": address,
                    "AGENTFLOW_API_KEY": key,
                    "AGENTFLOW_HOME": str(folder / "empty"),
                },
            },
            folder,
        )
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
        log.close()
        site.close()


@pytest.fixture(scope="module")
def unused_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def applied(sides):
    sides.both("apply {folder}/flow.yaml {folder}/fails.yaml {folder}/outer.yaml --json")
    return sides


def test_workflows(applied):
    both = applied.both
    both("apply {folder}/flow.yaml")
    both("apply {folder}/broken.yaml --json", code=1)
    both("apply {folder}/none.yaml", code=1)
    both("workflows list --json", unordered=True)
    both("workflows show flow")
    both("workflows show flow --json")
    both("workflows show nothing --json", code=1)
    both("workflows show flwo", code=1)
    both("export flow")
    both("export flow --json --version 1")
    both("export flow --version 9 --json", code=1)
    both("workflows pause flow --json")
    both("workflows pause flow")
    both("trigger flow --wait --json", code=1)
    both("workflows unpause flow --json")
    both("next flow --count 3 --from 2026-03-01 --json")
    both("next nothing", code=1)
    both("webhooks list --json")
    both("webhooks rotate flow")
    both("webhooks rotate flow --signed --json")
    both("webhooks rotate fails --json", code=1)
    both("webhooks revoke flow/hook --json")
    both("webhooks revoke flow/nothing", code=1)
    both("import-errors --json")
    both("schedulers --json")
    both("why 0192f0c1-2f7b-7000-8000-000000000000 x --json", code=1)


def test_code_is_uploaded(sides):
    both = sides.both
    both("apply {folder}/code/coded.py --json")
    both("apply {folder}/code/coded.py --json")
    both("trigger coded --param n=21 --wait --json")
    both("runs list --workflow coded --json")
    both("workflows delete coded --yes --json")


def test_runs(applied):
    both = applied.both
    both("trigger flow --param city=Bonn --note hello --logical-date 2026-01-05", keep="run")
    both("trigger flow --logical-date 2026-01-05 --json", code=1)
    both("runs wait {run} --json")
    both("trigger flow --param count=x --param nope=1 --json", code=2)
    both("trigger nothing", code=1)
    both("trigger fails --wait --json", code=1)
    both("trigger fails --wait", keep="bad", code=1)
    both("runs show {run} --json")
    both("runs show {run}")
    both("runs show {run} each --json")
    both("runs show {run} 'each[1]' --json")
    both("runs show {run} nothing --json", code=1)
    both("runs show nonsense", code=1)
    both("runs list --workflow flow --state success --json")
    both("runs list --limit 2 --json --workflow fails")
    both("runs list --workflow nothing --json", code=1)
    both("runs list --cursor nonsense --json", code=2)
    both("logs {run} --json", unordered=True)
    both("logs {run} zebra", unordered=True)
    both("logs {run} each --json")
    both("logs {run} zebra --attempt 1 --after 1 --until 2 --json", unordered=True)
    both("logs {run} --follow --json", unordered=True)
    both("logs {run} nothing", code=1)
    both("output {run} each")
    both("output {run} list --map-index 4", code=1)
    both("why {run} list --json")
    both("runs note {run} 'a remark' --json")
    both("runs cancel {run} --json")
    both("runs clear {run} --node list --downstream --dry-run --json")
    both("runs clear {run} --node list --downstream")
    both("runs wait {run}")
    both("runs mark {bad} bad success --json")
    both("runs mark {bad} nothing success --json", code=1)
    both("runs mark {bad} bad running --json", code=2, same=False)
    both("runs clear --workflow flow --from 2026-01-01 --to 2026-02-01 --dry-run --json")
    both("runs cancel --workflow flow --json")
    both("runs rerun {run}", keep="again")
    both("runs wait {again}")
    both("runs delete {again} --yes --json")
    both("runs show {again}", code=1)
    both("events --subject {run} --json")
    both("events --action run.cleared --limit 1")


def test_sub_runs(applied):
    both = applied.both
    both("trigger outer", keep="outer")
    both("runs wait {outer}")
    both("runs show {outer} 'call.sub[0]' --json")
    both("runs show {outer} 'call.sub[0].each[0]' --json")
    both("logs {outer} 'call.sub[0].zebra'", unordered=True)
    both("output {outer} 'call.sub[0].list'")


def test_backfills(applied):
    both = applied.both
    both("backfill flow --from 2025-03-01 --to 2025-03-03 --dry-run --json")
    both("backfill flow --from 2025-03-01 --to 2025-03-03 --dry-run")
    both("backfill flow --from yesterday --to 2025-03-03", code=2)
    both("backfill fails --from 2025-03-01 --to 2025-03-03 --json", code=1)
    both("workflows pause flow")
    both("backfill flow --from 2025-03-01 --to 2025-03-02", keep="backfill")
    both("backfill pause {backfill} --json")
    both("backfill unpause {backfill}")
    both("backfill show {backfill} --json")
    both("backfill cancel {backfill} --running --json")
    both("backfill list --json")
    both("backfill show nonsense --json", code=1)
    both("runs list --backfill {backfill} --json")
    both("workflows unpause flow")


def test_named(sides):
    both = sides.both
    both("pools set small 3 --description tight --json")
    both("pools list --json")
    both("pools delete small --json")
    both("pools delete small --json", code=1)
    both("pools delete default", code=1)
    both("variables set city Bonn")
    both("variables set '9bad' x --json", code=2)
    both("variables set many --as-json '[1, {{\"a\": null}}]' --json")
    both("variables list --json")
    both("secrets set API_KEY --from-file {folder}/secret.txt --json")
    both("secrets set API_KEY --json", stdin="short\n")
    both("secrets set '9bad'", code=2, stdin="x")
    both("secrets list --json")
    both("secrets delete API_KEY")
    both("connections set db --type postgres --field host=h --secret password=@{folder}/secret.txt --json")
    both("connections list --json")
    both("connections delete db")


def test_accounts(sides):
    both = sides.both
    both("api-keys create temp --scope read --expires 30d --json")
    both("api-keys create temp --scope read --json", code=1)
    both("api-keys create other --scope nonsense", code=2, same=False)
    both("api-keys revoke temp --json")
    both("api-keys revoke temp", code=1)
    both("api-keys list --revoked --json", unordered=True)
    for side, name in ((HERE, "ada"), (THERE, "bob")):
        made = sides.say(side, f"users create {name}@example.org --role viewer --link --json")
        assert json.loads(made.out)["link"], made
        granted = sides.say(side, f"users grant {name}@example.org editor --json")
        assert json.loads(granted.out)["role"] == "editor", granted
        (listed,) = json.loads(sides.say(side, "users list --members --json").out)["items"]
        assert listed["email"] == f"{name}@example.org"
        assert "none" in sides.say(side, f"users grant {name}@example.org none").out
    both("users grant nobody@example.org editor --json", code=1)
    both("users grant nobody@example.org king", code=2)
    for line in ("users create eve@example.org", "api-keys create mine --scope read --user bob@example.org"):
        assert sides.say(THERE, line, stdin="some password here").code == 2
    refused = sides.say(THERE, "workspaces create third --json")
    assert (refused.code, json.loads(refused.out)["error"]["type"]) == (1, "forbidden")


def test_doctor_looks_at_the_server(sides):
    said = sides.say(THERE, "doctor --json")
    found = {check["name"]: check for check in json.loads(said.out)["checks"]}
    assert found.keys() == {"api", "api key", "server's database", "server's migrations", "server's scheduler"}
    assert {check["status"] for check in found.values()} == {"ok"}, said
    assert THERE in found["api key"]["detail"]
    assert "admin" in found["api key"]["detail"]


def test_what_works_on_a_database_says_so(sides):
    for line in ("db current --json", "db upgrade", "secrets rotate-keys --json"):
        said = sides.say(THERE, line)
        assert said.code == 2, said
        assert "AGENTFLOW_DATABASE_URL" in said.out + said.err


def test_what_needs_no_server_works_without_one(sides):
    for line in ("validate {folder}/flow.yaml --json", "schema", "next {folder}/flow.yaml --json", "config"):
        sides.both(line) if line != "config" else sides.say(THERE, line)
    told = sides.say(THERE, "config --json")
    (key,) = [item for item in json.loads(told.out)["items"] if item["name"] == "AGENTFLOW_API_KEY"]
    assert key["value"] == "***"


def test_a_wrong_key_and_no_server(sides):
    good = dict(sides.environments[THERE])
    try:
        sides.environments[THERE]["AGENTFLOW_API_KEY"] = "af_wrong"
        said = sides.say(THERE, "workflows list --json")
        assert (said.code, json.loads(said.out)["error"]["type"]) == (1, "unauthenticated")
        assert "AGENTFLOW_API_KEY" in json.loads(said.out)["error"]["hint"]
        (key,) = [
            check for check in json.loads(sides.say(THERE, "doctor --json").out)["checks"] if check["name"] == "api key"
        ]
        assert key["status"] == "failed"
        sides.environments[THERE]["AGENTFLOW_API_URL"] = "http://127.0.0.1:1"
        said = sides.say(THERE, "workflows list --json")
        assert (said.code, json.loads(said.out)["error"]["type"]) == (3, "api-unreachable")
        assert sides.say(THERE, "doctor").code == 3
    finally:
        sides.environments[THERE] = good
