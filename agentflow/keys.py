"""The secret key: signs and encrypts what must not be forged or read (SEMANTICS 8)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from agentflow.errors import SettingsError
from agentflow.home import write_private

ENVIRONMENT = "AGENTFLOW_SECRET_KEY"


def key_file(home: Path) -> Path:
    """Where a generated key is kept."""
    return home / "secret_key"


def ensure_secret_key(home: Path) -> None:
    """Generate the key (256 bits) into the home, unless the environment or the home has one. The home must exist."""
    if not os.environ.get(ENVIRONMENT) and not key_file(home).exists():
        write_private(key_file(home), secrets.token_urlsafe(32))


def secret_key(home: Path) -> str:
    """The key in force: the environment's, else the home's.

    Raises:
        SettingsError: There is none.
    """
    given = os.environ.get(ENVIRONMENT)
    if given:
        return given
    try:
        return key_file(home).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            f"{ENVIRONMENT} is not set and {key_file(home)} cannot be read",
            hint="set it to one long random text on every machine; `agentflow standalone` makes its own",
        ) from error
