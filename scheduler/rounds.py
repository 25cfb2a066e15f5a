"""What follows when a sub-run has ended: its outputs, the next round of a `repeat`, or the node's failure."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from agentflow.db.arrays import uuids
from agentflow.db.engine import transact
from agentflow.db.queries.gates import Child, DueGate, GateResult, take_ended, wait_on
from agentflow.db.queries.locks import database_now
from agentflow.db.queries.settle import FinalNode, Settlement
from agentflow.durations import format_seconds
from agentflow.errors import AgentFlowError
from agentflow.runner.output import OutputInvalid, encode
from agentflow.states import RUN_FINAL, RunState
from agentflow.templates import find_references_in, truth
from agentflow.workload import ErrorInfo, Outcome, StoredOutput
from scheduler.apply import AttemptEnd, finish_attempts
from scheduler.contexts import Asking
from scheduler.judging import Judge
from scheduler.round_outputs import RoundOutputs
from scheduler.subruns import start_child, stop_child
from scheduler.versions import LoadedVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndedRound:
    """A node whose sub-run has ended, and what comes next: an output, an error, or another sub-run."""

    gate: DueGate
    output: str | StoredOutput | None = None  #: JSON text, or where that is.
    error: ErrorInfo | None = None
    child: Child | None = None
    final: bool = False  #: The error is the expression's own: retries would not help.
    lost: bool = False  #: The error is the infrastructure's, and uses its budget.
    until: datetime | None = None  #: When its attempt's time is up, if it goes on.


@dataclass(frozen=True, slots=True)
class _Ended:
    gate: DueGate
    version: LoadedVersion  #: Of the node's own run.
    child: uuid.UUID
    child_state: RunState
    child_version: LoadedVersion
    round: int


@dataclass(frozen=True, slots=True)
class _Late:
    gate: DueGate
    child: uuid.UUID
    limit: float


_CHILDREN = text("""
SELECT r.id, r.state, r.version_id, r.timed_out, r.cancel_requested_at, w.name FROM run r JOIN workflow w ON w.id = r.workflow_id
WHERE r.id = ANY(CAST(:ids AS uuid[]))
""")
#: The first node that failed by itself says why.
_REASON = text("""
SELECT vn.node_id, nr.error ->> 'message' AS message FROM node_run nr
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.run_id = :run AND nr.state = 'failed' ORDER BY nr.finished_at, nr.node_no, nr.map_index LIMIT 1
""")


class Rounds:
    """Decides `workflow` nodes whose sub-run has ended. For one thread."""

    def __init__(self, judge: Judge, outputs: RoundOutputs, output_max: int) -> None:
        self._judge = judge
        self._outputs = outputs
        self._output_max = output_max

    def decide(self, gates: Sequence[DueGate]) -> list[EndedRound]:
        """What comes next for each; those that cannot be told yet are left out and come up again."""
        return self._judge.decide_each(gates, self._decide, _not_decided)

    def _decide(self, gates: Sequence[DueGate]) -> list[EndedRound]:
        found: list[EndedRound] = []
        successes: list[_Ended] = []
        late: list[_Late] = []
        with self._judge.engine.begin() as connection:
            ids = [uuid.UUID((gate.sub_run or {})["run"]) for gate in gates]
            rows = {row.id: row for row in connection.execute(_CHILDREN, {"ids": uuids(ids)})}
            now = database_now(connection)
            for gate, child in zip(gates, ids, strict=True):
                row = rows.get(child)
                if row is None:
                    error = ErrorInfo(type="SubRunLost", message=f"the sub-run {child} was deleted")
                    found.append(EndedRound(gate, error=error))
                elif row.state != RunState.SUCCESS:
                    limit = self._judge.version(connection, gate.version_id).policy(gate.node_no).timeout
                    until = _deadline(gate, limit)
                    if row.state in RUN_FINAL:
                        found.append(EndedRound(gate, error=_failure(connection, row, until, limit)))
                    elif limit is not None and until is not None and until <= now:
                        late.append(_Late(gate, child, limit))
                    else:  # it was cleared and runs again, say: wait on
                        found.append(EndedRound(gate, until=until))
                else:
                    version = self._judge.version(connection, gate.version_id)
                    child_version = self._judge.version(connection, row.version_id)
                    number = int((gate.sub_run or {}).get("round", 0))
                    successes.append(_Ended(gate, version, child, RunState(row.state), child_version, number))
        return found + self._stop(late) + self._succeeded(successes)

    def _stop(self, late: Sequence[_Late]) -> list[EndedRound]:
        """Cancel sub-runs whose time is up, and fail their nodes; one that ends at this moment tells its parent itself."""
        return [
            EndedRound(one.gate, error=_too_late(one.limit))
            for one in late
            if transact(self._judge.engine, partial(stop_child, run_id=one.child))
        ]

    def _succeeded(self, ended: Sequence[_Ended]) -> list[EndedRound]:
        questions = []
        for one in ended:
            outputs = one.child_version.spec.outputs
            questions.append((outputs, Asking(one.child, one.child_version, find_references_in(outputs))))
        found: list[EndedRound] = []
        repeating: list[tuple[_Ended, Any]] = []
        for one, answer in zip(ended, self._judge.ask(questions), strict=True):
            if not answer.done:
                continue
            if answer.error is not None:
                found.append(_wrong(one.gate, answer.error, "outputs"))
            elif one.version.policy(one.gate.node_no).repeat is None:
                found += self._output(one.gate, answer.value)
            else:
                repeating.append((one, answer.value))
        return found + self._repeat(repeating)

    def _output(self, gate: DueGate, value: Any) -> list[EndedRound]:
        """The end of the node; none while a large output is being stored."""
        try:
            text = encode(value, self._output_max)
        except OutputInvalid as error:
            return [_wrong(gate, ErrorInfo(type="OutputInvalid", message=str(error)), "outputs")]
        output = self._outputs.of((gate.run_id, gate.node_no, gate.map_index, gate.attempt), text)
        if output is None:
            return []
        if isinstance(output, ErrorInfo):
            return [EndedRound(gate, error=output, lost=True)]
        return [EndedRound(gate, output=output)]

    def _repeat(self, ended: Sequence[tuple[_Ended, Any]]) -> list[EndedRound]:
        """Ask `until`; start another round while it is false and rounds are left."""
        questions = []
        for one, output in ended:
            until = _repeat_of(one).until
            own = {"output": output, "state": "success"}
            references = find_references_in(until)
            questions.append(
                (until, Asking(one.gate.run_id, one.version, references, one.gate.node_no, one.gate.map_index, own))
            )
        found: list[EndedRound] = []
        again = []
        for (one, output), answer in zip(ended, self._judge.ask(questions), strict=True):
            if not answer.done:
                continue
            try:
                content = answer.error is None and truth(answer.value)
            except AgentFlowError as error:
                found.append(_wrong(one.gate, ErrorInfo(type="TemplateError", message=str(error)), "repeat.until"))
                continue
            if answer.error is not None:
                found.append(_wrong(one.gate, answer.error, "repeat.until"))
            elif content or one.round + 1 >= _repeat_of(one).max:
                found += self._output(one.gate, output)
            else:
                again.append((one.gate, one.version, {"output": output, "state": "success"}, one.round + 1))
        return found + [_next_round(result) for result in self._judge.start_rounds(again)]


def _not_decided(gate: DueGate, error: Exception) -> EndedRound:
    log.error("round_not_decided", extra={"run": str(gate.run_id)}, exc_info=error)
    return _wrong(gate, ErrorInfo(type=type(error).__name__, message=str(error)), "sub-run")


def _deadline(gate: DueGate, limit: float | None) -> datetime | None:
    """When the time of an attempt that has begun is up."""
    return None if limit is None or gate.started_at is None else gate.started_at + timedelta(seconds=limit)


def _repeat_of(one: _Ended) -> Any:
    return one.version.policy(one.gate.node_no).repeat


def _next_round(result: GateResult) -> EndedRound:
    if result.error is not None:
        return EndedRound(result.gate, error=ErrorInfo(**json.loads(result.error)), final=True)
    assert result.child is not None
    return EndedRound(result.gate, child=result.child, until=_deadline(result.gate, result.child.timeout))


def _wrong(gate: DueGate, error: ErrorInfo, where: str) -> EndedRound:
    return EndedRound(gate, error=error.model_copy(update={"message": f"{where}: {error.message}"}), final=True)


def _too_late(limit: float) -> ErrorInfo:
    return ErrorInfo(type="Timeout", message=f"did not end within its timeout of {format_seconds(limit)}")


def _failure(connection: Connection, row: Any, until: datetime | None, limit: float | None) -> ErrorInfo:
    stopped = row.cancel_requested_at
    if limit is not None and until is not None and stopped is not None and stopped >= until:
        return _too_late(limit)  # stopped for that, and told to its parent before the node's end was stored
    what = "timed out" if row.timed_out else "was cancelled" if row.state == RunState.CANCELLED else "failed"
    reason = connection.execute(_REASON, {"run": row.id}).one_or_none()
    why = f": {reason.node_id}: {reason.message}" if reason is not None and reason.message else ""
    return ErrorInfo(type="SubRunFailed", message=f"the run {row.id} of `{row.name}` {what}{why}")


def finish_round(
    connection: Connection, settlement: Settlement, one: EndedRound
) -> tuple[FinalNode | None, uuid.UUID | None]:
    """Store what comes next, unless the node was cancelled, cleared or decided by another meanwhile.

    Returns:
        The node run if it is final now, and the sub-run to be started if there is one.
    """
    gate = one.gate
    if gate.run_id not in settlement.runs or not take_ended(connection, gate):
        return None, None
    if one.child is not None:
        return None, start_child(connection, gate, one.child, settlement)
    if one.output is None and one.error is None:
        if one.until is not None:
            wait_on(connection, gate, one.until)
        return None, None
    outcome = Outcome.SUCCESS if one.error is None else Outcome.LOST if one.lost else Outcome.FAILED
    end = AttemptEnd(gate.attempt_key, outcome, one.output, one.error, retry=not one.final)
    finals = finish_attempts(connection, settlement, [end])
    return (finals[0] if finals else None), None
