"""What differs between two workflow documents: keys, nodes, edges. Pure; the order of keys is no difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT = object()


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The structural difference of two documents as `to_document` makes them.

    Returns:
        `{identical, keys: [change], nodes: {added, removed, changed: {id: [change]}}, edges: {added, removed}}`, where a
        change is `{path, before, after}` with `before` or `after` left out for what was not there.
    """
    old, new = dict(before.get("nodes", {})), dict(after.get("nodes", {}))
    keys = _changes(_without_nodes(before), _without_nodes(after), "")
    changed = {
        node: changes
        for node in new
        if node in old and (changes := _changes(_without_needs(old[node]), _without_needs(new[node]), ""))
    }
    added = [node for node in new if node not in old]
    removed = [node for node in old if node not in new]
    edges_before, edges_after = _edges(old), _edges(new)
    edges = {
        "added": [list(edge) for edge in sorted(edges_after - edges_before)],
        "removed": [list(edge) for edge in sorted(edges_before - edges_after)],
    }
    return {
        "identical": not (keys or changed or added or removed or edges["added"] or edges["removed"]),
        "keys": keys,
        "nodes": {"added": added, "removed": removed, "changed": changed},
        "edges": edges,
    }


def _without_nodes(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "nodes"}


def _without_needs(node: Any) -> Any:
    return {key: value for key, value in node.items() if key != "needs"} if isinstance(node, dict) else node


def _edges(nodes: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {
        (str(up), node) for node, spec in nodes.items() if isinstance(spec, dict) for up in _listed(spec.get("needs"))
    }


def _listed(needs: Any) -> list[Any]:
    return needs if isinstance(needs, list) else []


def _changes(before: Any, after: Any, path: str) -> list[dict[str, Any]]:
    """Changes within two values; mappings are gone into, everything else is replaced as a whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in sorted(before.keys() | after.keys()):
            place = f"{path}.{key}" if path else str(key)
            found += _changes(before.get(key, _ABSENT), after.get(key, _ABSENT), place)
        return found
    if _same(before, after):
        return []
    change: dict[str, Any] = {"path": path}
    if before is not _ABSENT:
        change["before"] = before
    if after is not _ABSENT:
        change["after"] = after
    return [change]


def _same(before: Any, after: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(before, bool) or isinstance(after, bool):
        return before is after
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_same, before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(_same(before[key], after[key]) for key in before)
    return bool(before == after)
