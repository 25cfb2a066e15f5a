"""Secrets and connections: stored encrypted, readable by the attempts that name them and by nobody else."""

from agentflow.secrets.connections import delete_connection, list_connections, set_connection
from agentflow.secrets.rotation import Rotation, keys_in_use, rotate_keys
from agentflow.secrets.store import delete_secret, list_secrets, set_secret
from agentflow.secrets.vault import SecretMissing, Vault

__all__ = [
    "Rotation",
    "SecretMissing",
    "Vault",
    "delete_connection",
    "delete_secret",
    "keys_in_use",
    "list_connections",
    "list_secrets",
    "rotate_keys",
    "set_connection",
    "set_secret",
]
