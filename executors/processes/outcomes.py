"""What the end of a runner process means for its attempt (SEMANTICS 1: lost or failed). Pure."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agentflow.workload import ErrorInfo, Outcome
from executors.processes.protocol import Breach

#: Type and message of the error, by limit.
_BREACHES: Final = {
    Breach.MEMORY: (
        "OutOfMemory",
        "the attempt used more memory than it may; raise `resources.memory` of the node",
    ),
    Breach.PROCESSES: (
        "TooManyProcesses",
        "the attempt had more processes and threads at once than AGENTFLOW_SUBPROCESS_MAX_PROCESSES allows",
    ),
    Breach.CPU: (
        "CpuTimeExceeded",
        "the attempt used more processor time than AGENTFLOW_SUBPROCESS_CPU_SECONDS allows",
    ),
}


class StopReason(StrEnum):
    """Why we stopped an attempt."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a runner process ended."""

    status: int  #: As `waitpid` gives it.
    breach: Breach | None = None  #: The limit that it is known to have been killed for.


def stopped(reason: StopReason, timeout: float | None = None) -> tuple[Outcome, ErrorInfo]:
    """The result of an attempt that we stopped."""
    if reason is StopReason.CANCEL:
        return Outcome.CANCELLED, ErrorInfo(type="Cancelled", message="cancelled by request")
    if reason is StopReason.TIMEOUT:
        message = f"did not end within its timeout of {timeout:g} s" if timeout else "did not end within its timeout"
        return Outcome.FAILED, ErrorInfo(type="Timeout", message=message)
    return Outcome.LOST, ErrorInfo(type="Shutdown", message="the executor was stopped; the attempt will run again")


def returned() -> tuple[Outcome, ErrorInfo]:
    """The result of an attempt that was not begun because its scheduler is about to end."""
    return Outcome.RETURNED, ErrorInfo(type="Returned", message="its scheduler was asked to stop before it could begin")


def died(end: ProcessEnd) -> tuple[Outcome, ErrorInfo]:
    """The result of an attempt whose process ended by itself, or was killed by somebody else."""
    if end.breach is not None:
        return breached(end.breach)
    if os.WIFSIGNALED(end.status):
        number = os.WTERMSIG(end.status)
        if number == signal.SIGKILL:
            return lost("the runner process was killed (SIGKILL), not by AgentFlow")
        if number == signal.SIGXCPU:
            return breached(Breach.CPU)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return Outcome.FAILED, ErrorInfo(type="Signal", message=f"the process was ended by {name}", signal=number)
    code = os.WEXITSTATUS(end.status)
    message = f"the process ended with exit code {code} before the node returned"
    return Outcome.FAILED, ErrorInfo(type="ExitCode", message=message, exit_code=code)


def breached(breach: Breach) -> tuple[Outcome, ErrorInfo]:
    """A limit struck."""
    kind, message = _BREACHES[breach]
    return Outcome.FAILED, ErrorInfo(type=kind, message=message, signal=int(signal.SIGKILL))


def lost(message: str) -> tuple[Outcome, ErrorInfo]:
    """The infrastructure failed, not the node."""
    return Outcome.LOST, ErrorInfo(type="Lost", message=message)
