from __future__ import annotations

import copy
import json
import random

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from agentflow.spec import content_hash, parse_document, parse_text, to_document, to_yaml

GOOD = """\
name: nightly-report                 # [a-z0-9][a-z0-9_-]{0,99}, unique in its workspace
title: Nightly report
description: Collects, summarises, posts.
tags: [reports]
params:                              # JSON Schema per param
  city: {type: string, default: Berlin}
triggers:
  - {type: cron, cron: "0 6 * * 1-5", timezone: Europe/Berlin, catchup: false}
  - {type: interval, every: 15m}
  - {type: date, at: "2026-12-01T09:00:00Z"}
max_active_runs: 4                   # default 16
concurrency: 32
timeout: 2h
defaults: {retries: 1, retry_delay: 10s, timeout: 10m}
nodes:
  fetch:
    type: http
    config: {url: "https://example.org/{{ params.city }}"}
  clean:
    type: python
    needs: [fetch]
    config:
      code: |
        def main(page):
            return {"words": len(page.split())}
      args: {page: "{{ nodes.fetch.output.body }}"}
  report:
    type: shell
    needs: [clean]
    trigger_rule: all_success
    when: "{{ nodes.clean.output.words > 10 }}"
    retries: 3
    retry_delay: 5s
    retry_backoff: 2.0
    retry_max_delay: 5m
    timeout: 30s
    executor: local
    pool: default
    priority: 10
    resources: {cpu: 500m, memory: 512Mi}
    config: {command: "echo {{ nodes.clean.output.words | shell_quote }}"}
    position: {x: 480, y: 120}
"""

EXPORT = """\
name: nightly-report
title: Nightly report
description: Collects, summarises, posts.
tags: [reports]
params:
  city:
    type: string
    default: Berlin
triggers:
  - type: cron
    cron: "0 6 * * 1-5"
    timezone: Europe/Berlin
  - type: interval
    every: 15m
  - type: date
    at: "2026-12-01T09:00:00Z"
max_active_runs: 4
concurrency: 32
timeout: 2h
defaults:
  retries: 1
  retry_delay: 10s
  timeout: 10m

nodes:
  fetch:
    type: http
    config:
      url: "https://example.org/{{ params.city }}"

  clean:
    type: python
    needs: [fetch]
    config:
      code: |
        def main(page):
            return {"words": len(page.split())}
      args:
        page: "{{ nodes.fetch.output.body }}"

  report:
    type: shell
    needs: [clean]
    trigger_rule: all_success
    when: "{{ nodes.clean.output.words > 10 }}"
    retries: 3
    retry_delay: 5s
    retry_backoff: 2
    retry_max_delay: 5m
    timeout: 30s
    executor: local
    pool: default
    priority: 10
    resources:
      cpu: 500m
      memory: 512Mi
    config:
      command: "echo {{ nodes.clean.output.words | shell_quote }}"
    position: {x: 480, y: 120}
"""


def good():
    return parse_text(GOOD, file="good.yaml")


