"""Asks the evaluator about nodes whose rule is satisfied: `when`, `for_each`, branches, the params of a sub-run."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, Engine

from agentflow.catalog.graph import BRANCH, SUB_RUN, WAIT
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.gates import DueGate, GateResult
from agentflow.db.queries.mapped import MAX_ITEMS
from agentflow.errors import AgentFlowError
from agentflow.nodes.wait import WaitConfig, decided_by_scheduler
from agentflow.runner.errors import ConfigInvalid
from agentflow.runner.output import OutputInvalid, encode
from agentflow.states import NodeRunState
from agentflow.templates import find_references_in, truth
from agentflow.workload import ErrorInfo
from scheduler.contexts import INPUT_MAX, TOO_LARGE, Asking, ContextLoader
from scheduler.evaluator import EvalRequest, EvalResult, Evaluator
from scheduler.faults import is_for_all, is_own
from scheduler.inputs import InputFiles, InputNotLoaded
from scheduler.large_contexts import LargeContexts
from scheduler.subruns import resolve_child
from scheduler.versions import LoadedVersion, VersionCache
from scheduler.waits import plan_wait

log = logging.getLogger(__name__)
R = TypeVar("R")

#: Wall seconds of each batch of expressions at least, so that in no round a kind of question gets no turn at all.
LEAST = 0.1

#: A question: the text or document to evaluate, and who asks.
Question = tuple[Any, Asking]


class Judge:
    """Decides due nodes. For one thread."""

    def __init__(
        self,
        engine: Engine,
        evaluator: Evaluator,
        siblings: Mapping[str, tuple[int, int]],
        files: InputFiles,
        on_loaded: Callable[[], None],
    ) -> None:
        self.engine = engine
        self._evaluator = evaluator
        self._siblings = siblings
        self._versions = VersionCache()
        self._contexts = ContextLoader()
        self._files = LargeContexts(files, on_loaded)
        self._on_loaded = on_loaded
        self._until = math.inf  # time.monotonic() at which the round should be over

    def begin_round(self, seconds: float) -> None:
        """Let all that is asked from now on take so long together; what is not answered by then comes up again."""
        self._until = time.monotonic() + seconds

    def while_time(self, gates: Sequence[DueGate]) -> Iterator[DueGate]:
        """Gates to decide one by one, at least one of them, until the round's time is up."""
        for place, gate in enumerate(gates):
            if place and time.monotonic() >= self._until:
                self._on_loaded()  # the rest at once, behind what has become due meanwhile
                return
            yield gate

    def version(self, connection: Connection, version_id: int) -> LoadedVersion:
        """A version from this thread's cache."""
        return self._versions.get(connection, version_id)

    def decide(self, gates: Sequence[DueGate]) -> list[GateResult]:
        """What becomes of each node; those that the evaluator had no time for are left out and come up again."""
        return self.decide_each(gates, self._decide, _not_prepared)

    def decide_each(
        self,
        gates: Sequence[DueGate],
        decide: Callable[[Sequence[DueGate]], list[R]],
        blame: Callable[[DueGate, Exception], R],
    ) -> list[R]:
        """What `decide` says of all of them, or of each alone when it fails: one must not hold up the others.

        Args:
            gates: To decide.
            decide: Says what comes of them; raises if one of them prevents that.
            blame: Logs the error of one alone, and says what comes of it if the fault is its own.
        """
        if not gates:
            return []
        try:
            return decide(gates)
        except Exception as error:
            if is_for_all(error):
                raise
            if len(gates) > 1:
                return [result for gate in self.while_time(gates) for result in self.decide_each([gate], decide, blame)]
            result = blame(gates[0], error)
            return [result] if is_own(error) else []

    def _decide(self, gates: Sequence[DueGate]) -> list[GateResult]:
        with self.engine.begin() as connection:
            versions = self._versions.get_all(connection, (gate.version_id for gate in gates))
        results: list[GateResult] = []
        going: dict[str, list[DueGate]] = {BRANCH: [], SUB_RUN: [], WAIT: []}
        questions = [_first_question(gate, versions[gate.version_id]) for gate in gates]
        for gate, answer in zip(gates, self.ask(questions), strict=True):
            if not answer.done:
                continue
            result = decide_gate(gate, answer, mapped=_is_summary(gate, versions[gate.version_id]))
            node_type = versions[gate.version_id].type_of(gate.node_no)
            if result.state is NodeRunState.READY and _is_ours(
                node_type, versions[gate.version_id].config(gate.node_no)
            ):
                going[node_type].append(gate)
            else:
                results.append(result)
        results += self._plan_waits([(gate, versions[gate.version_id]) for gate in going[WAIT]])
        results += self._choose([(gate, versions[gate.version_id]) for gate in going[BRANCH]])
        results += self.start_rounds([(gate, versions[gate.version_id], None, 0) for gate in going[SUB_RUN]])
        return results

    def _choose(self, branches: Sequence[tuple[DueGate, LoadedVersion]]) -> list[GateResult]:
        """Which downstreams each branch lets go on: all conditions of a branch are one question."""
        questions = [
            (conditions, _asking(gate, version, conditions))
            for gate, version in branches
            for conditions in ([case["when"] for case in version.config(gate.node_no)["cases"]],)
        ]
        return [
            decide_branch(gate, version.config(gate.node_no), answer)
            for (gate, version), answer in zip(branches, self.ask(questions), strict=True)
            if answer.done
        ]

    def _plan_waits(self, waits: Sequence[tuple[DueGate, LoadedVersion]]) -> list[GateResult]:
        """What each wait for a time or a run comes to."""
        if not waits:
            return []
        questions = [
            (document, _asking(gate, version, document))
            for gate, version in waits
            for document in ([version.config(gate.node_no), "{{ run.logical_date }}"],)
        ]
        results = []
        answers = self.ask(questions)
        with self.engine.begin() as connection:
            for (gate, version), answer in zip(waits, answers, strict=True):
                if answer.done:
                    results.append(self._plan_wait(connection, gate, version, answer))
        return results

    def _plan_wait(
        self, connection: Connection, gate: DueGate, version: LoadedVersion, answer: EvalResult
    ) -> GateResult:
        if answer.error is not None:
            return failed_with(gate, answer.error)
        config, own_date = answer.value
        try:
            wait = WaitConfig.model_validate(config)
            limit = version.policy(gate.node_no).timeout
            plan = plan_wait(connection, wait, own_date, version, limit, self._siblings)
        except ValidationError as error:
            return failed(gate, "ConfigInvalid", str(ConfigInvalid.from_validation(error)))
        except AgentFlowError as error:
            hint = f" ({error.hint})" if error.hint else ""
            return failed(gate, type(error).__name__, f"{error}{hint}")
        return GateResult(gate, NodeRunState.DEFERRED, wait=plan)

    def start_rounds(
        self, rounds: Sequence[tuple[DueGate, LoadedVersion, dict[str, Any] | None, int]]
    ) -> list[GateResult]:
        """The sub-run of each (node, version, what its round before gave, number of the round)."""
        if not rounds:
            return []
        questions = [
            (params, _asking(gate, version, params, own=own or {"output": None, "state": "pending"}))
            for gate, version, own, _ in rounds
            for params in (version.config(gate.node_no).get("params", {}),)
        ]
        results = []
        answers = self.ask(questions)
        with self.engine.begin() as connection:
            for (gate, version, _, number), answer in zip(rounds, answers, strict=True):
                if not answer.done:
                    continue
                if answer.error is not None:
                    results.append(failed_with(gate, answer.error))
                    continue
                try:
                    place = (gate.run_id, version, gate.node_no)
                    child = resolve_child(connection, *place, answer.value, number, siblings=self._siblings)
                except AgentFlowError as error:
                    hint = f" ({error.hint})" if error.hint else ""
                    results.append(failed(gate, type(error).__name__, f"{error}{hint}"))
                    continue
                results.append(GateResult(gate, NodeRunState.DEFERRED, child=child))
        return results

    def ask(self, questions: Sequence[Question]) -> list[EvalResult]:
        """An answer per question, in order; inputs that are too large are an error of theirs alone."""
        if not questions:
            return []
        with self.engine.begin() as connection:
            contexts = self._contexts.load(connection, [asking for _, asking in questions])
        answers: list[EvalResult] = [
            EvalResult(error=ErrorInfo(type="InputTooLarge", message=TOO_LARGE)) for _ in questions
        ]
        requests: dict[int, EvalRequest] = {}
        for place, ((expression, asking), loaded) in enumerate(zip(questions, contexts, strict=True)):
            if loaded is None:
                continue
            files = self._files.of(asking, loaded)
            if files is None:
                answers[place] = EvalResult(done=False)
            elif isinstance(files, InputNotLoaded):
                answers[place] = EvalResult(error=ErrorInfo(type="InputNotLoaded", message=files.message))
            else:
                requests[place] = EvalRequest(expression, loaded.context, files)
        order = take_turns([(questions[place][1].version.id, place) for place in requests])
        # Half of what is left: the questions that follow in this round need theirs.
        budget = max(LEAST, (self._until - time.monotonic()) / 2)
        given = self._evaluator.evaluate_many([requests[place] for place in order], budget=budget)
        if not all(answer.done for answer in given):
            self._on_loaded()  # the rest at once, behind what has become due meanwhile
        for place, answer in zip(order, given, strict=True):
            answers[place] = answer
            if (read := contexts[place]) is not None:
                self._files.done(questions[place][1], read)
        return answers


