"""Finding workspaces and workflows by name."""

from __future__ import annotations

import difflib
from typing import Literal, TypedDict

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from agentflow.db.models import Workflow, Workspace
from agentflow.errors import NotFound

DEFAULT_WORKSPACE = "default"

Lock = Literal["keep", "change", "delete"]


class _LockOptions(TypedDict, total=False):
    read: bool
    key_share: bool


_LOCKS: dict[Lock, _LockOptions] = {
    "keep": {"read": True, "key_share": True},  # FOR KEY SHARE
    "change": {"key_share": True},  # FOR NO KEY UPDATE
    "delete": {},  # FOR UPDATE
}


def workspace_id(connection: Connection, name: str = DEFAULT_WORKSPACE) -> int:
    """Id of a workspace.

    Raises:
        NotFound: There is none of this name.
    """
    found = connection.scalar(select(Workspace.id).where(Workspace.name == name))
    if found is None:
        raise NotFound(f"There is no workspace {name!r}.", hint="AGENTFLOW_WORKSPACE names the workspace")
    return found


def find_workflow(
    connection: Connection, name: str, *, workspace: str = DEFAULT_WORKSPACE, lock: Lock | None = None
) -> Workflow:
    """The published workflow of this name, detached; with `lock` its row stays locked until the transaction ends.

    Args:
        connection: The caller's transaction.
        name: Of the workflow.
        workspace: Its tenant.
        lock: `keep` lets others change it but not delete it, `change` keeps out other changes, `delete` everybody.

    Raises:
        NotFound: There is none; the message suggests a similar name.
    """
    owner = workspace_id(connection, workspace)
    published = (Workflow.workspace_id == owner, Workflow.source != "adhoc")
    query = select(Workflow).where(*published, Workflow.name == name)
    with Session(bind=connection) as session:
        found = session.scalar(query.with_for_update(**_LOCKS[lock]) if lock else query)
        if found is not None:
            session.expunge(found)
            return found
    names = list(connection.scalars(select(Workflow.name).where(*published).limit(1000)))
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean `{close[0]}`?" if close else "`agentflow workflows list` shows what there is"
    raise NotFound(f"There is no workflow {name!r}.", hint=hint)
