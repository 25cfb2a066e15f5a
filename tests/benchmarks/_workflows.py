"""The workflows that are measured, as documents."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

FIBO = """
def main(n):
    def fibo(n):
        return n if n < 2 else fibo(n - 1) + fibo(n - 2)
    return fibo(n)
"""
EMPTY = "def main():\n    pass\n"


def fibo(n: int) -> Document:
    """A node that computes fibo(n)."""
    return {"type": "python", "config": {"code": FIBO, "args": {"n": n}}}


def noop() -> Document:
    """A node that does nothing and goes through the executor all the same."""
    return {"type": "noop"}


def python(code: str = EMPTY, **args: object) -> Document:
    """A node of inline code that defines `main`."""
    return {"type": "python", "config": {"code": code} | ({"args": args} if args else {})}


def chain(name: str, length: int, node: Document) -> Document:
    """Nodes one after the other."""
    nodes = {f"n{i}": node | ({"needs": [f"n{i - 1}"]} if i else {}) for i in range(length)}
    return {"name": name, "nodes": nodes}


def fan(name: str, width: int, node: Document) -> Document:
    """1 -> width -> 1; any number of runs at once."""
    nodes = {"first": dict(node)}
    nodes |= {f"n{i}": node | {"needs": ["first"]} for i in range(width)}
    nodes["last"] = node | {"needs": [f"n{i}" for i in range(width)]}
    return {"name": name, "max_active_runs": 1000, "nodes": nodes}


def independent(name: str, count: int, node: Document) -> Document:
    """Nodes without edges."""
    return {"name": name, "nodes": {f"n{i}": dict(node) for i in range(count)}}