def _not_prepared(gate: DueGate, error: Exception) -> GateResult:
    log.error("gate_not_prepared", extra={"version": gate.version_id}, exc_info=error)
    return failed(gate, type(error).__name__, f"`when` could not be prepared: {error}")


def take_turns(places: Sequence[tuple[int, int]]) -> list[int]:
    """Places in the order in which each version has its turn: one full of slow expressions must not come before all."""
    turns: dict[int, int] = {}
    ordered: list[tuple[int, int, int]] = []
    for version, place in places:
        turns[version] = turns.get(version, 0) + 1
        ordered.append((turns[version], len(ordered), place))
    return [place for _, _, place in sorted(ordered)]


def _is_ours(node_type: str, config: Mapping[str, Any]) -> bool:
    """Whether the scheduler carries it out by itself."""
    return node_type in (BRANCH, SUB_RUN) or (node_type == WAIT and decided_by_scheduler(config))


def _is_summary(gate: DueGate, version: LoadedVersion) -> bool:
    return gate.map_index == NOT_MAPPED and version.is_mapped(gate.node_no)


def _first_question(gate: DueGate, version: LoadedVersion) -> Question:
    """`for_each` of a mapped node, else the `when`; without one it goes on."""
    policy = version.policy(gate.node_no)
    if _is_summary(gate, version):
        return policy.for_each, _asking(gate, version, policy.for_each)
    when = True if policy.when is None else policy.when
    return when, _asking(gate, version, when)


