from __future__ import annotations

import pytest

from agentflow.nodes.config_check import contains_template, dotted
from agentflow.nodes.registry import config_problems

GOOD = [
    ("noop", {}),
    ("noop", {"output": {"any": ["thing", None, 1.5]}}),
    ("python", {"code": "def main():\n    return 1\n"}),
    ("python", {"code": "async def main(page): return page", "args": {"page": "{{ nodes.a.output }}"}}),
    ("python", {"code": "from json import dumps as main"}),
    ("python", {"code": "try:\n    def main(): pass\nexcept E: pass"}),
    ("python", {"code": "from tools import *"}),
    ("python", {"code": "def main(): return '{{ not a template'"}),
    ("python", {"function": "pkg.mod:Class.method", "args": {"a": 1}}),
    ("shell", {"command": "echo {{ params.x | shell_quote }}", "env": {"A": 1, "B": "{{ secrets.key }}"}}),
    ("shell", {"command": "ls", "files": {"a/b.json": {"x": 1}}, "cwd": "a", "skip_exit_code": None}),
    ("shell", {"command": "ls", "skip_exit_code": "{{ params.code }}"}),
    ("http", {"url": "https://example.org/{{ params.city }}"}),
    ("http", {"url": "{{ params.url }}", "timeout": "{{ params.timeout }}", "headers": "{{ params.headers }}"}),
    ("http", {"url": "https://example.org", "method": "post", "json": None, "expect": [200, "400-499"]}),
    ("http", {"url": "https://example.org", "query": {"a": ["x", 1], "b": True}}),
    ("template", {"template": "Dear {{ params.name }}"}),
    ("branch", {"cases": [{"when": "{{ params.x > 1 }}", "to": ["a", "b-c"]}, {"when": True, "to": []}]}),
    ("branch", {"cases": [{"when": None, "to": ["a"]}], "default": ["b"]}),
    ("wait", {"for": "30s"}),
    ("wait", {"for": "{{ params.delay }}"}),
    ("wait", {"until": "2026-12-01T09:00:00+01:00"}),
    ("wait", {"run": "{{ params.id }}", "timeout": "{{ params.limit }}"}),
    (
        "wait",
        {"run": {"workflow": "ingest", "logical_date": "{{ run.logical_date }}", "states": ["success", "failed"]}},
    ),
    ("wait", {"http": {"url": "https://x.org/{{ params.x }}", "condition": "{{ response.body.ready }}"}}),
    ("wait", {"sql": {"connection": "dwh", "query": "SELECT %(n)s > 0", "params": {"n": "{{ params.n }}"}}}),
    ("wait", {"file": {"path": "{{ params.path }}", "newer_than": "{{ run.logical_date }}", "min_size": 1}}),
    ("wait", {"file": "/data/*.csv", "poke_interval": "1s", "timeout": "1h", "soft_fail": True}),
]


@pytest.mark.parametrize(("name", "config"), GOOD)
def test_a_good_config_has_no_problems(name, config):
    assert config_problems(name, config) == []


