"""A node type of the tests' own that runs in I/O lanes, and workloads of it."""

from __future__ import annotations

from pathlib import Path

from agentflow.workload import Workload
from executors.conformance.harness import Harness

#: Runs the `main` that its config defines, on the lane's loop: what built-in types must never do, so only here.
PROBE = """
from typing import Any
from pydantic import Field
from agentflow.nodes.base import LITERAL, AsyncNodeType, NodeConfig, NodeContext

class Config(NodeConfig):
    code: str = Field(json_schema_extra=LITERAL)
    args: dict[str, Any] = {}

class Probe(AsyncNodeType[Config]):
    name, title, description, Config = "probe", "Probe", "Runs async code.", Config

    async def arun(self, config: Config, context: NodeContext) -> Any:
        names = {}
        exec(config.code, names)
        return await names["main"](context, **config.args)
"""


def install_probe(folder: Path) -> None:
    """Make a folder of installed packages, for PYTHONPATH, that offers the type `probe`."""
    (folder / "probe_nodes.py").write_text(PROBE)
    info = folder / "probe_nodes-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-nodes\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[agentflow.nodes]\nprobe = probe_nodes:Probe\n")


class Lanes(Harness):
    """A started executor."""

    def probe(self, body: str, **fields: object) -> Workload:
        """A workload whose `main` has this body and may await; `context` is at hand."""
        indented = "\n".join(f"    {line}" for line in body.strip("\n").split("\n"))
        args = fields.pop("args", {})
        names = ", ".join(["context", *args])
        code = f"import asyncio, os, sys, time\nasync def main({names}):\n{indented}\n"
        return self.workload("probe", {"code": code, "args": args}, **fields)