def _asking(gate: DueGate, version: LoadedVersion, document: Any, own: dict[str, Any] | None = None) -> Asking:
    return Asking(gate.run_id, version, find_references_in(document), gate.node_no, gate.map_index, own)


def failed(gate: DueGate, kind: str, message: str) -> GateResult:
    """A node that fails with this error; the scheduler's own expressions are not retried."""
    return failed_with(gate, ErrorInfo(type=kind, message=message))


def failed_with(gate: DueGate, error: ErrorInfo) -> GateResult:
    """The same, with an error that is there already."""
    return GateResult(gate, NodeRunState.FAILED, json.dumps(error.as_document()))


def decide_gate(gate: DueGate, answer: EvalResult, *, mapped: bool = False) -> GateResult:
    """`when`: true -> ready, false or null -> skipped. `for_each`: a list -> its items, none of them -> skipped.

    An error or any other value -> failed, without retry.
    """
    if answer.error is not None:
        return failed_with(gate, answer.error)
    if mapped:
        return _decide_items(gate, answer.value)
    try:
        state = NodeRunState.READY if truth(answer.value) else NodeRunState.SKIPPED
    except AgentFlowError as error:
        return failed(gate, "TemplateError", f"when: {error}")
    return GateResult(gate, state)


def decide_branch(gate: DueGate, config: Mapping[str, Any], answer: EvalResult) -> GateResult:
    """The targets of the first case that is true, else the default ones; an error fails the node, without retry."""
    if answer.error is not None:
        return failed_with(gate, answer.error)
    for number, (case, value) in enumerate(zip(config["cases"], answer.value, strict=True)):
        try:
            if truth(value):
                return GateResult(gate, NodeRunState.SUCCESS, output=json.dumps(case["to"]))
        except AgentFlowError as error:
            return failed(gate, "TemplateError", f"cases[{number}].when: {error}")
    return GateResult(gate, NodeRunState.SUCCESS, output=json.dumps(config.get("default", [])))


def _decide_items(gate: DueGate, items: Any) -> GateResult:
    if not isinstance(items, list):
        kind = {str: "text", dict: "a mapping", type(None): "null", bool: "true or false"}.get(type(items), "a number")
        message = f"for_each gave {kind} ({items!r:.60}), not a list; a mapping's pairs are `x.items() | list`"
        return failed(gate, "MapOverNoList", message)
    if len(items) > MAX_ITEMS:
        message = f"for_each gave {len(items):,} items; at most {MAX_ITEMS:,} are run. Group them: `items | batch(100) | list`"
        return failed(gate, "MapTooLarge", message)
    if not items:
        return GateResult(gate, NodeRunState.SKIPPED)
    try:
        text = encode(items, INPUT_MAX)
    except OutputInvalid as error:
        return failed(gate, type(error).__name__, f"for_each: {error}")
    return GateResult(gate, NodeRunState.DEFERRED, items=text, count=len(items))
