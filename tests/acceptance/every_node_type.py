"""Runs every built-in node type as a worker pod does; prints what ran as JSON. Imports `agentflow` and nothing else.

`test_base_package.py` runs it beside the base dependencies, `.ci/check-wheel` with the wheel in an empty environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from agentflow.nodes import registry
from agentflow.nodes.base import SchedulerNodeType
from agentflow.runner import AttemptResult, run_attempt
from agentflow.runner.masking import Masker
from agentflow.workload import Limits, Outcome, Workload

#: Of the extra `server`; a base package that needs one of them is broken.
FOREIGN = ("alembic", "apscheduler", "cronsim", "psutil", "psycopg", "pydantic_settings", "rich", "sqlalchemy", "typer")

CONTEXT = {
    "params": {"name": "world"},
    "nodes": {"before": {"output": {"words": [1, 2]}, "state": "success"}},
    "run": {"id": "r", "logical_date": None, "triggered_by": "manual"},
    "vars": {"greeting": "Hello"},
}


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"city": "Berlin"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep stderr clean."""


def cases(url: str) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Type to configs and the outputs they lead to."""
    code = "async def main(words):\n    return sum(words)\n"
    return {
        "http": [({"url": url}, {"city": "Berlin"})],
        "noop": [({"output": "{{ nodes.before.output.words }}"}, [1, 2])],
        "python": [
            ({"code": code, "args": {"words": "{{ nodes.before.output.words }}"}}, 3),
            ({"function": "greetings:greet", "args": {"name": "{{ params.name }}"}}, "Hello, world!"),
        ],
        "shell": [({"command": "echo {{ vars.greeting | shell_quote }}"}, "Hello\n")],
        "template": [({"template": "{{ vars.greeting }}, {{ secrets.name }}"}, "Hello, you")],
        "wait": [({"until": "2020-01-01"}, None)],
    }


def comparable(type_name: str, output: Any) -> Any:
    """The part of an output that is the same each time."""
    return {"http": lambda: output["body"], "shell": lambda: output["stdout"], "wait": lambda: None}.get(
        type_name, lambda: output
    )()


def run(type_name: str, config: dict[str, Any], bundle: Path) -> AttemptResult:
    workload = Workload(
        attempt_id="r/0/-1/1",
        token="00",
        run_id="r",
        workspace="default",
        workflow="every-node-type",
        version=1,
        node=type_name,
        attempt=1,
        type=type_name,
        config=config,
        context=CONTEXT,
        secrets={"name": "you"},
        limits=Limits(allow_private_http=True),
    )
    with tempfile.TemporaryDirectory() as work_dir:
        return run_attempt(
            workload, work_dir=Path(work_dir), bundle_dir=bundle, log=lambda text, **_: None, mask=Masker(["you"])
        )


def main() -> None:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    table = cases(f"http://127.0.0.1:{server.server_port}/")
    assert sorted(registry.BUILT_IN) == registry.names(), registry.names()
    runnable = [name for name in registry.names() if not isinstance(registry.get(name), SchedulerNodeType)]
    assert sorted(table) == runnable
    ran: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        (bundle / "greetings.py").write_text("def greet(name):\n    return f'Hello, {name}!'\n")
        for type_name, attempts in table.items():
            for config, expected in attempts:
                result = run(type_name, config, bundle)
                assert result.outcome is Outcome.SUCCESS, (type_name, result)
                found = comparable(type_name, json.loads(str(result.output)))
                assert found == expected, (type_name, found)
            ran[type_name] = len(attempts)
    server.shutdown()
    server.server_close()
    foreign = [name for name in FOREIGN if name in sys.modules]
    assert not foreign, foreign
    print(json.dumps({"ran": ran, "agentflow": str(Path(registry.__file__).parents[1])}))


if __name__ == "__main__":
    main()
