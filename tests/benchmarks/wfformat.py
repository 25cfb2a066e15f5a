"""Recorded executions in WfFormat (wfcommons.org) as workflows of no-op nodes, and the check of their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

Document = dict[str, Any]


class NotWfFormat(ValueError):
    """The document is not an execution in WfFormat."""


def to_workflow(instance: Mapping[str, Any]) -> Document:
    """The WorkflowSpec document: each task a no-op node, each parent an upstream.

    Parents come from a task's own list and from the `children` of others; ids that no node may have are changed.

    Raises:
        NotWfFormat: There are no tasks, an id comes twice, or a task names one that is not there.
    """
    tasks = _tasks(instance)
    parents = _parents(tasks)
    names = _node_ids(parents)
    return {
        "name": _slug(str(instance.get("name") or "wfinstance")),
        "max_active_runs": 1,
        "nodes": {
            names[task]: {"type": "noop"} | ({"needs": [names[up] for up in sorted(ups)]} if ups else {})
            for task, ups in parents.items()
        },
    }


def order_problems(workflow: Document, node_runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the order of a run; empty when every node started after all its parents had ended.

    Args:
        workflow: The document the run was made from.
        node_runs: Node runs as `agentflow runs show --json` prints them.
    """
    runs = {run["node"]: run for run in node_runs if run.get("map_index") is None}
    problems = [f"{name} did not run" for name in workflow["nodes"] if name not in runs]
    problems += [f"{name} is not a node of the workflow" for name in runs if name not in workflow["nodes"]]
    for name, node in workflow["nodes"].items():
        run = runs.get(name)
        if run is None:
            continue
        if run["state"] != "success":
            problems.append(f"{name} is {run['state']}")
        problems += [
            f"{name} started at {run['started_at']}, before {up} ended at {runs[up]['finished_at']}"
            for up in node.get("needs", [])
            if up in runs and not _ended_before(runs[up], run)
        ]
    return problems


def edge_count(workflow: Document) -> int:
    """How many parent/child pairs a workflow has."""
    return sum(len(node.get("needs", [])) for node in workflow["nodes"].values())


def numbered_edges(workflow: Document) -> list[tuple[int, int]]:
    """The parent/child pairs with nodes as numbers from 0, in the order of the workflow."""
    numbers = {name: number for number, name in enumerate(workflow["nodes"])}
    return [(numbers[up], numbers[name]) for name, node in workflow["nodes"].items() for up in node.get("needs", [])]


def _ended_before(up: Mapping[str, Any], down: Mapping[str, Any]) -> bool:
    ended, started = up.get("finished_at"), down.get("started_at")
    if ended is None or started is None:
        return False
    return datetime.fromisoformat(ended) <= datetime.fromisoformat(started)


def _tasks(instance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    try:
        tasks = instance["workflow"]["specification"]["tasks"]
    except (KeyError, TypeError):
        raise NotWfFormat("there is no workflow.specification.tasks; WfFormat 1.4 or newer is needed") from None
    if not tasks:
        raise NotWfFormat("the workflow has no tasks")
    return list(tasks)


def _parents(tasks: list[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The parents of each task, in the order of the file."""
    parents: dict[str, set[str]] = {}
    for task in tasks:
        if task["id"] in parents:
            raise NotWfFormat(f"the task {task['id']!r} comes twice")
        parents[task["id"]] = set(task.get("parents", []))
    for task in tasks:
        for child in task.get("children", []):
            if child not in parents:
                raise NotWfFormat(f"{task['id']!r} has the child {child!r}, which is not there")
            parents[child].add(task["id"])
    for task_id, ups in parents.items():
        for up in ups - parents.keys():
            raise NotWfFormat(f"{task_id!r} has the parent {up!r}, which is not there")
    return parents


def _node_ids(tasks: Iterable[str]) -> dict[str, str]:
    """A valid node id for each task, the same where it is one already."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for task in tasks:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", task)[:90]
        if not re.match(r"[A-Za-z_]", name):
            name = f"_{name}"
        number, base = 2, name
        while name in used:
            name, number = f"{base}_{number}", number + 1
        used.add(name)
        names[task] = name
    return names


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:100] or "wfinstance"
