"""Every command goes through the webserver that AGENTFLOW_API_URL names, or says why it does not (docs/client.md).

Nobody answers at the address here, so whoever asks it ends with exit code 3; whoever opens a database instead ends the test.
What the commands say when somebody answers is compared in test_remote.py.
"""

from __future__ import annotations

import io
import sys

import pytest

import agentflow.postgres
from agentflow.client import Client
from tests.acceptance.test_json_output import ARGUMENTS, COMMANDS

#: They work on this machine, wherever the API is.
HERE = {("standalone",), ("scheduler",), ("webserver",), ("run",), ("validate",), ("schema",), ("config",)}
#: They work on the database itself, and refuse.
ON_THE_DATABASE = {words for words in COMMANDS if words[0] == "db"} | {("secrets", "rotate-keys")}
#: What a command needs beside one word for each of its arguments.
GIVEN = {
    ("apply",): ["{file}"],
    ("api-keys", "create"): ["x", "--scope", "run"],
    ("connections", "set"): ["x", "--type", "http"],
    ("db", "prune"): ["--older-than", "90d"],
    ("users", "create"): ["x@example.org", "--link"],
    ("users", "grant"): ["x@example.org", "viewer"],
    ("users", "reset-password"): ["x@example.org", "--link"],
}


@pytest.fixture
def database_url():
    """None is needed, and none is made."""
    return ""


@pytest.fixture
def remote(cli, monkeypatch, tmp_path):
    """Commands that may ask nobody but an address where nobody is."""

    def no_database(*_arguments):
        raise AssertionError("a command opened a database although AGENTFLOW_API_URL is set")

    monkeypatch.setattr(agentflow.postgres, "database", no_database)
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "patience", 0.0)
    monkeypatch.setattr(Client, "wait_longer", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"correct horse battery")))
    monkeypatch.setenv("AGENTFLOW_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AGENTFLOW_API_KEY", "af_key")
    file = tmp_path / "flow.yaml"
    file.write_text("name: flow\nnodes: {a: {type: noop}}\n")

    def say(words):
        needed = [parameter for parameter in COMMANDS[words].params if parameter.param_type_name == "argument"]
        guessed = ["x" for parameter in needed if parameter.required]
        arguments = GIVEN.get(words) or ARGUMENTS.get(words) or guessed
        return cli(*words, *(argument.format(file=file) for argument in arguments), "--json")

    return say


@pytest.mark.parametrize("words", sorted(COMMANDS.keys() - HERE - ON_THE_DATABASE), ids=" ".join)
def test_it_asks_the_webserver(remote, words):
    said = remote(words)
    assert said.code == 3, said
    assert "http://127.0.0.1:1 does not answer" in said.out


@pytest.mark.parametrize("words", sorted(ON_THE_DATABASE), ids=" ".join)
def test_it_says_that_it_needs_the_database(remote, words):
    said = remote(words)
    assert (said.code, said.error["type"]) == (2, "usage")
    assert "works on the database itself" in said.error["detail"]
