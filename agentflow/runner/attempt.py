"""One attempt: find the node type, render its config, run it, check its output; every end is a value, not a raise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentflow.nodes import registry
from agentflow.nodes.base import NodeConfig, NodeContext, NodeLog, NodeSkipped, NodeType
from agentflow.runner.errors import ConfigInvalid, describe
from agentflow.runner.masking import Masker, mask_output
from agentflow.runner.output import encode
from agentflow.runner.termination import Terminated
from agentflow.templates import render
from agentflow.workload import ErrorInfo, Outcome, Workload


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt ended inside its process."""

    outcome: Outcome  #: SUCCESS, FAILED or SKIPPED.
    output: str | None = None  #: JSON text, only with SUCCESS.
    error: ErrorInfo | None = None


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
        node_type = registry.get(workload.type)
        config = _config(node_type, workload)
        context = NodeContext(
            run_id=workload.run_id,
            workflow=workload.workflow,
            node=workload.node,
            map_index=workload.map_index,
            attempt=workload.attempt,
            work_dir=work_dir,
            bundle_dir=bundle_dir,
            output_max=workload.limits.output_max,
            allow_private_http=workload.limits.allow_private_http,
            log=log,
        )
        value = node_type.run(config, context)
        output = encode(value, workload.limits.output_max)
        if workload.secrets:
            output = _without_secrets(output, workload.secrets, log)
        return AttemptResult(Outcome.SUCCESS, output=output)
    except NodeSkipped as skipped:
        log(mask(str(skipped) or "the node asked to be skipped"))
        return AttemptResult(Outcome.SKIPPED)
    except Terminated:
        return AttemptResult(Outcome.FAILED, error=ErrorInfo(type="Terminated", message="stopped by SIGTERM"))
    except BaseException as error:  # noqa: BLE001 - whatever user code raises ends this attempt, not the process
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
    context: Mapping[str, Any] = {**workload.context, "secrets": workload.secrets}
    rendered = render(workload.config, context, literal=_literal_fields(workload.type))
    try:
        config: NodeConfig = node_type.Config.model_validate(rendered)
    except ValidationError as error:
        raise ConfigInvalid.from_validation(error) from None
    return config
