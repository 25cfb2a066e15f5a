from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from agentflow.errors import NodeTypeUnknown, NodeTypeUnusable
from agentflow.nodes import registry
from agentflow.nodes.base import LITERAL, NodeConfig, NodeType


def forget():
    for cached in (registry._sources, registry.get, registry.literal_fields, registry._waits_only):
        cached.cache_clear()


@pytest.fixture
def installed(monkeypatch):
    """Replace what is installed; call with entry points as (name, value)."""

    def install(*points):
        found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
        monkeypatch.setattr(registry, "_installed", lambda: found)
        forget()

    yield install
    monkeypatch.undo()
    forget()


@pytest.fixture
def foreign(monkeypatch):
    """A module of another package with node types."""
    module = ModuleType("foreign_nodes")

    class ForeignConfig(NodeConfig):
        text: str = ""

    class Ours(NodeType[ForeignConfig]):
        name = "noop"
        title = description = "Another no-op"
        Config = ForeignConfig

    module.Noop = Ours
    module.NotANode = dict
    monkeypatch.setitem(sys.modules, "foreign_nodes", module)
    return module


def test_the_types_of_the_first_release_are_installed():
    assert registry.names() == ["branch", "http", "noop", "python", "shell", "template", "wait", "workflow"]


def test_the_built_in_table_equals_the_entry_points_of_the_wheel():
    assert {point.name: point.value for point in registry._installed()} == dict(registry.BUILT_IN)


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_every_type_describes_itself_and_each_of_its_fields(name):
    node_type = registry.get(name)
    assert node_type.name == name
    assert node_type.title
    assert node_type.description
    schema = registry.config_schema(name)
    assert schema["additionalProperties"] is False
    for field in schema["properties"].values():
        assert field.get("description")


def test_built_in_types_are_found_without_the_metadata_of_the_wheel(installed):
    installed()
    assert registry.get("shell").name == "shell"


def test_an_entry_point_wins_over_the_built_in_table(installed, foreign):
    installed(("noop", "foreign_nodes:Noop"))
    assert type(registry.get("noop")) is foreign.Noop


def test_a_type_is_loaded_once():
    assert registry.get("noop") is registry.get("noop")


def test_a_type_that_two_packages_offer_is_refused_and_both_are_named(installed, foreign):
    installed(("noop", "foreign_nodes:Noop"), ("noop", "agentflow.nodes.noop:NoopNode"))
    with pytest.raises(NodeTypeUnusable, match=r"agentflow\.nodes\.noop:NoopNode, foreign_nodes:Noop"):
        registry.get("noop")


def test_a_broken_package_breaks_its_own_type_only(installed, foreign):
    installed(("a", "no_such_module:A"), ("b", "foreign_nodes:NotANode"), ("c", "foreign_nodes:Noop"))
    for name, message in (("a", "No module named"), ("b", "not a subclass"), ("c", "calls itself `noop`")):
        with pytest.raises(NodeTypeUnusable, match=message):
            registry.get(name)
    assert registry.get("shell").name == "shell"


def test_an_unknown_type_is_answered_with_the_nearest_name():
    with pytest.raises(NodeTypeUnknown) as caught:
        registry.get("shel")
    assert caught.value.hint == "did you mean `shell`?"


def test_literal_fields_are_those_marked_in_the_schema():
    assert registry.literal_fields("python") == {"code", "function"}
    assert registry.literal_fields("branch") == {"default"}
    assert registry.literal_fields("shell") == set()
    assert registry.config_schema("python")["properties"]["code"]["x-template"] is LITERAL["x-template"]


def test_only_python_nodes_use_the_code_bundle():
    assert [name for name in registry.names() if registry.uses_code(name)] == ["python"]


def test_only_types_that_merely_wait_share_a_process_and_only_without_a_limit_of_memory():
    assert "http" in [name for name in registry.names() if registry.shares_process(name, memory=None)]
    assert not {"python", "shell"} & {name for name in registry.names() if registry.shares_process(name, memory=None)}
    assert not registry.shares_process("http", memory=2**30)
    assert not registry.shares_process("no-such-type", memory=None)


def test_a_type_of_another_package_has_a_process_of_its_own_whatever_it_says(installed):
    installed(("http", "foreign_nodes:Http"))
    assert not registry.shares_process("http", memory=None)
