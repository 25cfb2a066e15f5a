"""Definitions on the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from agentflow import catalog
from agentflow.bundles import Bundle
from agentflow.cli.local.group import Document, Group
from agentflow.client.workflows import Application
from agentflow.spec import parse_document


class Workflows(Group):
    """Definitions of workflows."""

    def list(self) -> Iterator[Document]:
        """Every workflow by name."""
        yield from self._session.do(partial(catalog.list_workflows, **self._where))[0]

    def get(self, name: str) -> Document:
        """A workflow with its published spec."""
        return self._session.do(partial(catalog.show_workflow, name=name, **self._where))

    def export(self, name: str, version: int | None = None) -> dict[str, Any]:
        """The document of a version."""
        return self._session.do(partial(catalog.export_spec, name=name, version=version, **self._where))

    def apply(self, workflows: Sequence[Application], bundles: Mapping[str, bytes] | None = None) -> Sequence[Document]:
        """Create or change workflows with their code: all of them or none."""
        specs = [parse_document(dict(each.spec)) for each in workflows]
        code = {name: Bundle(name, data) for name, data in (bundles or {}).items()}

        def work(connection: Any) -> Sequence[Document]:
            return [
                catalog.apply_spec(
                    connection,
                    spec,
                    source="api",
                    source_path=each.source_path,
                    bundle=code[each.bundle_hash] if each.bundle_hash else None,
                    **self._who,
                )
                for spec, each in zip(specs, workflows, strict=True)
            ]

        return self._session.do(work)

    def pause(self, name: str) -> Document:
        """Stop its triggers and claims."""
        return self._set_paused(name, paused=True)

    def unpause(self, name: str) -> Document:
        """Let it fire and run again."""
        return self._set_paused(name, paused=False)

    def _set_paused(self, name: str, *, paused: bool) -> Document:
        return self._session.do(lambda connection: catalog.set_paused(connection, name, paused, **self._who))

    def delete(self, name: str) -> Document:
        """Delete it with its versions."""
        return self._session.do(lambda connection: catalog.delete_workflow(connection, name, **self._who))