BAD = [
    # type, config, path, part of the message
    ("noop", {"outputs": 1}, "outputs", "unknown key `outputs`"),
    ("python", {}, "", "exactly one of `code` and `function`"),
    ("python", {"code": "def main(): 1", "function": "a:b"}, "", "exactly one of `code` and `function`"),
    ("python", {"code": None}, "", "null"),
    ("python", {"code": "x = 1\ndef main(:\n  pass"}, "code", "line 2: invalid syntax: def main(:"),
    ("python", {"code": "def main():\n  return await x"}, "code", "line 2: 'await' outside async function"),
    ("python", {"code": "x = 1"}, "code", "does not define `main`"),
    ("python", {"code": "print(main)"}, "code", "does not define `main`"),
    ("python", {"code": "class A:\n    def main(self): pass"}, "code", "does not define `main`"),
    ("python", {"code": "def main(): pass\n\0"}, "code", "null bytes"),
    ("python", {"code": "def main(): return " + "(" * 500}, "code", "too many nested"),
    ("python", {"code": "def main(): return " + "-" * 100_000 + "1"}, "code", "nested too deeply"),
    ("python", {"code": "def main(): return " + "?" * 5000}, "code", "?" * 61 + "…"),
    ("python", {"code": "def main(): pass\n" + "x = 1\n" * 50_000}, "code", "more than 262,144; put it into a module"),
    ("python", {"code": "{{ params.code }}"}, "code", "does not define `main`"),
    ("python", {"function": "no colon"}, "function", "module:function"),
    ("python", {"function": "a:b", "args": [1]}, "args", "must be an object"),
    ("shell", {}, "command", "`command` is required"),
    ("shell", {"command": ["ls"]}, "command", "must be text"),
    ("shell", {"command": ""}, "command", "must not be empty"),
    ("shell", {"command": "curl -H {{ secrets.key }}"}, "command", "secrets may not be used in `command`"),
    ("shell", {"command": "echo {{ secrets['a b'] | shell_quote }}"}, "command", "secrets may not be used"),
    ("shell", {"command": "ls", "env": {"A-B": "1"}}, "env", "`A-B` is not a name of an environment variable"),
    ("shell", {"command": "ls", "env": {"AGENTFLOW_OUTPUT": "1"}}, "env", "is set by AgentFlow"),
    ("shell", {"command": "ls", "env": {"A": None}}, "env.A", "is null"),
    ("shell", {"command": "ls", "env": {"A": "x\0"}}, "env.A", "NUL"),
    ("shell", {"command": "ls", "files": {"../x": ""}}, "files", "`../x` must be a path inside"),
    ("shell", {"command": "ls", "files": {"/etc/x": ""}}, "files", "must be a path inside"),
    ("shell", {"command": "ls", "skip_exit_code": 300}, "skip_exit_code", "less than or equal to 255"),
    ("http", {}, "url", "`url` is required"),
    ("http", {"url": "example.org"}, "url", "http:// or https://"),
    ("http", {"url": "ftp://example.org"}, "url", "http:// or https://"),
    ("http", {"url": "http://"}, "url", "http:// or https://"),
    ("http", {"url": "http://[::1"}, "url", "Invalid IPv6 URL"),
    ("http", {"url": "https://x.org", "method": "FETCH"}, "method", "must be 'GET'"),
    ("http", {"url": "https://x.org", "json": 1, "body": "x"}, "", "`json` or `body`, not both"),
    ("http", {"url": "https://x.org", "body": {"a": 1}}, "body", "must be text"),
    ("http", {"url": "https://x.org", "timeout": 30}, "timeout", "must be a duration such as"),
    ("http", {"url": "https://x.org", "timeout": "0s"}, "timeout", "longer than 0"),
    ("http", {"url": "https://x.org", "expect": []}, "expect", "must not be empty"),
    ("http", {"url": "https://x.org", "expect": ["399-200"]}, "expect[0]", "range such as 200-399"),
    ("http", {"url": "https://x.org", "headers": {"a b": "x"}}, "headers", "`a b` is not a name of an HTTP header"),
    ("http", {"url": "https://x.org", "headers": {"Content-Length": 1}}, "headers", "is set by AgentFlow"),
    ("http", {"url": "https://x.org", "headers": {"a": "x\r\nb: y"}}, "headers.a", "line break"),
    ("http", {"url": "https://x.org", "query": {"a": {"b": 1}}}, "query.a[0]", "must be text"),
    ("branch", {"cases": []}, "cases", "must not be empty"),
    ("branch", {"cases": [{"when": "yes", "to": ["a"]}]}, "cases[0].when", "must be true or false"),
    ("branch", {"cases": [{"when": 1, "to": ["a"]}]}, "cases[0].when", "must be true or false"),
    ("branch", {"cases": [{"when": True, "to": "a"}]}, "cases[0].to", "must be a list"),
    ("branch", {"cases": [{"when": True, "to": ["a b"]}]}, "cases[0].to[0]", "must be the id of a node"),
    ("branch", {"cases": [{"when": True, "to": ["a"]}], "default": ["{{ x }}"]}, "default[0]", "id of a node"),
    ("wait", {}, "", "exactly one of `for`, `until`, `run`, `http`, `sql` and `file`"),
    ("wait", {"for": "1s", "until": "2026-12-01"}, "", "exactly one of `for`"),
    ("wait", {"for": "1s", "file": "/x"}, "", "exactly one of `for`"),
    ("wait", {"for": "1s", "poke_interval": "5s"}, "", "`poke_interval` says nothing with `for`"),
    ("wait", {"file": "/x", "poke_interval": "999ms"}, "poke_interval", "from 1s to 1d"),
    ("wait", {"file": "/x", "poke_interval": "2d"}, "poke_interval", "from 1s to 1d"),
    ("wait", {"file": "/x", "poke_interval": 5}, "poke_interval", "must be a duration"),
    ("wait", {"file": "/x", "timeout": "0s"}, "timeout", "longer than 0"),
    ("wait", {"file": "/x", "soft_fail": "perhaps"}, "soft_fail", "boolean"),
    ("wait", {"file": "data/x"}, "file.path", "absolute path"),
    ("wait", {"file": {"path": "/x", "min_size": -1}}, "file.min_size", "greater than or equal to 0"),
    ("wait", {"file": {"path": "/x", "newer_than": "today"}}, "file.newer_than", "ISO 8601"),
    ("wait", {"file": {"path": "/x", "size": 1}}, "file.size", "unknown key `size`"),
    ("wait", {"run": "last"}, "run.id", "id of a run, or {workflow, logical_date, states}"),
    ("wait", {"run": {}}, "run", "exactly one of `id` and `workflow`"),
    ("wait", {"run": {"workflow": "A b"}}, "run.workflow", "name of a workflow"),
    ("wait", {"run": {"workflow": "a", "states": []}}, "run.states", "must not be empty"),
    ("wait", {"run": {"workflow": "a", "states": ["running"]}}, "run.states[0]", "'success', 'failed' or 'cancelled'"),
    ("wait", {"run": {"workflow": "a", "logical_date": "x"}}, "run.logical_date", "ISO 8601"),
    ("wait", {"run": {"id": "01890000-0000-7000-8000-000000000000", "logical_date": "2026-01-01"}}, "run", "with `id`"),
    ("wait", {"run": None}, "", "null"),
    ("wait", {"http": {}}, "http.url", "`url` is required"),
    ("wait", {"http": {"url": "x.org"}}, "http.url", "begins with http://"),
    (
        "wait",
        {"http": {"url": "https://x.org", "condition": "ready"}},
        "http.condition",
        "exactly one {{ expression }}",
    ),
    (
        "wait",
        {"http": {"url": "https://x.org", "condition": "{{ params.x == response.status }}"}},
        "http.condition",
        "knows only `response`",
    ),
    ("wait", {"sql": "SELECT 1"}, "sql", "must be an object"),
    ("wait", {"sql": {"query": "SELECT 1"}}, "sql.connection", "`connection` is required"),
    ("wait", {"sql": {"connection": "x", "query": ""}}, "sql.query", "must not be empty"),
    ("wait", {"for": "soon"}, "for", "is not a duration"),
    ("wait", {"for": None}, "", "null"),
    ("wait", {"until": "tomorrow"}, "until", "not an ISO 8601 time"),
    ("wait", {"until": 5}, "until", "ISO 8601"),
]


