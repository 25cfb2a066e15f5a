"""One attempt: find the node type, render its config, run it, check its output; every end is a value, not a raise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agentflow import correlation
from agentflow.nodes import registry
from agentflow.nodes.base import (
    AsyncNodeType,
    MakeRoom,
    NodeConfig,
    NodeContext,
    NodeDeferred,
    NodeLog,
    NodeSkipped,
    NodeType,
)
from agentflow.runner.errors import ConfigInvalid, describe
from agentflow.runner.masking import Masker, mask_output
from agentflow.runner.output import OutputInvalid, encode
from agentflow.runner.termination import Terminated
from agentflow.templates import render, with_inputs
from agentflow.workload import Deferral, ErrorInfo, Outcome, Workload

STATE_MAX: Final = 64 * 1024  # bytes of the state of a deferred attempt, as JSON
_SMALL: Final = 64 * 1024  # bytes of an output that is checked on the event loop itself


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt ended inside its process."""

    outcome: Outcome  #: SUCCESS, FAILED, SKIPPED or DEFERRED.
    output: str | None = None  #: JSON text, only with SUCCESS.
    error: ErrorInfo | None = None
    deferral: Deferral | None = None  #: Only with DEFERRED.


#: The node was asked to stop, and did.
STOPPED: Final = AttemptResult(Outcome.FAILED, error=ErrorInfo(type="Terminated", message="stopped by SIGTERM"))


def run_attempt(
    workload: Workload,
    *,
    work_dir: Path,
    bundle_dir: Path | None,
    log: NodeLog,
    mask: Masker,
) -> AttemptResult:
    """Run one workload in this process, to its end.

    Timeouts, memory and cancellation are the caller's business, who watches this process from outside. Nothing that
    the node raises gets out, `SystemExit` and `KeyboardInterrupt` included.
    """
    try:
        node_type, config, context = _prepared(workload, work_dir, bundle_dir, log)
        return _succeeded(workload, node_type.run(config, context), workload.limits.output_max, log)
    except NodeDeferred as wish:
        return _deferred(workload, wish, log, mask)
    except BaseException as error:  # noqa: BLE001 - whatever user code raises ends this attempt, not the process
        return _ended_by(error, log, mask)


async def arun_attempt(
    workload: Workload, *, work_dir: Path, log: NodeLog, mask: Masker, make_room: MakeRoom
) -> AttemptResult:
    """Run one workload beside others on the running event loop, to its end; cancel the task to stop it.

    The node type must be an `AsyncNodeType`. Nothing that the node raises gets out. A large output is checked in a
    thread, so that the others go on.
    """
    import asyncio  # only lanes need it, and the scheduler imports this module

    try:
        node_type, config, context = _prepared(workload, work_dir, None, log)
        context = replace(context, make_room=make_room)
        if not isinstance(node_type, AsyncNodeType):
            raise TypeError(f"node type `{workload.type}` cannot share a process")  # noqa: TRY301 - an end like any other
        value = await node_type.arun(config, context)
        most = workload.limits.output_max
        try:
            return _succeeded(workload, value, min(_SMALL, most), log)
        except OutputInvalid:  # large, or wrong; either takes the time that it takes
            return await asyncio.to_thread(_succeeded, workload, value, most, log)
    except asyncio.CancelledError:
        return STOPPED
    except NodeDeferred as wish:
        return _deferred(workload, wish, log, mask)
    except BaseException as error:  # noqa: BLE001 - whatever a node raises ends this attempt, not its neighbours
        return _ended_by(error, log, mask)


def _prepared(
    workload: Workload, work_dir: Path, bundle_dir: Path | None, log: NodeLog
) -> tuple[NodeType[Any], NodeConfig, NodeContext]:
    """What the node is called with."""
    correlation.bind(workload.trace.get(correlation.TRACE))
    node_type = registry.get(workload.type)
    context = NodeContext(
        run_id=workload.run_id,
        request_id=workload.trace.get(correlation.TRACE, ""),
        workflow=workload.workflow,
        node=workload.node,
        map_index=workload.map_index,
        attempt=workload.attempt,
        state=workload.turn.state,
        waited=workload.turn.waited,
        connections={name: {**one.fields, **one.secrets} for name, one in workload.connections.items()},
        work_dir=work_dir,
        bundle_dir=bundle_dir,
        output_max=workload.limits.output_max,
        allow_private_http=workload.limits.allow_private_http,
        log=log,
    )
    return node_type, _config(node_type, workload), context


def _succeeded(workload: Workload, value: Any, most: int, log: NodeLog) -> AttemptResult:
    """The result of a node that returned; its output may have `most` bytes.

    Raises:
        OutputInvalid: What it returned is not JSON, or too large.
    """
    output = encode(value, most)
    if hidden := workload.hidden:
        output = _without_secrets(output, hidden, log)
    return AttemptResult(Outcome.SUCCESS, output=output)


def _deferred(workload: Workload, wish: NodeDeferred, log: NodeLog, mask: Masker) -> AttemptResult:
    """The result of a node that asks to go on later; its state is stored, so it may hold no secrets."""
    try:
        state = encode(wish.state, STATE_MAX)
    except OutputInvalid as error:
        return AttemptResult(Outcome.FAILED, error=describe(error, mask))
    if hidden := workload.hidden:
        state = _without_secrets(state, hidden, log)
    timeout = workload.limits.timeout  # what is left of it: it strikes in pauses too
    after = wish.after if timeout is None else min(wish.after, timeout)
    return AttemptResult(Outcome.DEFERRED, deferral=Deferral(after=after, state=json.loads(state)))


def _ended_by(error: BaseException, log: NodeLog, mask: Masker) -> AttemptResult:
    """The result of a node that raised."""
    if isinstance(error, NodeSkipped):
        log(mask(str(error) or "the node asked to be skipped"))
        return AttemptResult(Outcome.SKIPPED)
    if isinstance(error, Terminated):
        return STOPPED
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return AttemptResult(Outcome.SUCCESS, output="null")
    return AttemptResult(Outcome.FAILED, error=describe(error, mask))


def _without_secrets(output: str, secrets: Mapping[str, str], log: NodeLog) -> str:
    """The output as others may read it; outputs are shown to everybody who may see the run."""
    masked, names = mask_output(output, secrets)
    if names:
        those = ", ".join(f"`{name}`" for name in names)
        log(
            f"the output contained the value of the secret {those}, which is replaced by ***; "
            "a node that needs a secret names it in its own config",
            level="warning",
        )
    return masked


@cache
def _literal_fields(type_name: str) -> frozenset[str]:
    return registry.literal_fields(type_name)


def _config(node_type: NodeType[Any], workload: Workload) -> NodeConfig:
    """The rendered and validated config.

    Raises:
        ConfigInvalid: It does not fit the node type.
    """
    context: Mapping[str, Any] = {
        **with_inputs(workload.context, workload.inputs),
        "secrets": workload.secrets,
    }
    rendered = render(workload.config, context, literal=_literal_fields(workload.type))
    try:
        config: NodeConfig = node_type.Config.model_validate(rendered)
    except ValidationError as error:
        raise ConfigInvalid.from_validation(error) from None
    return config
