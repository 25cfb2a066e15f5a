"""Run recorded executions (WfFormat files) as workflows of no-op nodes and check the order of every parent and child.

python tests/benchmarks/wfinstances.py FILE...    exit 0: every run succeeded in the right order
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from _report import Report
from wfformat import NotWfFormat, edge_count, order_problems, to_workflow

AGENTFLOW = (sys.executable, "-m", "agentflow", "run", "--json")
TIMEOUT = 300.0  # seconds for one file


def run_workflow(workflow: dict[str, Any], command: tuple[str, ...] = AGENTFLOW) -> dict[str, Any]:
    """Run a workflow document to its end and return the run with its nodes.

    Raises:
        RuntimeError: The command did not print a run; the message has its standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "workflow.json")
        path.write_text(json.dumps(workflow), encoding="utf-8")
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    try:
        run = json.loads(done.stdout)
    except json.JSONDecodeError:
        run = {}
    if "nodes" not in run:
        raise RuntimeError(f"no run (exit {done.returncode}): {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return run


def run_file(path: Path, report: Report, command: tuple[str, ...] = AGENTFLOW) -> list[str]:
    """Run one file, add its figures and return what is wrong with the run."""
    workflow = to_workflow(json.loads(path.read_text(encoding="utf-8")))
    run = run_workflow(workflow, command)
    problems = order_problems(workflow, run["nodes"])
    if run["state"] != "success":
        problems.insert(0, f"the run is {run['state']}")
    if run.get("started_at") and run.get("finished_at"):
        seconds = (
            datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
        ).total_seconds()
        nodes = len(workflow["nodes"])
        name = f"{workflow['name'][:40]}: {nodes} nodes, {edge_count(workflow)} edges"
        report.add(name, nodes / seconds if seconds else float("inf"), "node runs/s", better="higher")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Run all files; the number of files with problems decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--report", type=Path, help="also write the figures as JSON here")
    options = parser.parse_args(arguments)
    report, failed = Report("Recorded executions as no-op workflows"), 0
    for path in options.files:
        try:
            problems = run_file(path, report)
        except (OSError, ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
            problems = [str(error) if not isinstance(error, NotWfFormat) else f"not WfFormat: {error}"]
        failed += bool(problems)
        print(f"{path.name}: {'every order kept' if not problems else f'{len(problems)} problems'}")
        for problem in problems[:20]:
            print(f"  {problem}", file=sys.stderr)
    report.print()
    if options.report:
        report.write(options.report)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