@pytest.mark.parametrize(("name", "config", "path", "message"), BAD)
def test_a_bad_config_is_refused_with_path_and_reason(name, config, path, message):
    problems = config_problems(name, config)
    assert path in [problem.path for problem in problems]
    assert any(message in problem.message for problem in problems if problem.path == path), problems


def test_all_problems_are_told_at_once():
    config = {"ulr": "x", "method": "FETCH", "expect": ["x", 200, "y"]}
    paths = [problem.path for problem in config_problems("http", config)]
    assert paths == ["method", "url", "expect[0]", "expect[2]", "ulr"]


def test_a_wrong_value_beside_a_templated_one_is_still_told():
    config = {"url": "{{ params.url }}", "expect": ["{{ params.status }}", "nope"]}
    assert [problem.path for problem in config_problems("http", config)] == ["expect[1]"]


def test_a_nearly_right_key_is_answered_with_the_right_one():
    hints = {problem.path: problem.hint for problem in config_problems("http", {"ur": "x", "zzz": 1})}
    assert hints["ur"] == "did you mean `url`?"
    assert hints["zzz"].startswith("known keys: method, url, ")
    assert " json, " in hints["zzz"]


def test_a_deep_document_is_searched_without_recursion():
    deep = leaf = {}
    for _ in range(50_000):
        leaf["a"] = leaf = {}
    assert not contains_template(deep)
    leaf["a"] = ["{% if x %}"]
    assert contains_template(deep)


def test_paths_are_written_as_in_the_file():
    assert dotted(("cases", 0, "to", 2)) == "cases[0].to[2]"
    assert dotted(()) == ""
