"""A look at a web server, for `wait`."""

from __future__ import annotations

from typing import Final

from agentflow.nodes.base import NodeContext, NodeFailed
from agentflow.nodes.http_exchange import exchange
from agentflow.nodes.wait_conditions import HttpCondition
from agentflow.templates import evaluate, truth

#: Refusals that no later answer can change; everything else may be a server that is not up yet.
_FINAL: Final = frozenset({"AddressRefused", "InvalidUrl", "RedirectRefused", "TooManyRedirects", "BodyTooLarge"})


async def look_at_server(config: HttpCondition, context: NodeContext) -> str | None:
    """Why the condition does not hold; None when it does.

    Raises:
        NodeFailed: The request is refused, whatever the server says.
        TemplateError: The condition fails, or gives neither true nor false.
    """
    try:
        response = await exchange(config, context)
    except NodeFailed as error:
        if error.kind in _FINAL:
            raise
        return str(error).partition("; the body begins")[0]
    if config.condition is None or truth(evaluate(config.condition, {"response": response})):
        return None
    return f"the answer (status {response['status']}) does not fulfil the condition"
