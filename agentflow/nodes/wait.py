"""Waits for a duration or until a time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from agentflow.clock import iso, utc_now
from agentflow.nodes.base import NodeConfig, NodeContext, NodeType
from agentflow.nodes.fields import Duration

#: Parts of the type that the contract names and this version does not have; refused, never ignored.
_NOT_YET: Final = ("run", "http", "sql", "file", "poke_interval", "timeout", "soft_fail")

#: Seconds; a wait for a time looks at the clock this often, so that a corrected clock is noticed.
_LOOK: Final = 60.0


def _read_time(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise ValueError("must be an ISO 8601 time such as 2026-12-01T09:00:00Z")  # noqa: TRY004 - pydantic reports ValueError
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an ISO 8601 time such as 2026-12-01T09:00:00Z") from None


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Moment = Annotated[
    datetime,
    BeforeValidator(_read_time),
    AfterValidator(_in_utc),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class WaitConfig(NodeConfig):
    """Config of `wait`."""

    for_: Duration | None = Field(None, alias="for", description="How long to wait, such as 30s or 2h")
    until: Moment | None = Field(None, description="Time to wait for, ISO 8601; without an offset it is in UTC")

    @model_validator(mode="before")
    @classmethod
    def _one_condition(cls, given: Any) -> Any:
        if isinstance(given, dict):
            missing = [name for name in _NOT_YET if name in given]
            if missing:
                raise ValueError(f"`{missing[0]}` of wait is not supported in this version; use `for` or `until`")
            if ("for" in given) == ("until" in given):
                raise ValueError("give exactly one of `for` and `until`")
        return given

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        if self.for_ is None and self.until is None:
            raise ValueError("`for` or `until` is null; give a duration or a time")
        return self


class WaitNode(NodeType[WaitConfig]):
    """Sleeps in its attempt."""

    name = "wait"
    title = "Wait"
    description = "Waits for a duration or until a time."
    Config = WaitConfig

    def run(self, config: WaitConfig, context: NodeContext) -> dict[str, float]:
        """Seconds waited."""
        began = time.monotonic()
        due = due_at(config, utc_now())
        context.log(f"waiting until {iso(due)}")
        while (left := _left(config, began)) > 0:
            time.sleep(min(left, _LOOK))
        return {"waited_s": round(time.monotonic() - began, 3)}


def due_at(config: WaitConfig, now: datetime) -> datetime:
    """When the wait is over, in UTC, if it begins now; a time in the past is returned as it is."""
    if config.until is not None:
        return config.until
    return now.astimezone(UTC) + (config.for_ or timedelta())


def _left(config: WaitConfig, began: float) -> float:
    """Seconds still to wait: durations by the monotonic clock, times by the wall clock."""
    if config.until is not None:
        return (config.until - utc_now()).total_seconds()
    return began + (config.for_ or timedelta()).total_seconds() - time.monotonic()
