"""The seam between scheduler and executors. An executor knows workloads and events, never the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from agentflow.workload import ExecutorEvent, Workload


@dataclass(frozen=True, slots=True)
class ExecutorContext:
    """What every executor is made with."""

    parallelism: int  #: Attempts at once.
    bundles_dir: Path  #: `<hash>/` holds each extracted, read-only code bundle.
    work_dir: Path  #: Scratch space of this scheduler; removed when it stops.
    grace: float = 5.0  #: Seconds between SIGTERM and SIGKILL on cancel and timeout.
    lease: Callable[[], float] = field(default=lambda: time.monotonic() + 3600.0)
    """`time.monotonic()` until which this scheduler may start attempts: an attempt that would start later must not
    start at all but be reported LOST (another scheduler may own it by then)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this executor: `AGENTFLOW_<NAME>_*` in small letters without that prefix. Those that AgentFlow does
    not know are text."""


@dataclass(frozen=True, slots=True)
class AdoptionResult:
    """Which attempts of an earlier scheduler this executor still follows."""

    adopted: Sequence[str] = ()  #: Attempt ids whose events will come through `emit`.
    lost: Sequence[str] = ()  #: Attempt ids that are gone.


@runtime_checkable
class Executor(Protocol):
    """Runs attempts somewhere.

    `emit` may be called from any thread and returns at once. For every submitted workload exactly one `Finished` is
    emitted, whatever happens to its process. `submit`, `cancel` and `stop` may be called from any one thread, do not
    block on user code, and never raise for one bad workload (it is emitted as failed or refused instead).
    """

    @property
    def slots_free(self) -> int:
        """How many more workloads would be taken now; may include a short queue kept to hide the round trip."""

    def start(self, emit: Callable[[ExecutorEvent], None]) -> None:
        """Begin to accept work."""

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Take these workloads, in this order."""

    def cancel(self, attempt_ids: Sequence[str]) -> None:
        """Stop these attempts: SIGTERM to the whole group, SIGKILL after the grace. Unknown ids are ignored."""

    def adopt(self, attempts: Sequence[str]) -> AdoptionResult:
        """Follow attempts that an earlier scheduler started, where the executor can."""

    def stop(self, grace: float) -> None:
        """Stop all attempts within `grace` seconds (0: kill now), emit their end, release every resource."""


class CanDrain(Protocol):
    """What an executor has besides if it can give back what it has not begun."""

    def drain(self) -> None:
        """End as RETURNED what has not begun, now and whatever is submitted from now on; what runs goes on."""


class HasLanes(Protocol):
    """What an executor has besides if node types that only wait share processes in it (I/O lanes).

    It takes workloads for which `agentflow.nodes.registry.shares_process` holds without using up `slots_free`, but for
    some that have done harm in company.
    """

    @property
    def io_slots_free(self) -> int | None:
        """How many more of them would be taken now; None: there are no lanes, they take slots like all others."""
