"""What `agentflow doctor` looks at when the command line works through a webserver."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from agentflow.cli.checks import Check, Status
from agentflow.client import Client
from agentflow.client.documents import Me
from agentflow.errors import AgentFlowError, ApiUnreachable

_READINESS_HINTS = {
    "database": "the webserver does not reach its database: `agentflow doctor` there tells more",
    "migrations": "run `agentflow db upgrade` there",
    "scheduler": "start one there: `agentflow standalone` or `agentflow scheduler`",
}


def api_checks(client: Client) -> Iterator[Check]:
    """The server, its version, who we are there, and whether it can run workflows.

    Raises:
        ApiUnreachable: Nobody answers.
    """
    yield _check_server(client)
    yield _check_key(client)
    for found in client.system.readiness()["checks"]:
        hint = None if found["ok"] else _READINESS_HINTS.get(found["name"])
        # Without a scheduler nothing runs, but all else works, as it does on the database.
        bad: Status = "warning" if found["name"] == "scheduler" else "failed"
        yield Check(f"server's {found['name']}", "ok" if found["ok"] else bad, found["detail"] or "well", hint)


def _check_server(client: Client) -> Check:
    ours, theirs = version("agentflow"), client.system.version()
    detail = f"{client.url}, version {theirs}"
    if ours.split(".")[:2] != theirs.split(".")[:2]:
        hint = "install the same version here: commands and server may not understand each other"
        return Check("api", "warning", f"{detail}; this is {ours}", hint)
    return Check("api", "ok", detail)


def _check_key(client: Client) -> Check:
    try:
        me = client.system.me()
    except ApiUnreachable:
        raise
    except AgentFlowError as error:
        return Check("api key", "failed", error.message, error.hint or "is AGENTFLOW_WORKSPACE the key's workspace?")
    if me["role"] is None:
        return Check("api key", "failed", _who(me), "ask an admin of the workspace for a role, or for another key")
    return Check("api key", "ok", _who(me))


def _who(me: Me) -> str:
    scopes = f", scopes {', '.join(me['scopes'])}" if me["scopes"] is not None else ""
    return f"{me['name']}, {me['role'] or 'no role'} in the workspace {me['workspace']!r}{scopes}"
