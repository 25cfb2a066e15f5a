"""The evaluator: the scheduler's own expressions, run in one warm, limited child process (SEMANTICS section 2).

`when`, `for_each`, `branch` and `until` are code that users wrote, so they never run in the scheduler. A request that
breaks a limit costs its own result and a new child; the others of its batch are evaluated again.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentflow.errors import AgentFlowError
from agentflow.templates.evaluator_process import ChildGone, ChildSilent, EvaluatorProcess
from agentflow.templates.framing import FrameTooLarge, encode_frame
from agentflow.templates.scan import iter_templates
from agentflow.workload import ErrorInfo

log = logging.getLogger(__name__)

SECONDS = 1.0  # CPU time of one expression
MEMORY = 256 * 2**20  # bytes of the child's address space
START_TIMEOUT = 20.0  # seconds until a child must be ready
#: Wall time, in multiples of the CPU time, after which a silent child is killed: on a busy machine a child may wait
#: for a core through no fault of the expression.
PATIENCE = 3.0
_SLICE_BYTES = 4 * 2**20  # requests encoded at once
_SLICE_LENGTH = 256


class EvaluatorUnavailable(AgentFlowError):
    """The evaluator's process cannot be started."""

    word = "evaluator-unavailable"


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """One expression and the names it may use."""

    expression: Any  #: Exactly one `{{ … }}`, a document with templates in it, or a literal, which is its own value.
    context: dict[str, Any]  #: `params`, `nodes`, `run`, `vars`, and `item` and `index` when mapped; never secrets.
    files: dict[str, str] = field(default_factory=dict)  #: By node: the file of an output that is missing there.


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What came of a request."""

    value: Any = None  #: JSON; None too when there is an error.
    error: ErrorInfo | None = None  #: `TemplateError`, `Timeout`, `OutOfMemory` or `Crash`.
    done: bool = True  #: False: the batch's budget was used up before this request's turn; ask again.


_NOT_DONE = EvalResult(done=False)


class Evaluator:
    """Evaluates expressions in a child process. One thread at a time evaluates; others wait for it."""

    def __init__(self, *, seconds: float = SECONDS, memory: int = MEMORY, start_timeout: float = START_TIMEOUT) -> None:
        self._seconds = seconds
        self._memory = memory
        self._start_timeout = start_timeout
        self._child: EvaluatorProcess | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None when there is none."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the child without waiting for it, so that the first expression finds it warm."""
        with self._lock:
            self._spawn()

    def stop(self) -> None:
        """End the child. A later evaluation starts a new one."""
        with self._lock:
            if self._child:
                self._child.stop()
                self._child = None

    def evaluate_many(self, requests: Sequence[EvalRequest], *, budget: float | None = None) -> list[EvalResult]:
        """One result for each request, in their order; an error of one never touches another.

        Blocks for at most `seconds` of CPU per request (three times that on the wall) plus a restart of the child for
        each that breaks a limit.

        Args:
            requests: Any number; they are sent in batches.
            budget: Wall seconds after which no further request is begun; those left have `done=False`. Gates
                give one: a workflow full of bombs must not hold up all others.

        Raises:
            EvaluatorUnavailable: The child could not be started; nothing is wrong with the requests.
        """
        deadline = time.monotonic() + (float("inf") if budget is None else budget)
        results: list[EvalResult] = [_NOT_DONE] * len(requests)
        with self._lock:
            for batch in _batches(requests, results):
                self._evaluate(batch, results, deadline)
        return results

    def _evaluate(self, batch: list[tuple[int, bytes]], results: list[EvalResult], deadline: float) -> None:
        """Answer a batch, with a new child for each one that is lost over it."""
        suspect = -1  # position in the batch of the request over which a child has died without a word
        position = 0
        while position < len(batch) and time.monotonic() < deadline:
            try:
                for result in self._answers([frame for _, frame in batch[position:]]):
                    results[batch[position][0]] = result
                    position += 1
                    if time.monotonic() >= deadline and position < len(batch):
                        self._drop_child()  # it is at work on requests that nobody waits for any more
                        break
            except (ChildGone, ChildSilent) as reason:
                self._child = None
                log.warning("evaluator_child_lost", extra={"reason": str(reason)})
                if _took_too_long(reason) or suspect == position:
                    results[batch[position][0]] = EvalResult(error=self._verdict(reason))
                    position += 1
                else:
                    suspect = position  # it may have been killed from outside: try this one once more
        self._spawn()  # where one was lost, the next batch finds its successor warm

    def _answers(self, frames: list[bytes]) -> Iterator[EvalResult]:
        """Results in order, up to the first that used up the child's memory."""
        child = self._ready_child()
        for answer in child.exchange(frames, len(frames), self._seconds * PATIENCE):
            result = _result(answer)
            if result.error and result.error.type == "OutOfMemory":
                self._drop_child()  # it ends by itself; what was sent after this request is sent again
                yield result
                return
            yield result

    def _drop_child(self) -> None:
        if self._child:
            self._child.kill()
            self._child = None

    def _verdict(self, reason: ChildGone | ChildSilent) -> ErrorInfo:
        if _took_too_long(reason):
            return ErrorInfo(type="Timeout", message=f"the expression took longer than {self._seconds:g} s")
        if isinstance(reason, ChildGone) and reason.code == -signal.SIGKILL:
            return ErrorInfo(type="OutOfMemory", message="the evaluator was killed over this expression, twice")
        return ErrorInfo(type="Crash", message=f"the evaluator died over this expression, twice ({reason})")

    def _ready_child(self) -> EvaluatorProcess:
        child = self._child or self._spawn()
        try:
            child.wait_ready(self._start_timeout)
        except (ChildGone, ChildSilent) as error:
            self._child = None
            raise EvaluatorUnavailable(
                f"the evaluator's process did not start ({error})",
                hint=f"`{_COMMAND}` shows why",
            ) from error
        return child

    def _spawn(self) -> EvaluatorProcess:
        if self._child is None:
            try:
                self._child = EvaluatorProcess(seconds=self._seconds, memory=self._memory)
            except OSError as error:
                raise EvaluatorUnavailable(f"the evaluator's process cannot be started: {error}") from error
        return self._child


