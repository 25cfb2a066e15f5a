"""Transactions of requests: each begins by saying on whose behalf it reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, text

from agentflow.access import Principal
from agentflow.db.engine import transact
from agentflow.db.tenancy import AUTH, WEB
from webserver.access import current_principal
from webserver.state import current_web

T = TypeVar("T")

#: One round trip, for the length of the transaction: what policies of the tables read (agentflow.db.tenancy).
_ENTER = text("SELECT set_config('role', :role, true), set_config('app.workspace', :workspace, true)")


def enter(connection: Connection, principal: Principal) -> None:
    """Bind a transaction to the workspace of a principal."""
    connection.execute(_ENTER, {"role": WEB, "workspace": str(principal.workspace_id)})


def do(work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction on behalf of the caller; deadlocks are retried."""
    return do_in(current_principal().workspace_id, work)


def do_in(workspace_id: int, work: Callable[[Connection], T]) -> T:
    """As `do`, in a workspace that something else than a login gives access to."""

    def scoped(connection: Connection) -> T:
        connection.execute(_ENTER, {"role": WEB, "workspace": str(workspace_id)})
        return work(connection)

    return transact(current_web().engine, scoped)


def do_as_auth(work: Callable[[Connection], T]) -> T:
    """Run `work` where it is not known yet who asks, and for what workspace: it sees accounts, and no workspace."""

    def scoped(connection: Connection) -> T:
        connection.execute(_ENTER, {"role": AUTH, "workspace": ""})
        return work(connection)

    return transact(current_web().engine, scoped)
