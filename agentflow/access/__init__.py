"""Who may do what: roles and principals."""

from agentflow.access.roles import Principal, Role

__all__ = ["Principal", "Role"]
