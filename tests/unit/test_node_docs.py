from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from agentflow.nodes import registry
from agentflow.nodes.base import NodeContext, NodeFailed

TEXT = Path(__file__).parents[2].joinpath("docs", "nodes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_the_page_has_every_key_of_every_type(name):
    section = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    rows = next(part for part in section if part.startswith(f"{name}\n"))
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", rows, flags=re.MULTILINE))))
    assert documented == set(registry.config_schema(name)["properties"])


def test_the_example_of_a_type_of_ones_own_works(monkeypatch):
    source = re.search(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)[1]
    module = ModuleType("acme_greet")
    monkeypatch.setitem(sys.modules, "acme_greet", module)
    exec(source, module.__dict__)
    node = module.GreetNode()
    assert node.run(node.Config(name="Ada"), NodeContext()) == {"text": "Hello Ada"}
    with pytest.raises(NodeFailed, match="nobody"):
        node.run(node.Config(name=""), NodeContext())
