"""Evaluates `when`: leases nodes whose rule is satisfied, asks the evaluator, stores what it said."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from agentflow.db.engine import transact
from agentflow.db.queries.due import DueGate, GateResult, apply_gates, continue_cascades, lease_gates
from agentflow.db.queries.locks import database_now
from agentflow.db.queries.settle import Settlement
from agentflow.errors import AgentFlowError
from agentflow.states import NodeRunState
from agentflow.templates import find_references, truth
from agentflow.templates.references import NOTHING
from scheduler.contexts import TOO_LARGE, Asking, ContextLoader
from scheduler.evaluator import EvalRequest, EvalResult, Evaluator
from scheduler.identity import Identity
from scheduler.service import WorkerThread
from scheduler.versions import VersionCache

log = logging.getLogger(__name__)

POLL = 5.0  # seconds


class Gates(WorkerThread):
    """Decides nodes with a `when`. A thread of its own: an expression may take its second without holding up others."""

    name = "gates"

    def __init__(self, engine: Engine, identity: Identity, on_decided: Callable[[], None]) -> None:
        super().__init__()
        self._engine = engine
        self._identity = identity
        self._on_decided = on_decided
        self._evaluator = Evaluator()
        self._versions = VersionCache()
        self._contexts = ContextLoader()

    def stop(self) -> None:
        """Stop the thread and the evaluator."""
        super().stop()
        self._evaluator.stop()

    def work(self) -> float:
        """Evaluate what is due."""
        while not self.stopping:
            gates = transact(
                self._engine,
                lambda connection: lease_gates(
                    connection,
                    me=self._identity.id,
                    reserved_only=self._identity.reserved_only,
                    oldest=uuid.UUID(int=0),
                ),
            )
            if not gates:
                break
            results = self._evaluate(gates)
            settlement: Settlement | None = transact(self._engine, partial(apply_gates, results=results))
            while settlement is not None and settlement.unfinished:
                settlement = transact(self._engine, _carry_on)
            self._on_decided()
        return POLL

    def _evaluate(self, gates: Sequence[DueGate]) -> list[GateResult]:
        try:
            conditions, contexts = self._prepare(gates)
        except DBAPIError:
            raise
        except Exception as error:  # one version that cannot be read must not hold up the others
            if len(gates) == 1:
                log.exception("gate_not_prepared", extra={"version": gates[0].version_id})
                return [_failed(gates[0], type(error).__name__, f"`when` could not be prepared: {error}")]
            return [result for gate in gates for result in self._evaluate([gate])]
        results = []
        requests: dict[int, EvalRequest] = {}
        for position, (gate, condition, context) in enumerate(zip(gates, conditions, contexts, strict=True)):
            if context is None:
                results.append(_failed(gate, "InputTooLarge", TOO_LARGE))
            else:
                requests[position] = EvalRequest(condition, context)
        answers = self._evaluator.evaluate_many(list(requests.values()))
        results += [decide_gate(gates[at], answer) for at, answer in zip(requests, answers, strict=True) if answer.done]
        return results

    def _prepare(self, gates: Sequence[DueGate]) -> tuple[list[str | bool | None], list[dict[str, Any] | None]]:
        with self._engine.begin() as connection:
            versions = [self._versions.get(connection, gate.version_id) for gate in gates]
            conditions = [version.policy(gate.node_no).when for gate, version in zip(gates, versions, strict=True)]
            references = [find_references(when) if isinstance(when, str) else NOTHING for when in conditions]
            asking = [
                Asking(gate.run_id, version, names)
                for gate, version, names in zip(gates, versions, references, strict=True)
            ]
            contexts = self._contexts.load(connection, asking)
        return conditions, contexts


def _carry_on(connection: Connection) -> Settlement | None:
    return continue_cascades(connection, database_now(connection), uuid.UUID(int=0))


def _failed(gate: DueGate, kind: str, message: str) -> GateResult:
    return GateResult(gate, NodeRunState.FAILED, json.dumps({"type": kind, "message": message}))


def decide_gate(gate: DueGate, answer: EvalResult) -> GateResult:
    """True -> ready, false or null -> skipped; an error or any other value -> failed, without retry."""
    if answer.error is not None:
        return GateResult(gate, NodeRunState.FAILED, json.dumps(answer.error.as_document()))
    try:
        state = NodeRunState.READY if truth(answer.value) else NodeRunState.SKIPPED
    except AgentFlowError as error:
        return _failed(gate, "TemplateError", f"when: {error}")
    return GateResult(gate, state)
