"""What templates may name: upstream nodes, declared params, and the names that exist where they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agentflow.errors import NodeTypeUnknown, NodeTypeUnusable, TemplateProblem
from agentflow.graph import not_upstream
from agentflow.spec.findings import Finding, did_you_mean
from agentflow.spec.limits import MAX_PROBLEMS
from agentflow.spec.models import NodeSpec, WorkflowSpec
from agentflow.spec.paths import Path
from agentflow.templates import CONTEXT_NAMES, References, find_references, iter_templates

_MAPPED_NAMES = frozenset({"item", "index"})
_ENOUGH = 20 * MAX_PROBLEMS
#: Config keys whose expressions the scheduler evaluates, without secrets (SEMANTICS section 2).
_SCHEDULER_TYPES = ("branch", "workflow")
_WAIT = "wait"  # some of its kinds


def template_findings(
    spec: WorkflowSpec, *, skip: frozenset[str], params_known: bool, graph_known: bool
) -> Iterator[Finding]:
    """Everything templates name that they cannot have."""
    uses: dict[tuple[str, str], Path] = {}  # (upstream, node) -> first place that says so
    found = 0
    for node_id, node in spec.nodes.items():
        if node_id in skip:
            continue
        for path, references, by_scheduler in _references(node_id, node):
            if isinstance(references, Finding):
                findings = [references]
            else:
                mapped = node.for_each is not None and "for_each" not in path[2:3]
                findings = list(
                    _name_findings(spec, path, references, by_scheduler, mapped=mapped, params_known=params_known)
                )
                findings += _node_findings(spec, node_id, path, references, skip, uses)
            found += len(findings)
            yield from findings
        yield from _branch_findings(spec, node_id, node)
        if found > _ENOUGH:
            return
    yield from _output_findings(spec, skip, params_known=params_known)
    if graph_known and not skip:
        yield from _visibility_findings(spec, uses)


def _references(node_id: str, node: NodeSpec) -> Iterator[tuple[Path, References | Finding, bool]]:
    """Each template of a node with its place; a Finding where it cannot be read. True: the scheduler evaluates it."""
    base: Path = ("nodes", node_id)
    if isinstance(node.when, str):
        path: Path = (*base, "when")
        found = _find(path, node.when)
        if isinstance(found, References) and not found.pure:
            hint = (
                f'write when: "{{{{ {node.when.strip()[:60]} }}}}"'
                if "{" not in node.when
                else "all of it inside {{ }}"
            )
            found = Finding(path, "`when` must be exactly one {{ expression }}, true or false", hint)
        yield path, found, True
    for inner, text in iter_templates(node.for_each):
        yield (*base, "for_each", *inner), _find((*base, "for_each", *inner), text), True
    if node.repeat is not None and isinstance(node.repeat.until, str):
        yield (*base, "repeat", "until"), _find((*base, "repeat", "until"), node.repeat.until), True
    scheduler = node.type in _SCHEDULER_TYPES or (node.type == _WAIT and _decided_by_scheduler(node))
    for inner, text in iter_templates(node.config, literal=_literal_fields(node.type)):
        path = (*base, "config", *inner)
        yield path, _find(path, text), scheduler


def _decided_by_scheduler(node: NodeSpec) -> bool:
    from agentflow.nodes.wait import decided_by_scheduler

    return decided_by_scheduler(node.config)


def _literal_fields(node_type: str) -> frozenset[str]:
    from agentflow.nodes import registry

    try:
        return registry.literal_fields(node_type)
    except (NodeTypeUnknown, NodeTypeUnusable):  # reported with the node
        return frozenset()


def _find(path: Path, text: str) -> References | Finding:
    try:
        return find_references(text)
    except TemplateProblem as error:
        where = f"line {error.line} of the template: " if error.line and "\n" in text else ""
        return Finding(path, f"{where}{error.message}", error.hint)


def _name_findings(
    spec: WorkflowSpec, path: Path, references: References, by_scheduler: bool, *, mapped: bool, params_known: bool
) -> Iterator[Finding]:
    for name in sorted(references.names - CONTEXT_NAMES):
        hint = did_you_mean(name, sorted(CONTEXT_NAMES - _MAPPED_NAMES), what="templates know")
        if name in spec.params:
            hint = f"write params.{name}"
        elif name in spec.nodes:
            hint = f"write nodes.{name}.output"
        yield Finding(path, f"the template names `{name}`, which does not exist", hint)
    if not mapped:
        for name in sorted(references.names & _MAPPED_NAMES):
            yield Finding(path, f"`{name}` exists only in nodes with `for_each`, and there not in `for_each` itself")
    if by_scheduler and "secrets" in references.names:
        hint = "compare it in a node and use that node's output"
        yield Finding(path, "secrets are not available in expressions that the scheduler evaluates", hint)
    elif "secrets" in references.dynamic:
        hint = "name each secret: secrets.token or secrets['a-b']"
        yield Finding(path, "the template picks secrets by a computed name; an attempt gets only those it names", hint)
    if params_known:
        for name in sorted(references.params - spec.params.keys()):
            hint = (
                did_you_mean(name, spec.params, what="params") or f"declare it under `params`: {name}: {{type: string}}"
            )
            yield Finding(path, f"the template names the param `{name}`, which is not declared", hint)


def _node_findings(
    spec: WorkflowSpec,
    node_id: str,
    path: Path,
    references: References,
    skip: frozenset[str],
    uses: dict[tuple[str, str], Path],
) -> Iterator[Finding]:
    if references.dynamic_nodes:
        hint = "name each node: nodes.fetch.output or nodes['a-b'].output"
        yield Finding(path, "the template picks nodes by a computed name; nobody can tell which must run before", hint)
    for name in sorted(references.nodes):
        if name == node_id and spec.nodes[name].repeat is not None and "for_each" not in path[2:3]:
            continue  # what its round before gave
        if name == node_id:
            yield Finding(path, f"the template names `nodes.{name}`, its own node, whose output does not exist yet")
        elif name in spec.nodes:
            uses.setdefault((name, node_id), path)
        elif name not in skip:
            yield Finding(path, f"the template names the node `{name}`, which does not exist", _node_hint(name, spec))


def _output_findings(spec: WorkflowSpec, skip: frozenset[str], *, params_known: bool) -> Iterator[Finding]:
    """`outputs` of the workflow may name every node: they are rendered when all have ended."""
    for inner, text in iter_templates(spec.outputs):
        path: Path = ("outputs", *inner)
        references = _find(path, text)
        if isinstance(references, Finding):
            yield references
            continue
        yield from _name_findings(spec, path, references, True, mapped=False, params_known=params_known)
        if references.dynamic_nodes:
            yield Finding(path, "the template picks nodes by a computed name", "name each node: nodes.fetch.output")
        for name in sorted(references.nodes - spec.nodes.keys() - skip):
            yield Finding(path, f"the template names the node `{name}`, which does not exist", _node_hint(name, spec))


def _node_hint(name: str, spec: WorkflowSpec) -> str | None:
    dashed = next((other for other in spec.nodes if other.startswith(f"{name}-")), None)
    if dashed is not None:  # `nodes.a-b` is a subtraction in Jinja
        return f"did you mean nodes['{dashed}']? A `-` needs brackets and quotes"
    return did_you_mean(name, spec.nodes, what="nodes")


def _visibility_findings(spec: WorkflowSpec, uses: dict[tuple[str, str], Path]) -> Iterator[Finding]:
    needs = {node_id: node.needs for node_id, node in spec.nodes.items()}
    hidden = not_upstream(needs, uses)
    for (upstream, node_id), path in uses.items():
        if (upstream, node_id) in hidden:
            hint = f"add it: needs: [{', '.join([*spec.nodes[node_id].needs[:10], upstream])}]"
            yield Finding(path, f"the template names `nodes.{upstream}`, which is not upstream of `{node_id}`", hint)


def _branch_findings(spec: WorkflowSpec, node_id: str, node: NodeSpec) -> Iterator[Finding]:
    """A branch may only choose among its direct downstreams."""
    if node.type != "branch":
        return
    cases = node.config.get("cases")
    for number, case in enumerate(cases if isinstance(cases, list) else []):
        inner: Path = ("nodes", node_id, "config", "cases", number)
        if isinstance(case, dict):
            yield from _condition_findings((*inner, "when"), case.get("when"))
            yield from _target_findings(spec, node_id, (*inner, "to"), case.get("to"))
    yield from _target_findings(spec, node_id, ("nodes", node_id, "config", "default"), node.config.get("default"))


def _condition_findings(path: Path, when: Any) -> Iterator[Finding]:
    if not isinstance(when, str):
        return  # the config model reports other types
    found = _find(path, when)
    if isinstance(found, References) and not found.pure:
        yield Finding(path, "`when` must be exactly one {{ expression }}, true or false", "all of it inside {{ }}")


def _target_findings(spec: WorkflowSpec, node_id: str, path: Path, targets: Any) -> Iterator[Finding]:
    for index, target in enumerate(targets if isinstance(targets, list) else []):
        if not isinstance(target, str):
            continue
        finding = Finding((*path, index), f"there is no node `{target[:100]}`")
        if target not in spec.nodes:
            yield replace(finding, hint=did_you_mean(target, spec.nodes, what="nodes"))
        elif node_id not in spec.nodes[target].needs:
            hint = f"write `needs: [{node_id}]` in `{target}`"
            yield replace(finding, message=f"`{target}` is not a direct downstream of `{node_id}`", hint=hint)
