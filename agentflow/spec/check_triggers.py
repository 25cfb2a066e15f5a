"""Which keys a trigger of each type has, what `agentflow.triggers` says of it, and the params it starts runs with."""

from __future__ import annotations

from collections.abc import Iterator

from agentflow.spec.findings import Finding, path_of
from agentflow.spec.models import TriggerSpec, WorkflowSpec
from agentflow.spec.param_schema import schema_findings
from agentflow.spec.params import param_findings
from agentflow.spec.paths import Path

UNNAMED = "webhook"  #: What a webhook trigger without a name is called: tokens belong to names.
_COMMON = {"type", "name", "params", "paused"}
_CLOCK = ("start", "end", "jitter", "timezone", "catchup")
#: Trigger type to its required and its further keys, beside the common ones.
KEYS_OF_TYPE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cron": (("cron",), _CLOCK),
    "interval": (("every",), _CLOCK),
    "date": (("at",), _CLOCK),
    "calendar": (("every", "at"), _CLOCK),
    "event": ((), ("workflow", "workflows", "mode", "within", "states")),
    "webhook": ((), ()),
}


def trigger_findings(spec: WorkflowSpec, *, skip: frozenset[int], params_known: bool) -> Iterator[Finding]:
    """What is wrong with the triggers of a workflow."""
    params_sound = params_known and not any(
        True for name, schema in spec.params.items() for _ in schema_findings(schema, (name,))
    )
    seen: dict[str, int] = {}
    for index, trigger in enumerate(spec.triggers):
        path: Path = ("triggers", index)
        if index in skip:
            continue
        found = list(_key_findings(trigger, path))
        yield from found
        if not found:
            yield from _rule_findings(trigger, path)
        if params_sound:
            for item in param_findings(spec.params, trigger.params):
                yield Finding((*path, "params", *item.path), item.message, item.hint, item.of_key)
        if trigger.name is not None and trigger.name in seen:
            yield Finding((*path, "name"), f"trigger {seen[trigger.name] + 1} has the name `{trigger.name}` too")
        elif trigger.type == "webhook" and UNNAMED in seen:
            yield Finding(path, f"trigger {seen[UNNAMED] + 1} is a webhook too", "give this one a `name`")
        seen.setdefault(trigger.name or (UNNAMED if trigger.type == "webhook" else ""), index)


def _key_findings(trigger: TriggerSpec, path: Path) -> Iterator[Finding]:
    required, further = KEYS_OF_TYPE[trigger.type]
    kind = f"an {trigger.type}" if trigger.type[0] in "aeiou" else f"a {trigger.type}"
    written = {key for key in trigger.model_fields_set if getattr(trigger, key) is not None}
    for key in required:
        if key not in written:
            yield Finding(path, f"`{key}` is missing: {kind} trigger needs it")
    for key in sorted(written - _COMMON - set(required) - set(further)):
        known = ", ".join((*required, *further))
        yield Finding((*path, key), f"{kind} trigger has no `{key}`", f"its keys: {known}", of_key=True)


def _rule_findings(trigger: TriggerSpec, path: Path) -> Iterator[Finding]:
    if trigger.type == "event":
        yield from _event_findings(trigger, path)
    if trigger.type in ("event", "webhook"):  # no clock
        return
    if trigger.type != "calendar" and not isinstance(trigger.every, str | None):
        yield Finding((*path, "every"), "must be a duration such as 15m")
        return
    try:
        from agentflow.triggers import validate
    except ImportError:  # a worker without the server extra: whoever stores the workflow checks it
        return
    document = trigger.model_dump(mode="json", exclude_defaults=True)
    for problem in validate(document):
        yield Finding((*path, *path_of(problem.path)), problem.message, problem.hint)


def _event_findings(trigger: TriggerSpec, path: Path) -> Iterator[Finding]:
    """An event trigger names one workflow, or several; only several can be waited for together."""
    if (trigger.workflow is None) == (trigger.workflows is None):
        yield Finding(path, "an event trigger names `workflow`, or `workflows`", "workflow: ingest")
    elif trigger.workflows is not None and not trigger.workflows:
        yield Finding((*path, "workflows"), "must not be empty")
    elif trigger.workflows is not None and len(set(trigger.workflows)) < len(trigger.workflows):
        yield Finding((*path, "workflows"), "names a workflow twice")
    if trigger.mode == "all" and trigger.workflows is None:
        yield Finding((*path, "mode"), "`all` needs several `workflows`", of_key=True)
    if trigger.within is not None and trigger.mode != "all":
        yield Finding((*path, "within"), "`within` says nothing without `mode: all`", of_key=True)
    if trigger.states is not None and not trigger.states:
        yield Finding((*path, "states"), "must not be empty", "success, failed, cancelled")
