"""Workflows written in Python (SEMANTICS 9).

    from agentflow import workflow, node

    @node(retries=2)
    def load(city: str) -> list[int]: ...

    @workflow(params={"city": {"type": "string", "default": "Berlin"}})
    def sales(city):
        rows = load(city)
        node.shell("notify", command=f"echo {rows[0]}")

The body of a `@workflow` function runs while the file is read, and only to draw the graph: a call of a `@node`
function adds a node, and what the call returns stands for an output that does not exist yet. This package imports
nothing outside the standard library until a graph is built, because runners import workflow files for their functions.
"""

from agentflow.sdk.expressions import Expression
from agentflow.sdk.functions import NodeFunction, chain, node
from agentflow.sdk.graph import NodeResult
from agentflow.sdk.workflow import Workflow, workflow

__all__ = ["Expression", "NodeFunction", "NodeResult", "Workflow", "chain", "node", "workflow"]
