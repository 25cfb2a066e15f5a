"""Waits without a slot: for a time, another run, a web server, a database, a file.

The scheduler itself waits for times and runs; conditions outside of it are looked at in short turns of the attempt,
between which nobody holds it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agentflow.clock import iso, utc_now
from agentflow.durations import format_duration
from agentflow.nodes.base import (
    MAX_DEFERRAL,
    AsyncNodeType,
    NodeConfig,
    NodeContext,
    NodeDeferred,
    NodeFailed,
    NodeSkipped,
    unheard,
)
from agentflow.nodes.fields import Duration, Moment
from agentflow.nodes.wait_conditions import AwaitedRun, FileCondition, HttpCondition, SqlCondition

#: Kinds that the scheduler decides by itself, with its evaluator.
OWN_KINDS: Final = ("for", "until", "run")
#: Kinds that are looked at again and again, where attempts run.
POKED_KINDS: Final = ("http", "sql", "file")
KINDS: Final = OWN_KINDS + POKED_KINDS
DEFAULT_TIMEOUT: Final = timedelta(days=7)
MIN_POKE: Final = timedelta(seconds=1)
MAX_POKE: Final = timedelta(days=1)


def decided_by_scheduler(config: Mapping[str, Any]) -> bool:
    """Whether a wait of this config, rendered or not, needs no executor."""
    return any(kind in config for kind in OWN_KINDS)


def _poke(value: timedelta) -> timedelta:
    if not MIN_POKE <= value <= MAX_POKE:
        raise ValueError("must be from 1s to 1d")
    return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be longer than 0")
    return value


def _whole(key: str) -> BeforeValidator:
    """A text stands for the object with only that key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class WaitConfig(NodeConfig):
    """Config of `wait`."""

    for_: Duration | None = Field(None, alias="for", description="How long to wait, such as 30s or 2h")
    until: Moment | None = Field(None, description="Time to wait for, ISO 8601; without an offset it is in UTC")
    run: Annotated[AwaitedRun, _whole("id")] | None = Field(
        None, description="Another run whose end to wait for: its id, or {workflow, logical_date, states}"
    )
    http: HttpCondition | None = Field(None, description="A request that must be answered as expected")
    sql: SqlCondition | None = Field(None, description="A query that must give something true")
    file: Annotated[FileCondition, _whole("path")] | None = Field(None, description="A file that must exist")
    poke_interval: Annotated[Duration, AfterValidator(_poke)] = Field(
        timedelta(seconds=60), description="Pause between two looks at http, sql or file"
    )
    timeout: Annotated[Duration, AfterValidator(_positive)] | None = Field(
        None, description="Gives up after this; default 7d, none with for and until"
    )
    soft_fail: bool = Field(False, description="Whether giving up skips the node instead of failing it")

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, given: Any) -> Any:
        if isinstance(given, dict):
            kinds = [kind for kind in KINDS if kind in given]
            if len(kinds) != 1:
                raise ValueError("give exactly one of `for`, `until`, `run`, `http`, `sql` and `file`")
            if "poke_interval" in given and kinds[0] in OWN_KINDS:
                raise ValueError(
                    f"`poke_interval` says nothing with `{kinds[0]}`, which is not looked at again and again"
                )
        return given

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        if all(value is None for value in (self.for_, self.until, self.run, self.http, self.sql, self.file)):
            raise ValueError("what to wait for is null")
        return self

    @property
    def gives_up_after(self) -> timedelta | None:
        """How long it waits at most."""
        if self.timeout is not None or self.for_ is not None or self.until is not None:
            return self.timeout
        return DEFAULT_TIMEOUT

    def due_at(self, began: datetime) -> datetime:
        """When a wait for a time is over that began then; a time in the past is returned as it is."""
        if self.until is not None:
            return self.until
        return began + (self.for_ or timedelta())

    def over_after(self, waited: float) -> bool:
        """Whether it gives up now."""
        limit = self.gives_up_after
        return limit is not None and waited >= limit.total_seconds()

    def give_up(self, reason: str) -> Exception:
        """What is raised when the time is up: a failure, or with `soft_fail` the wish to be skipped."""
        message = f"gave up after {format_duration(self.gives_up_after or timedelta())}: {reason}"
        return NodeSkipped(message) if self.soft_fail else NodeFailed(message, kind="Timeout")


class WaitNode(AsyncNodeType[WaitConfig]):
    """One turn of a wait: over, or deferred again."""

    name = "wait"
    title = "Wait"
    description = "Waits for a time, another run, or a condition, without holding a slot."
    Config = WaitConfig

    async def arun(self, config: WaitConfig, context: NodeContext) -> dict[str, float]:
        """Seconds waited since the first turn."""
        if config.run is not None:
            raise NodeFailed("waiting for a run is the scheduler's own: no executor can do it")
        began = time.monotonic()
        if config.for_ is not None or config.until is not None:
            reason, pause = "the time had not come", _left(config, context)
        else:
            found = await _look(config, context)
            reason, pause = found or "", config.poke_interval.total_seconds() if found else 0.0
        waited = context.waited + (time.monotonic() - began)
        if pause <= 0:
            return {"waited_s": round(waited, 3)}
        if config.over_after(waited):
            raise config.give_up(reason)
        if context.state != reason:
            context.log(f"not yet: {reason}")
        limit = config.gives_up_after
        left = MAX_DEFERRAL if limit is None else limit.total_seconds() - waited
        raise NodeDeferred(min(pause, left, MAX_DEFERRAL), state=reason)

    async def aclose(self) -> None:
        """Close the connections that this event loop keeps."""
        from agentflow.nodes.http_client import close_clients

        await close_clients()


def _left(config: WaitConfig, context: NodeContext) -> float:
    """Seconds until a time; only versions stored before the scheduler waited for times itself get here."""
    if config.until is not None:
        context.log(f"waiting until {iso(config.until)}")
        return (config.until - utc_now()).total_seconds()
    return (config.for_ or timedelta()).total_seconds() - context.waited


async def _look(config: WaitConfig, context: NodeContext) -> str | None:
    """Why the condition does not hold; None when it does."""
    if config.http is not None:
        from agentflow.nodes.wait_http import look_at_server  # httpx is slow to import

        return await look_at_server(config.http, replace(context, log=unheard))
    if config.sql is not None:
        from agentflow.nodes.wait_sql import look_at_database

        return await look_at_database(config.sql, context)
    assert config.file is not None
    from agentflow.nodes.wait_file import look_at_files

    return await look_at_files(config.file)
