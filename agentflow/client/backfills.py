"""`client.backfills`: past dates of triggers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, cast

from agentflow.client.documents import Backfill, BackfillCancelled, BackfillPreview, Done, Page
from agentflow.client.http import Http, address
from agentflow.client.pages import page


class Backfills:
    """Runs of the past dates of triggers."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def create(self, workflow: str, *, from_: str, to: str, confirmed: bool = False, **more: Any) -> Backfill:
        """Run the past dates of a trigger.

        Args:
            workflow: Its name.
            from_: The first date, in the trigger's time zone unless it says.
            to: The last one, included; without a time its whole day.
            confirmed: Also with more than 100,000 dates.
            more: `trigger`, `reprocess` (none, failed, all), `reverse`, `max_active_runs`, `params`.
        """
        body = {"from": from_, "to": to, "confirmed": confirmed, **more}
        return cast("Backfill", self._make(workflow, body, {"Idempotency-Key": str(uuid.uuid4())}))

    def preview(self, workflow: str, *, from_: str, to: str, **more: Any) -> BackfillPreview:
        """What `create` would do with the same arguments."""
        return cast("BackfillPreview", self._make(workflow, {"from": from_, "to": to, "dry_run": True, **more}))

    def _make(self, workflow: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        path = address("workflows", workflow, "backfills")
        body = {name: value for name, value in body.items() if value is not None}
        return self._http.call("POST", path, body=body, headers=headers, repeatable=True).json()

    def page(
        self, *, workflow: str | None = None, state: str | None = None, limit: int = 25, cursor: str | None = None
    ) -> Page[Backfill]:
        """A page of backfills, the newest first."""
        return page(self._http, "/backfills", {"workflow": workflow, "state": state}, limit=limit, cursor=cursor)

    def get(self, backfill_id: str) -> Backfill:
        """One backfill and how far it has come."""
        return cast("Backfill", self._http.get(address("backfills", backfill_id)))

    def pause(self, backfill_id: str) -> Done:
        """Let it start no more runs."""
        return self._set_paused(backfill_id, paused=True)

    def unpause(self, backfill_id: str) -> Done:
        """Let it go on."""
        return self._set_paused(backfill_id, paused=False)

    def _set_paused(self, backfill_id: str, *, paused: bool) -> Done:
        answer = self._http.call("PATCH", address("backfills", backfill_id), body={"paused": paused})
        return cast("Done", answer.json())

    def cancel(self, backfill_id: str, *, running: bool = False) -> BackfillCancelled:
        """End it; `running` cancels its running runs too."""
        answer = self._http.call("POST", address("backfills", backfill_id, "cancel"), body={"running": running})
        return cast("BackfillCancelled", answer.json())
