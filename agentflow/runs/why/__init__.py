"""Why is it not running: one answer from everything that may keep a node run waiting.

`facts` reads what there is to know in a few bounded statements, `reasons` decides what of it matters (pure), and
`answer` puts both together.
"""

from agentflow.runs.why.answer import why

__all__ = ["why"]
