"""Transactions of requests: each begins by saying on whose behalf it reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, text

from agentflow.access import Principal
from agentflow.db.engine import KEYED, transact
from agentflow.db.tenancy import AUTH, WEB
from webserver.access import current_principal
from webserver.state import current_web

T = TypeVar("T")

#: One round trip, for the length of the transaction: what policies of the tables read (agentflow.db.tenancy).
_ENTER_SQL = "SELECT set_config('role', :role, true), set_config('app.workspace', :workspace, true)"
_ENTER = text(_ENTER_SQL)
#: For reads that follow keys: their plans are kept, since under the policies it takes far longer to make one than to run
#: it; and kept plans must be right for the largest run (agentflow.db.engine).
_ENTER_KEYED = text(
    ", ".join([_ENTER_SQL, *(f"set_config('{name}', '{value}', true)" for name, value in KEYED.items())])
)


def enter(connection: Connection, principal: Principal) -> None:
    """Bind a transaction to the workspace of a principal."""
    connection.execute(_ENTER, _web(principal.workspace_id))


def _web(workspace_id: int) -> dict[str, str]:
    return {"role": WEB, "workspace": str(workspace_id)}


def do(work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction on behalf of the caller; deadlocks are retried."""
    return do_in(current_principal().workspace_id, work)


def look_up(work: Callable[[Connection], T]) -> T:
    """As `do`, for work whose statements all begin at a key (a run, a node) and read no more than they show."""
    workspace = _web(current_principal().workspace_id)

    def scoped(connection: Connection) -> T:
        connection.execute(_ENTER_KEYED, workspace)
        return work(connection)

    return transact(current_web().engine, scoped)


def do_in(workspace_id: int, work: Callable[[Connection], T]) -> T:
    """As `do`, in a workspace that something else than a login gives access to."""

    def scoped(connection: Connection) -> T:
        connection.execute(_ENTER, _web(workspace_id))
        return work(connection)

    return transact(current_web().engine, scoped)


def do_as_auth(work: Callable[[Connection], T]) -> T:
    """Run `work` where it is not known yet who asks, and for what workspace: it sees accounts, and no workspace."""

    def scoped(connection: Connection) -> T:
        connection.execute(_ENTER, {"role": AUTH, "workspace": ""})
        return work(connection)

    return transact(current_web().engine, scoped)
