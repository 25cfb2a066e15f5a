"""Hands the secrets and connections that attempts name to the scheduler, decrypted, and keeps none of them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.db.arrays import ints
from agentflow.errors import AgentFlowError, NotFound, SecretUnreadable, SettingsError
from agentflow.keys import key_ring
from agentflow.secrets.connections import TABLE as CONNECTIONS
from agentflow.secrets.envelope import Place, Sealed, unseal
from agentflow.secrets.store import TABLE
from agentflow.settings import Settings
from agentflow.workload import ConnectionFields

#: A secret: the id of its workspace, and its name.
Wanted = tuple[int, str]

_LOAD = text("""
SELECT s.workspace_id, s.name, s.ciphertext, s.key_id, s.wrapped_key
FROM unnest(CAST(:workspaces AS int[]), CAST(:names AS text[])) AS w(workspace_id, name)
JOIN secret s ON s.workspace_id = w.workspace_id AND s.name = w.name
""")


_LOAD_CONNECTIONS = text("""
SELECT c.workspace_id, c.name, c.type, c.config, c.ciphertext, c.key_id, c.wrapped_key
FROM unnest(CAST(:workspaces AS int[]), CAST(:names AS text[])) AS w(workspace_id, name)
JOIN connection c ON c.workspace_id = w.workspace_id AND c.name = w.name
""")


class ConnectionMissing(NotFound):
    """A node names a connection that does not exist."""

    word = "connection-missing"


class SecretMissing(NotFound):
    """A node names a secret that does not exist."""

    word = "secret-missing"


class Vault:
    """Decrypts secrets on request. Keys are read anew each time, so a rotation needs no restart."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def reveal(self, connection: Connection, wanted: Collection[Wanted]) -> dict[Wanted, str | AgentFlowError]:
        """The value of each wanted secret, or why there is none: one that is missing must not stop the others."""
        ordered = sorted(set(wanted))
        rows = connection.execute(
            _LOAD, {"workspaces": ints(owner for owner, _ in ordered), "names": [name for _, name in ordered]}
        ).all()
        found = {key: _missing(key[1]) for key in ordered}
        return found | {(row.workspace_id, row.name): self._open(row, TABLE) for row in rows}

    def reveal_connections(
        self, connection: Connection, wanted: Collection[Wanted]
    ) -> dict[Wanted, ConnectionFields | AgentFlowError]:
        """The same for connections: their fields, plain and secret."""
        ordered = sorted(set(wanted))
        rows = connection.execute(
            _LOAD_CONNECTIONS,
            {"workspaces": ints(owner for owner, _ in ordered), "names": [name for _, name in ordered]},
        ).all()
        found: dict[Wanted, ConnectionFields | AgentFlowError] = {key: _no_connection(key[1]) for key in ordered}
        for row in rows:
            opened = self._open(row, CONNECTIONS) if row.ciphertext is not None else "{}"
            found[row.workspace_id, row.name] = (
                opened
                if isinstance(opened, AgentFlowError)
                else ConnectionFields(fields={**row.config, "type": row.type}, secrets=json.loads(opened))
            )
        return found

    def _open(self, row: Row[Any], table: str) -> str | AgentFlowError:
        place = Place(table, row.workspace_id, row.name)
        try:
            ring = key_ring(self._settings.secret_key, self._settings.home)
            return unseal(ring, place, Sealed(row.ciphertext, row.key_id, row.wrapped_key))
        except SecretUnreadable as error:
            return error
        except SettingsError as error:  # no key at all
            return SecretUnreadable(f"{place} cannot be decrypted: {error.message}", hint=error.hint)


def _no_connection(name: str) -> AgentFlowError:
    hint = f"set it with `agentflow connections set {name} --type postgres …`"
    return ConnectionMissing(f"the connection `{name}` does not exist", hint=hint)


def _missing(name: str) -> str | AgentFlowError:
    return SecretMissing(f"the secret `{name}` does not exist", hint=f"set it with `agentflow secrets set {name}`")
