"""What runs during the storm: workflows of ten nodes in seven shapes, and how each of their runs must end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Each execution leaves two lines that no transaction of ours can undo. The number of the attempt is not for user code:
#: this one finds it on the stack.
CODE = """
import json, os, sys, time

def main(journal, run, seconds, fails=0, value=None):
    frame = sys._getframe()
    while not hasattr(frame.f_locals.get("context"), "attempt"):
        frame = frame.f_back
    me = frame.f_locals["context"]
    def note(what):
        line = [run, me.node, me.map_index, me.attempt, os.getpid(), what, time.time()]
        descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, (json.dumps(line) + "\\n").encode())
        os.close(descriptor)
    note("begin")
    time.sleep(seconds)
    if me.attempt <= fails:
        note("fail")
        raise ValueError("fails on purpose")
    note("end")
    return value
"""
ALWAYS = 1000  #: Attempts that fail: more than anybody makes.
ENDS = {"success", "failed"}


@dataclass(frozen=True)
class Shape:
    """A workflow, and the model of its runs."""

    name: str
    nodes: dict[str, Any]
    state: str = "success"
    ends: dict[str, str] = field(default_factory=dict)  #: Nodes that do not succeed, and how they end.
    rows: int = 10  #: Node runs, indexes included.
    child: str | None = None  #: Shape of its sub-runs.
    hidden: bool = False  #: Runs only as a sub-run.

    def document(self) -> dict[str, Any]:
        """The workflow file."""
        keys = {"params": {"number": {"type": "integer", "default": -1}}, "max_active_runs": 100}
        return {"name": self.name, **keys, "nodes": self.nodes}

    def end_of(self, node: str) -> str:
        """State in which a node must end."""
        return self.ends.get(node, "success")


@dataclass(frozen=True)
class Maker:
    """Makes nodes that keep the journal."""

    journal: Path

    def node(self, *needs: str, seconds: float = 0.1, value: Any = None, fails: int = 0, **keys: Any) -> dict[str, Any]:
        """A node that takes so long, and fails in its first attempts."""
        arguments = {"journal": str(self.journal), "run": "{{ run.id }}", "seconds": seconds}
        arguments |= {"value": value, "fails": fails}
        return {"type": "python", "needs": list(needs), "config": {"code": CODE, "args": arguments}, **keys}


def shapes(journal: Path, http_url: str) -> list[Shape]:
    """All of them; a sub-run's comes before those that run it."""
    node = Maker(journal).node
    retried = {"retries": 2, "retry_delay": "300ms"}
    fresh = {"executor": "subprocess"}
    asks = {"type": "http", "config": {"url": f"{http_url}/{{{{ run.id }}}}"}}
    fan = [f"fan_{number}" for number in range(8)]
    return [
        Shape("chain", {f"n{i}": node(*[f"n{i - 1}"] * (i > 0), seconds=0.15) for i in range(10)}),
        Shape(
            "fan",
            {"head": node(seconds=0.05)} | {name: node("head", seconds=0.5) for name in fan} | {"join": node(*fan)},
        ),
        Shape(
            "mapped",
            {
                "list": node(value=list(range(6))),
                "each": node("list", seconds=0.4, for_each="{{ nodes.list.output }}", max_parallel=3, **retried),
                "join": node("each"),
                "last": node("join"),
            },
        ),
        Shape("inner", {"a": node(), "b": node("a", seconds=0.3)}, rows=2, hidden=True),
        Shape(
            "outer",
            {
                "before": node(),
                "sub": {"type": "workflow", "needs": ["before"], "config": {"name": "inner"}},
                "beside": node("before", seconds=0.3),
                **{f"n{i}": node("sub" if i == 0 else f"n{i - 1}") for i in range(6)},
                "end": node("n5", "beside"),
            },
            child="inner",
        ),
        Shape(
            "flaky",
            {
                "first": node(fails=1, **retried),
                "second": node("first", fails=2, **retried),
                "third": node("second", seconds=0.2),
                "broken": node("first", fails=ALWAYS, retries=1, retry_delay="200ms"),
                "handler": node("broken", trigger_rule="one_failed"),
                "kept": node("broken"),
                "never": node("broken", when=False, trigger_rule="all_done"),
                "after": node("never", "kept", trigger_rule="all_done"),
                "join": node("third", "handler", trigger_rule="none_failed"),
                "end": node("join", "after"),
            },
            ends={"broken": "failed", "kept": "upstream_failed", "never": "skipped"},
        ),
        Shape(
            "doomed",
            {f"n{i}": node(*[f"n{i - 1}"] * (i > 0)) for i in range(8)}
            | {"leaf": node("n3", fails=ALWAYS), "under": node("leaf")},
            state="failed",
            ends={"leaf": "failed", "under": "upstream_failed"},
        ),
        Shape(
            "mixed",
            {
                "ask": asks,
                "fresh": node(seconds=0.3, **fresh),
                "fresher": node("fresh", fails=1, **fresh, **retried),
                "choose": {
                    "type": "branch",
                    "needs": ["ask", "fresher"],
                    "config": {"cases": [{"when": "{{ nodes.ask.output.status == 200 }}", "to": ["left"]}]},
                },
                "left": node("choose"),
                "right": node("choose"),
                "again": asks | {"needs": ["left"]},
                "slow": node("left", seconds=2.0),
                "join": node("again", "right", trigger_rule="none_failed", **fresh),
                "end": node("join", "slow"),
            },
            ends={"right": "skipped"},
        ),
    ]


def to_trigger(found: Sequence[Shape], count: int) -> list[Shape]:
    """The shapes of so many runs, taking turns."""
    open_ones = [shape for shape in found if not shape.hidden]
    return [open_ones[number % len(open_ones)] for number in range(count)]
