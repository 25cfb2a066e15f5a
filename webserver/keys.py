"""The keys that encrypt secrets."""

from __future__ import annotations

from agentflow.errors import SettingsError
from agentflow.keys import KeyRing, key_ring
from webserver.errors import Unavailable
from webserver.state import current_web


def keys() -> KeyRing:
    """The keys in force; read anew each time, so a rotation needs no restart.

    Raises:
        Unavailable: There is none here.
    """
    settings = current_web().settings
    try:
        return key_ring(settings.secret_key, settings.home)
    except SettingsError as error:
        raise Unavailable("This server has no key to encrypt secrets with.", hint=error.hint) from error