def shuffled(value, seed=1):
    """The same document with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        random.Random(seed).shuffle(keys)
        return {key: shuffled(value[key], seed) for key in keys}
    return [shuffled(item, seed) for item in value] if isinstance(value, list) else value


def test_the_example_of_the_design_loads_with_its_values():
    spec = good()
    assert list(spec.nodes) == ["fetch", "clean", "report"]
    assert spec.nodes["report"].trigger_rule == "all_success"
    assert spec.nodes["clean"].config["code"].startswith("def main(page):\n")
    assert spec.triggers[0].timezone == "Europe/Berlin"


def test_the_example_is_exported_for_reading():
    assert to_yaml(good()) == EXPORT


def test_the_export_is_stable():
    assert to_yaml(parse_text(EXPORT, file="w.yaml")) == EXPORT


def test_the_hash_of_the_example_does_not_change_by_accident():
    # Every stored version carries it: a change makes a new version of every workflow at the next sync.
    assert content_hash(good()) == "464e249fea32e4c4cd33e9a90a437e83753a8089b074e99444ae7be87484e730"


@pytest.mark.parametrize("seed", range(3))
def test_the_hash_does_not_depend_on_the_order_of_keys(seed):
    assert content_hash(parse_document(shuffled(to_document(good()), seed))) == content_hash(good())


def test_the_hash_survives_json_and_jsonb():
    document = json.loads(json.dumps(to_document(good())))
    assert content_hash(parse_document(document)) == content_hash(good())


def with_change(path, value):
    document = copy.deepcopy(to_document(good()))
    target = document
    for part in path[:-1]:
        target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
    target[path[-1]] = value
    return parse_document(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("title",), "Other"),
        (("description",), "Other"),
        (("tags",), ["x"]),
        (("notes",), ["a note"]),
        (("nodes", "fetch", "title"), "Other"),
        (("nodes", "fetch", "notes"), "Other"),
        (("nodes", "fetch", "group"), "Other"),
        (("nodes", "fetch", "position"), {"x": 1.5, "y": 2}),
        (("triggers", 0, "catchup"), False),
        (("triggers", 1, "timezone"), "UTC"),
        (("triggers", 1, "params"), {}),
        (("depends_on_past",), False),
        (("defaults", "pool"), "default"),
        (("nodes", "fetch", "retries"), 1),
        (("nodes", "fetch", "retry_max_delay"), "1h"),
        (("nodes", "fetch", "needs"), []),
        (("nodes", "fetch", "resources"), {}),
        (("nodes", "fetch", "when"), None),
        (("nodes", "report", "needs"), ["clean", "clean"]),
        (("nodes", "report", "retry_backoff"), 2),
    ],
)
def test_what_does_not_change_the_work_does_not_change_the_hash(path, value):
    assert content_hash(with_change(path, value)) == content_hash(good())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "other"),
        (("max_active_runs",), 5),
        (("params", "city", "default"), "Rome"),
        (("triggers", 0, "paused"), True),
        (("nodes", "fetch", "retries"), 0),  # the workflow's default is 1
        (("nodes", "fetch", "needs"), []),
        (("nodes", "fetch", "config", "method"), "POST"),
        (("nodes", "report", "needs"), ["clean", "fetch"]),
        (("nodes", "report", "when"), False),
        (("nodes", "clean", "config", "args", "title"), "x"),
        (("nodes", "clean", "config", "code"), "def main(page): pass"),
        (("nodes", "extra"), {"type": "noop"}),
    ],
)
def test_what_changes_the_work_changes_the_hash(path, value):
    same = path == ("nodes", "fetch", "needs")  # the control: nothing changed
    assert (content_hash(with_change(path, value)) == content_hash(good())) is same


def test_numbers_that_json_does_not_tell_apart_hash_alike():
    def of(value):
        return parse_document({"name": "w", "nodes": {"a": {"type": "noop", "config": {"output": value}}}})

    assert content_hash(of(1.0)) == content_hash(of(1))
    assert content_hash(of(1e16)) == content_hash(of(10**16))
    assert len({content_hash(of(value)) for value in (1, True, "1", 1.5, None)}) == 5


def test_a_document_leaves_out_what_equals_the_default():
    spec = parse_document(
        {"name": "w", "max_active_runs": 16, "tags": [], "defaults": {}, "nodes": {"a": {"type": "noop", "needs": []}}}
    )
    assert to_document(spec) == {"name": "w", "nodes": {"a": {"type": "noop"}}}


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0{"), max_size=30)
lines = st.lists(st.text("ab :#-'\"\t\\é|>%@", max_size=8), max_size=5).map("\n".join)
tricky = st.sampled_from(
    ["", " ", "no", "ON", "y", "null", "~", "1", "1.5", "0x1F", "1e3", ".inf", "1:30", "2026-12-01", "a: b", "a #b", "- a",
     "? a", "[a]", "*a", "&a", "!a", "%a", "@a", "`a", "|", ">", "'", '"', "a'b", "\n", "a\n", "a\n\n", "\na", "  a\nb", "\ta\nb",
     "a\tb", "a\r\nb", "a\x85b\nc", "a\u2028b\nc", "\ufeffa", "é", "😀", "a\n---\nb", "...", "---", "a,b", "a:", ":a", "=", "<<",
     "15m", "5k", "1_0", "07", "+1", "\x7f", "#", "a ", " a", "end:", "x\n# y\n"]
)  # fmt: skip
any_text = texts | lines | tricky
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)
durations = st.sampled_from(["0s", "250ms", "30s", "1h30m", "PT5M", "1d"])


@st.composite
def documents(draw):
    names = draw(st.lists(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_-]{0,5}\Z"), min_size=1, max_size=5, unique=True))
    nodes = {}
    for index, name in enumerate(names):
        optional = {
            "title": any_text,
            "notes": any_text,
            "group": any_text,
            "needs": st.lists(st.sampled_from(names[:index]), max_size=3) if index else st.just([]),
            "when": st.sampled_from([True, False, "{{ run.id == 'x' }}"]),
            "retries": st.integers(0, 3),
            "retry_delay": durations,
            "retry_backoff": st.sampled_from([1, 1.5, 2.0]),
            "trigger_rule": st.sampled_from(["all_success", "always", "none_failed"]),
            "pool": st.sampled_from(["default", "gpu"]),
            "resources": st.sampled_from([{}, {"cpu": 1}, {"cpu": "500m", "memory": "1G"}]),
            "position": st.sampled_from([{"x": 1, "y": 2.5}, {"x": -1e9, "y": 0}]),
        }
        nodes[name] = {"type": "noop", "config": {"output": draw(values)}} | draw(
            st.fixed_dictionaries({}, optional=optional)
        )
    optional = {
        "title": any_text,
        "description": any_text,
        "tags": st.lists(any_text.filter(bool), max_size=3),
        "defaults": st.sampled_from([{}, {"retries": 0}, {"retries": 2, "pool": "gpu"}, {"retry_delay": "0s"}]),
        "max_active_runs": st.sampled_from([1, 16]),
        "params": st.dictionaries(
            st.sampled_from(["a", "no", "x-1"]), st.fixed_dictionaries({"default": values}), max_size=2
        ),
    }
    document = {"name": draw(st.sampled_from(["w", "no", "1", "0x1", "a-b", "1e3"])), "nodes": nodes}
    document |= draw(st.fixed_dictionaries({}, optional=optional))
    return json.loads(json.dumps(document).replace("\\u0000", "0"))


@given(documents())
def test_an_exported_workflow_loads_back_the_same(document):
    spec = parse_document(document)
    text = to_yaml(spec)

    for back in (parse_text(text, file="w.yaml"), parse_document(to_document(spec))):
        assert to_document(back) == to_document(spec)
        assert content_hash(back) == content_hash(spec)


@given(documents(), st.integers(0, 9))
def test_the_hash_of_any_workflow_ignores_the_order_of_keys(document, seed):
    assert content_hash(parse_document(shuffled(document, seed))) == content_hash(parse_document(document))


@given(documents())
@example({"name": "w", "nodes": {"a": {"type": "noop", "config": {"output": [1e-05, 1e16, 5e-324]}}}})
def test_other_yaml_readers_read_the_export_the_same(document):
    spec = parse_document(document)
    expected = to_document(spec)
    assert yaml.safe_load(to_yaml(spec)) == expected
