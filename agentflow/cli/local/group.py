"""What the groups have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentflow.keys import KeyRing, ensure_secret_key, key_ring

if TYPE_CHECKING:
    from agentflow.cli.context import Session
    from agentflow.settings import Settings

Document = dict[str, Any]


class Group:
    """Calls that belong together."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def _who(self) -> Document:
        return {"actor": self._session.actor, "workspace": self._session.workspace}

    @property
    def _where(self) -> Document:
        return {"workspace": self._session.workspace}


def keys_for_writing(settings: Settings) -> KeyRing:
    """The keys in force; beside the embedded database one is generated when it is first needed.

    Raises:
        SettingsError: The database is an external one, and there is no key.
    """
    if not settings.database_url:
        ensure_secret_key(settings.secret_key, settings.home)
    return key_ring(settings.secret_key, settings.home)