def _took_too_long(reason: ChildGone | ChildSilent) -> bool:
    return isinstance(reason, ChildSilent) or reason.code == -signal.SIGPROF


_COMMAND = f"python -m agentflow.templates.evaluator_child {SECONDS:g} {MEMORY}"


def _batches(requests: Sequence[EvalRequest], results: list[EvalResult]) -> Iterator[list[tuple[int, bytes]]]:
    """Encoded requests with their places, some megabytes at a time; what needs no child gets its result here."""
    batch: list[tuple[int, bytes]] = []
    size = 0
    for index, request in enumerate(requests):
        if not any(iter_templates(request.expression)):
            results[index] = EvalResult(value=request.expression)
            continue
        try:
            frame = _frame(request)
        except FrameTooLarge as error:
            results[index] = EvalResult(error=ErrorInfo(type="TemplateError", message=f"too much data: {error}"))
            continue
        except (TypeError, ValueError, RecursionError) as error:
            results[index] = EvalResult(error=ErrorInfo(type=type(error).__name__, message=f"the context: {error}"))
            continue
        batch.append((index, frame))
        size += len(frame)
        if size >= _SLICE_BYTES or len(batch) >= _SLICE_LENGTH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _frame(request: EvalRequest) -> bytes:
    """A request without the parts of its context that its text does not even spell: outputs may be large."""
    texts = [text for _, text in iter_templates(request.expression)]
    named = {name: value for name, value in request.context.items() if any(name in text for text in texts)}
    return encode_frame({"expression": request.expression, "context": named, "files": request.files})


def _result(answer: dict[str, Any]) -> EvalResult:
    if "error" in answer:
        return EvalResult(error=ErrorInfo(**answer["error"]))
    return EvalResult(value=answer["value"])
