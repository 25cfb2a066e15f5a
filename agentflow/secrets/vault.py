"""Hands the secrets that attempts name to the scheduler, decrypted, and keeps none of them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, text

from agentflow.db.arrays import ints
from agentflow.errors import NotFound, SecretUnreadable
from agentflow.keys import key_ring
from agentflow.secrets.envelope import Place, Sealed, unseal
from agentflow.secrets.store import TABLE
from agentflow.settings import Settings

#: A secret: the id of its workspace, and its name.
Wanted = tuple[int, str]

_LOAD = text("""
SELECT s.workspace_id, s.name, s.ciphertext, s.key_id, s.wrapped_key
FROM unnest(CAST(:workspaces AS int[]), CAST(:names AS text[])) AS w(workspace_id, name)
JOIN secret s ON s.workspace_id = w.workspace_id AND s.name = w.name
""")


class SecretMissing(NotFound):
    """A node names a secret that does not exist."""

    word = "secret-missing"


class Vault:
    """Decrypts secrets on request. Keys are read anew each time, so a rotation needs no restart."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def reveal(
        self, connection: Connection, wanted: Collection[Wanted]
    ) -> dict[Wanted, str | SecretMissing | SecretUnreadable]:
        """The value of each wanted secret, or why there is none: one that is missing must not stop the others.

        Raises:
            SettingsError: There are secrets, but no key.
        """
        ordered = sorted(set(wanted))
        rows = connection.execute(
            _LOAD, {"workspaces": ints(owner for owner, _ in ordered), "names": [name for _, name in ordered]}
        ).all()
        found: dict[Wanted, str | SecretMissing | SecretUnreadable] = {}
        if rows:
            ring = key_ring(self._settings.secret_key, self._settings.home)
        for row in rows:
            place = Place(TABLE, row.workspace_id, row.name)
            try:
                value = unseal(ring, place, Sealed(row.ciphertext, row.key_id, row.wrapped_key))
            except SecretUnreadable as error:
                found[row.workspace_id, row.name] = error
            else:
                found[row.workspace_id, row.name] = value
        for key in ordered:
            if key not in found:
                hint = f"set it with `agentflow secrets set {key[1]}`"
                found[key] = SecretMissing(f"the secret `{key[1]}` does not exist", hint=hint)
        return found
