"""What `agentflow.client.Client` does over HTTP, done here on the database: the same groups, the same signatures.

Commands call one or the other without knowing which; mypy holds both to what they ask.
"""

from agentflow.cli.local.api import LocalApi

__all__ = ["LocalApi"]
