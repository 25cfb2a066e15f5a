from __future__ import annotations

import pytest

from agentflow.spec import json_schema, node_policy, parse_document
from agentflow.spec.policy import NodePolicy
from agentflow.spec.resources import parse_cpu, parse_memory
from agentflow.templates import References


def policy(node=None, **workflow):
    nodes = {"up": {"type": "noop"}, "a": {"type": "noop", **(node or {})}}
    return node_policy(parse_document({"name": "w", "nodes": nodes, **workflow}), "a")


def test_a_bare_node_has_the_built_in_values():
    assert policy() == NodePolicy(
        trigger_rule="all_success", when=None, retries=0, retry_delay=10.0, retry_backoff=1.0, retry_max_delay=3600.0,
        for_each=None, max_parallel=None, repeat=None, retry_jitter=0.0, retry_on=None, fail_on=None,
        timeout=None, executor=None, queue="default", pool="default", pool_slots=1, priority=0, memory=None, cpu=None,
        references=References(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "shared", "own", "expected_shared", "expected_own"),
    [
        ("trigger_rule", "always", "all_done", "always", "all_done"),
        ("retries", 2, 0, 2, 0),
        ("retry_delay", "1m", "0s", 60.0, 0.0),
        ("retry_backoff", 2, 1.5, 2.0, 1.5),
        ("retry_max_delay", "2h", "PT5M", 7200.0, 300.0),
        ("timeout", "1m", "250ms", 60.0, 0.25),
        ("executor", "subprocess", "local", "subprocess", "local"),
        ("queue", "gpu", "default", "gpu", "default"),
        ("pool", "api", "default", "api", "default"),
        ("pool_slots", 3, 1, 3, 1),
        ("priority", 5, 0, 5, 0),
    ],
)
def test_a_node_overrides_the_defaults_of_the_workflow(key, shared, own, expected_shared, expected_own):
    assert getattr(policy(defaults={key: shared}), key) == expected_shared
    assert getattr(policy({key: own}, defaults={key: shared}), key) == expected_own


def test_executor_and_queue_fall_back_to_the_workflow():
    found = policy(executor="subprocess", queue="gpu")
    assert (found.executor, found.queue) == ("subprocess", "gpu")
    assert policy(executor="subprocess", defaults={"executor": "local"}).executor == "local"


def test_resources_are_merged_key_by_key():
    found = policy({"resources": {"cpu": "500m"}}, defaults={"resources": {"cpu": 2, "memory": "1Gi"}})
    assert (found.cpu, found.memory) == (0.5, 2**30)


def test_references_are_those_of_config_and_when():
    found = policy(
        {
            "needs": ["up"],
            "when": "{{ params.p }}",
            "config": {"output": ["{{ nodes.up.output }} {{ vars.v }} {{ secrets.s }}"]},
        },
        params={"p": {}},
    ).references
    assert (found.nodes, found.params, found.vars, found.secrets) == ({"up"}, {"p"}, {"v"}, {"s"})


@pytest.mark.parametrize(
    ("text", "cores"), [("500m", 0.5), ("2", 2.0), (2, 2.0), (0.25, 0.25), ("0.1", 0.1), ("1500m", 1.5)]
)
def test_cpu_is_read_as_cores(text, cores):
    assert parse_cpu(text) == cores


@pytest.mark.parametrize("text", ["", "0", "-1", "2 cores", "1Gi", True, None, "1025", "1e3", "1" * 50])
def test_other_cpu_is_refused(text):
    with pytest.raises(ValueError):
        parse_cpu(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512Mi", 512 * 2**20), ("1G", 10**9), ("1.5Gi", 3 * 2**29), ("2000k", 2_000_000), ("1Ti", 2**40), (2**20, 2**20)],
)
def test_memory_is_read_as_bytes(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "512", "512m", "1GB", "1 Gi", "-1G", True, [], "33Ti", "1K"])
def test_other_memory_is_refused(text):
    with pytest.raises(ValueError):
        parse_memory(text)


def schema_parts(value):
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from schema_parts(item)
    elif isinstance(value, list):
        for item in value:
            yield from schema_parts(item)


def test_the_json_schema_is_whole_and_describes_every_key():
    schema = json_schema()

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["name", "nodes"]
    for part in schema_parts(schema):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]
    for name in ("NodeSpec", "TriggerSpec", "Defaults"):
        for key, field in schema["$defs"][name]["properties"].items():
            assert field.get("description"), (name, key)
        assert schema["$defs"][name]["additionalProperties"] is False


def test_the_json_schema_knows_the_config_of_each_node_type():
    rules = {
        rule["if"]["properties"]["type"]["const"]: rule["then"]["properties"]["config"]
        for rule in json_schema()["$defs"]["NodeSpec"]["allOf"]
    }
    assert {"noop", "python", "shell", "http", "template", "branch", "wait"} <= rules.keys()
    assert "command" in rules["shell"]["required"]
    assert {"type": "string", "pattern": r"\{[\{%#]"} in rules["shell"]["properties"]["skip_exit_code"]["anyOf"]
