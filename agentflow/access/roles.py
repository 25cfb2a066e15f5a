"""Roles, and who acts: pure values, without web or database."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import total_ordering
from typing import Literal


@total_ordering
class Role(Enum):
    """What a member of a workspace may do; each role may do all that the ones before it may (SEMANTICS section 10)."""

    VIEWER = "viewer"  #: Reads.
    OPERATOR = "operator"  #: Runs, cancels, clears, marks, pauses, backfills.
    EDITOR = "editor"  #: Everything that changes what runs: workflows, variables, connections, values of secrets.
    ADMIN = "admin"  #: Users, keys, pools, the workspace.

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Role):
            return NotImplemented
        order = list(Role)
        return order.index(self) < order.index(other)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is from, and what it may do in the workspace it names."""

    kind: Literal["user", "key", "session", "system"]
    id: str  #: Of the user or key.
    name: str  #: As the audit log has it: `user:ada@example.org`, `key:af_1a2b`.
    workspace_id: int
    workspace: str
    role: Role | None  #: None: signed in, but not a member of this workspace.
    instance_admin: bool = False
    scopes: frozenset[str] | None = None  #: Of an API key; None: all that the role may do.
