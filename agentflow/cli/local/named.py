"""Pools, variables, secrets, connections and webhooks on the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from agentflow import secrets, settings_store, webhooks
from agentflow.cli.local.group import Document, Group, keys_for_writing


class Pools(Group):
    """Limits on node runs at once."""

    def list(self) -> Iterator[Document]:
        """Every pool."""
        yield from self._session.do(partial(settings_store.list_pools, **self._where))[0]

    def set(self, name: str, slots: int, *, description: str | None = None) -> Document:
        """Create a pool or change it."""
        change = partial(settings_store.set_pool, name=name, slots=slots, description=description, **self._who)
        return self._session.do(change)

    def delete(self, name: str) -> Document:
        """Delete a pool."""
        return self._session.do(partial(settings_store.delete_pool, name=name, **self._who))


class Variables(Group):
    """Values that templates read."""

    def list(self) -> Iterator[Document]:
        """Every variable."""
        yield from self._session.do(partial(settings_store.list_variables, **self._where))[0]

    def set(self, name: str, value: Any) -> Document:
        """Create a variable or change it."""
        return self._session.do(partial(settings_store.set_variable, name=name, value=value, **self._who))

    def delete(self, name: str) -> Document:
        """Delete a variable."""
        return self._session.do(partial(settings_store.delete_variable, name=name, **self._who))


class Secrets(Group):
    """Values that nobody reads back."""

    def list(self) -> Iterator[Document]:
        """Names of the secrets."""
        yield from self._session.do(partial(secrets.list_secrets, **self._where))[0]

    def set(self, name: str, value: str) -> Document:
        """Create a secret or change it."""
        ring = keys_for_writing(self._session.settings)
        return self._session.do(partial(secrets.set_secret, name=name, value=value, ring=ring, **self._who))

    def delete(self, name: str) -> Document:
        """Delete a secret."""
        return self._session.do(partial(secrets.delete_secret, name=name, **self._who))


class Connections(Group):
    """How to reach other systems."""

    def list(self) -> Iterator[Document]:
        """Every connection."""
        yield from self._session.do(partial(secrets.list_connections, **self._where))[0]

    def set(
        self,
        name: str,
        *,
        type: str,  # noqa: A002 - the API's word
        config: Mapping[str, Any],
        secrets: Mapping[str, str],
    ) -> Document:
        """Create a connection or replace it whole."""
        from agentflow.secrets import set_connection

        ring = keys_for_writing(self._session.settings) if secrets else None
        change = partial(set_connection, name=name, type=type, config=config, secrets=secrets, ring=ring, **self._who)
        return self._session.do(change)

    def delete(self, name: str) -> Document:
        """Delete a connection."""
        return self._session.do(partial(secrets.delete_connection, name=name, **self._who))


class Webhooks(Group):
    """Addresses that start runs."""

    def list(self) -> Iterator[Document]:
        """Webhook triggers."""
        yield from self._session.do(partial(webhooks.list_webhooks, **self._where))[0]

    def rotate(self, workflow: str, trigger: str | None = None, *, signed: bool = False) -> Document:
        """Make a new token."""
        ring = keys_for_writing(self._session.settings) if signed else None
        return self._session.do(
            lambda connection: webhooks.rotate_webhook(connection, workflow, trigger, ring=ring, **self._who)
        )

    def revoke(self, name: str) -> Document:
        """Forget a token."""
        return self._session.do(partial(webhooks.revoke_webhook, name=name, **self._who))
