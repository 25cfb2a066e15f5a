"""Users, API keys and workspaces on the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from agentflow.access import Role, api_keys, links, users, workspaces
from agentflow.access.accounts import user_id
from agentflow.cli.local.group import Document, Group
from agentflow.clock import utc_now

_MANY = 1000  #: Of a page.


class Users(Group):
    """People, and their roles."""

    def list(self, *, members: bool = True) -> Iterator[Document]:
        """The members of the workspace, or everybody."""
        where = self._session.workspace if members else None
        cursor: str | None = None
        while True:
            find = partial(users.list_users, workspace=where, limit=_MANY, cursor=cursor)
            items, cursor = self._session.do(find)
            yield from items
            if cursor is None:
                return

    def create(
        self,
        email: str,
        *,
        role: str | None = None,
        name: str = "",
        instance_admin: bool = False,
        password: str | None = None,
    ) -> Document:
        """Make a user with this password, or with a link that sets one."""

        def make(connection: Any) -> Document:
            made = users.create_user(
                connection,
                email,
                name=name,
                password=password,
                instance_admin=instance_admin,
                actor=self._session.actor,
            )
            if role is not None:
                workspaces.grant_role(connection, made["id"], role=Role(role), **self._who)
            if password is not None:
                return made
            link = links.make_link(connection, made["id"], "reset", now=utc_now(), actor=self._session.actor)
            return made | {"link": link}

        return self._session.do(make)

    def find(self, email: str) -> int:
        """Id of the user with this address."""
        return self._session.do(partial(user_id, email=email))

    def set_disabled(self, email: str, *, disabled: bool) -> Document:
        """Shut a user out, or let them in again."""

        def change(connection: Any) -> Document:
            user = user_id(connection, email)
            return users.update_user(connection, user, disabled=disabled, actor=self._session.actor)

        return self._session.do(change)

    def reset_password(self, email: str, password: str | None = None) -> Document:
        """Give a user another password, or a link that sets one."""

        def change(connection: Any) -> Document:
            user = user_id(connection, email)
            if password is not None:
                users.set_password(connection, user, password, actor=self._session.actor)
                return {"id": user, "changed": True}
            link = links.make_link(connection, user, "reset", now=utc_now(), actor=self._session.actor)
            return {"id": user, "changed": True, "link": link["token"]}

        return self._session.do(change)

    def grant(self, email: str, role: str | None) -> Document:
        """Give a user a role in the workspace, or take it away."""

        def change(connection: Any) -> Document:
            user = user_id(connection, email)
            if role is None:
                return workspaces.revoke_role(connection, user, **self._who)
            return workspaces.grant_role(connection, user, role=Role(role), **self._who)

        return self._session.do(change)


class ApiKeys(Group):
    """Keys of the workspace."""

    def list(self, *, revoked: bool = False) -> Iterator[Document]:
        """The keys, without themselves."""
        cursor: str | None = None
        while True:
            find = partial(api_keys.list_api_keys, revoked=revoked, limit=_MANY, cursor=cursor, **self._where)
            items, cursor = self._session.do(find)
            yield from items
            if cursor is None:
                return

    def create(
        self, name: str, *, scopes: Sequence[str], expires_at: datetime | None = None, user: str | None = None
    ) -> Document:
        """Make a key; it stands in this answer alone."""

        def make(connection: Any) -> Document:
            return api_keys.create_api_key(
                connection,
                name,
                scopes=scopes,
                user=None if user is None else user_id(connection, user),
                expires_at=expires_at,
                now=utc_now(),
                **self._who,
            )

        return self._session.do(make)

    def revoke(self, name: str) -> Document:
        """Stop the key of this name for good."""

        def change(connection: Any) -> Document:
            key = api_keys.api_key_id(connection, name, workspace=self._session.workspace)
            return api_keys.revoke_api_key(connection, key, **self._who)

        return self._session.do(change)


class Workspaces(Group):
    """Tenants."""

    def list(self) -> Iterator[Document]:
        """All of them."""
        yield from self._session.do(partial(workspaces.list_workspaces, everything=True))[0]

    def create(self, name: str) -> Document:
        """Make a workspace, with a default pool."""
        return self._session.do(partial(workspaces.create_workspace, name=name, actor=self._session.actor))
