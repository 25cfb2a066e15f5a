"""The core and SDK of AgentFlow: `from agentflow import workflow, node`.

The names are loaded on first use, so that importing any part of the core stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentflow.sdk import Workflow, chain, node, workflow

__all__ = ["Workflow", "chain", "node", "workflow"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from agentflow import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module 'agentflow' has no attribute {name!r}")
