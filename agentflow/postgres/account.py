"""The operating system account Postgres runs as: ours, or an unprivileged one when we are root (Postgres refuses root)."""

from __future__ import annotations

import os
import pwd

from agentflow.accounts import POSTGRES_USER, Account
from agentflow.errors import SettingsError


def server_account() -> Account:
    """The account for the server's processes.

    Raises:
        SettingsError: The system does not know it by name, which Postgres insists on.
    """
    own = os.geteuid()
    try:
        entry = pwd.getpwnam(POSTGRES_USER) if own == 0 else pwd.getpwuid(own)
    except KeyError as error:
        who = f"named {POSTGRES_USER}" if own == 0 else f"with the id {own}"
        raise SettingsError(
            f"The embedded Postgres cannot run: this system has no user {who}",
            hint="add one to /etc/passwd, or set AGENTFLOW_DATABASE_URL to a server of your own",
        ) from error
    return Account(entry.pw_uid, entry.pw_gid, switch=own == 0)
