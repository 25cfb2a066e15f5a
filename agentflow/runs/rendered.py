"""The config of a node run with its templates filled in, for people who look at it; never with secrets.

What users wrote is rendered only in a limited child process, as the scheduler's own expressions are (SEMANTICS 2): a
fresh one for each look. The database is read first and let go of: rendering may take seconds.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.catalog.versions import spec_of
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries import inputs
from agentflow.errors import TemplateProblem
from agentflow.nodes import registry
from agentflow.runs.attempts import node_place
from agentflow.templates import References, find_references_in
from agentflow.templates.evaluator_process import ChildGone, ChildSilent, EvaluatorProcess
from agentflow.templates.framing import FrameTooLarge, encode_frame

HIDDEN = "***"  #: Stands for every secret.
SECONDS = 1.0  # CPU time of a rendering
MEMORY = 256 * 2**20  # bytes
PATIENCE = 10.0  # seconds until the child is given up
INPUT_MAX = 4 * 2**20  #: Bytes of upstream outputs that are read for it.

_NODE = text("""
SELECT r.version_id, r.workspace_id, r.state AS run_state, vn.node_no, vn.type, nr.item, nr.state
FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node
LEFT JOIN node_run nr ON nr.run_id = :run AND nr.node_no = vn.node_no AND nr.map_index = :index
WHERE r.id = :run
""")
_NUMBERS = text("""
SELECT node_id, node_no, mapped FROM version_node WHERE version_id = :version AND node_id = ANY(CAST(:nodes AS text[]))
""")


@dataclass(frozen=True, slots=True)
class AskedConfig:
    """What is needed to render a config."""

    config: dict[str, Any]  #: As it stands in the version.
    literal: frozenset[str]  #: Fields of it that are no templates.
    context: dict[str, Any]
    problem: str | None = None  #: Why it cannot be rendered.


def read_config(
    connection: Connection, run_id: str, address: str, *, workspace: str = DEFAULT_WORKSPACE
) -> AskedConfig:
    """Collect a node run's config and what its templates name.

    Raises:
        NotFound: There is no such run or node.
        UsageError: Not the address of a node.
    """
    place = node_place(connection, run_id, address, workspace=workspace)
    key = {"run": place.run_id, "node": place.node, "index": place.map_index}
    row = connection.execute(_NODE, key).one()
    config = spec_of(connection, row.workspace_id, row.version_id)["nodes"][place.node].get("config", {})
    literal = registry.literal_fields(row.type)
    try:
        references = find_references_in({name: value for name, value in config.items() if name not in literal})
    except TemplateProblem as error:
        return AskedConfig(config, literal, {}, error.message)
    context, problem = _context(connection, place.run_id, row, references)
    if place.map_index != NOT_MAPPED:
        context |= {"index": place.map_index, "item": row.item}
    elif references.names & {"item", "index"}:
        problem = problem or "it differs from index to index: ask for one, such as `" + address + "[0]`"
    return AskedConfig(config, literal, context, problem)


def render_config(asked: AskedConfig) -> dict[str, Any]:
    """`{config, rendered, problem}`; one of the last two is null."""
    answer: dict[str, Any] = {"config": asked.config, "rendered": None, "problem": asked.problem}
    if asked.problem is not None:
        return answer
    templates = {name: value for name, value in asked.config.items() if name not in asked.literal}
    try:
        value = _render(templates, asked.context)
    except _NotRendered as error:
        return answer | {"problem": str(error)}
    return answer | {"rendered": {name: value.get(name, asked.config[name]) for name in asked.config}}


class _NotRendered(Exception):
    """The text says why."""


def _render(templates: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    if not templates:
        return {}
    try:
        frame = encode_frame({"expression": templates, "context": context, "files": []})
    except FrameTooLarge as error:
        raise _NotRendered(f"what it reads is too large: {error}") from error
    child = EvaluatorProcess(seconds=SECONDS, memory=MEMORY)
    try:
        child.wait_ready(PATIENCE)
        (result,) = child.exchange([frame], 1, PATIENCE)
    except ChildSilent as error:
        raise _NotRendered("rendering takes too long") from error
    except ChildGone as error:
        raise _NotRendered("rendering takes too long or too much memory") from error
    finally:
        child.stop()
    if "error" in result:
        raise _NotRendered(result["error"]["message"])
    rendered: dict[str, Any] = result["value"]
    return rendered


def _context(
    connection: Connection, run: uuid.UUID, row: Row[Any], references: References
) -> tuple[dict[str, Any], str | None]:
    context = dict(inputs.run_contexts(connection, [run])[run].names)
    every = "vars" in references.dynamic
    if "vars" in references.names:
        context["vars"] = inputs.variables(connection, row.workspace_id, references.vars, every=every)
    context["secrets"] = dict.fromkeys(references.secrets, HIDDEN)
    numbers = connection.execute(_NUMBERS, {"version": row.version_id, "nodes": sorted(references.nodes)}).all()
    read = inputs.upstream_values(
        connection,
        [(0, run, number.node_no) for number in numbers],
        mapped={(run, number.node_no) for number in numbers if number.mapped},
        cap=INPUT_MAX,
    )
    waiting = {"output": None, "state": "pending"}
    context["nodes"] = {number.node_id: read.values.get((0, number.node_no), waiting) for number in numbers}
    return context, "the outputs that it reads are too large to show" if read.large or read.too_large else None
