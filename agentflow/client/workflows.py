"""`client.workflows`: definitions."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from agentflow.client.documents import Applied, Changed, Trigger, Version, VersionItem, Workflow, WorkflowItem
from agentflow.client.http import Http, address
from agentflow.client.pages import each


@dataclass(frozen=True, slots=True)
class Application:
    """A workflow to be created or changed."""

    spec: Mapping[str, Any]  #: Its document.
    source_path: str | None = None  #: The file it comes from, for people.
    bundle_hash: str | None = None  #: Of the code that its nodes run with.


class Workflows:
    """Definitions of workflows."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(
        self,
        *,
        search: str | None = None,
        tags: Sequence[str] = (),
        paused: bool | None = None,
        source: Literal["file", "api"] | None = None,
    ) -> Iterator[WorkflowItem]:
        """Every workflow by name."""
        query = {"search": search, "tag": list(tags), "paused": paused, "source": source}
        return each(self._http, "/workflows", query)

    def get(self, name: str) -> Workflow:
        """A workflow with its published spec."""
        return cast("Workflow", self._http.get(address("workflows", name)))

    def versions(self, name: str) -> Iterator[VersionItem]:
        """Its versions, the newest first."""
        return each(self._http, address("workflows", name, "versions"))

    def version(self, name: str, number: int) -> Version:
        """One version with its spec."""
        return cast("Version", self._http.get(address("workflows", name, "versions", number)))

    def export(self, name: str, version: int | None = None) -> dict[str, Any]:
        """The document of a version, ready to be applied; by default the published one."""
        query = {"version": version, "format": "json"}
        return cast("dict[str, Any]", self._http.get(address("workflows", name, "export"), query))

    def put(self, spec: Mapping[str, Any], *, base: int | None = None) -> Applied:
        """Create or change one workflow and publish it.

        Args:
            spec: Its document.
            base: The version that it was made on.

        Raises:
            StaleVersion: Somebody published another version than `base` meanwhile.
        """
        headers = None if base is None else {"If-Match": f'"{base}"'}
        answer = self._http.call(
            "PUT", address("workflows", str(spec.get("name"))), body=spec, headers=headers, repeatable=base is None
        )
        return cast("Applied", answer.json())

    def apply(self, workflows: Sequence[Application], bundles: Mapping[str, bytes] | None = None) -> Sequence[Applied]:
        """Create or change workflows with their code: all of them or none. The same content again changes nothing.

        Args:
            workflows: What they are to be.
            bundles: Code by its hash, as `agentflow.bundles` packs it.
        """
        body = {
            "workflows": [
                {"spec": each.spec, "source_path": each.source_path, "bundle": each.bundle_hash} for each in workflows
            ],
            "bundles": {name: base64.b64encode(data).decode() for name, data in (bundles or {}).items()},
        }
        answer = self._http.call("POST", "/workflows/apply", body=body, repeatable=True)
        return cast("list[Applied]", answer.json()["items"])

    def pause(self, name: str) -> Changed:
        """Stop its triggers and claims."""
        return self._set_paused(name, paused=True)

    def unpause(self, name: str) -> Changed:
        """Let it fire and run again."""
        return self._set_paused(name, paused=False)

    def _set_paused(self, name: str, *, paused: bool) -> Changed:
        before = self.get(name)["paused"]
        if before != paused:
            self._http.call("PATCH", address("workflows", name), body={"paused": paused}, repeatable=True)
        return {"name": name, "changed": before != paused}

    def delete(self, name: str) -> Changed:
        """Delete it with its versions and history; refused while runs are open."""
        self._http.call("DELETE", address("workflows", name))
        return {"name": name, "changed": True}

    def triggers(self, name: str | None = None, *, fires: int = 3) -> Iterator[Trigger]:
        """The triggers of a workflow, or of all, with their next fire times."""
        return each(self._http, "/triggers", {"workflow": name, "fires": fires})
