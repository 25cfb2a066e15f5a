"""Run recorded executions (WfFormat files) as workflows of no-op nodes and check the order of every parent and child.

python tests/benchmarks/wfinstances.py FILE...    exit 0: every run succeeded in the right order

Each file goes through `agentflow run`, on the database of the settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from _report import Report
from machine_limits import sql_node_runs_per_second
from wfformat import NotWfFormat, edge_count, numbered_edges, order_problems, to_workflow

from agentflow.postgres import database
from agentflow.settings import load_settings

AGENTFLOW = (sys.executable, "-m", "agentflow", "run", "--json")
TIMEOUT = 300.0  # seconds for one file
BATCH = 32  # node runs a transaction, of the bare SQL


def find_files(path: Path | None) -> list[Path]:
    """The given file, or all *.json of the given folder; none when it is not there."""
    if path is None:
        return []
    return sorted(path.glob("*.json")) if path.is_dir() else [path] if path.exists() else []


def run_workflow(
    workflow: dict[str, Any], command: tuple[str, ...] = AGENTFLOW, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a workflow document to its end and return the run with its nodes.

    Raises:
        RuntimeError: The command did not print a run; the message has its standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "workflow.json")
        path.write_text(json.dumps(workflow), encoding="utf-8")
        done = subprocess.run(
            [*command, str(path)], env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    try:
        run: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        run = {}
    if "nodes" not in run:
        raise RuntimeError(f"no run (exit {done.returncode}): {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return run


def run_file(
    path: Path,
    report: Report,
    command: tuple[str, ...] = AGENTFLOW,
    *,
    url: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Run one file, add its figures and return what is wrong with the run.

    Args:
        path: In WfFormat.
        report: Gets the rate, from the run's start to its end.
        command: Runs a workflow file and prints the run as JSON.
        url: The database that the command uses: there the same graph is worked off in bare SQL.
        environment: Of the command; default: ours.
    """
    workflow = to_workflow(json.loads(path.read_text(encoding="utf-8")))
    run = run_workflow(workflow, command, environment)
    problems = order_problems(workflow, run["nodes"])
    if run["state"] != "success":
        problems.insert(0, f"the run is {run['state']}")
    if run.get("started_at") and run.get("finished_at"):
        seconds = (
            datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
        ).total_seconds()
        nodes = len(workflow["nodes"])
        name = f"{workflow['name'][:24]}: {nodes} nodes, {edge_count(workflow)} edges"
        limit = sql_node_runs_per_second(url, numbered_edges(workflow), batch=BATCH) if url else None
        rate = nodes / seconds if seconds else float("inf")
        of = f"bare SQL by {BATCH}"
        report.add(name, rate, "node runs/s", better="higher", limit=limit, limit_of=of)
    return problems


def run_files(paths: Sequence[Path], report: Report, url: str, *, environment: Mapping[str, str] | None = None) -> int:
    """Run files one after the other and say what was wrong with each; returns how many had problems."""
    failed = 0
    for path in paths:
        try:
            problems = run_file(path, report, url=url, environment=environment)
        except NotWfFormat as error:
            problems = [f"not WfFormat: {error}"]
        except (OSError, ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
            problems = [str(error)]
        failed += bool(problems)
        print(f"{path.name}: {'every order kept' if not problems else f'{len(problems)} problems'}")
        for problem in problems[:20]:
            print(f"  {problem}", file=sys.stderr)
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Run all files; the number of files with problems decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--report", type=Path, help="also write the figures as JSON here")
    options = parser.parse_args(arguments)
    report = Report("Recorded executions as no-op workflows")
    with database(load_settings()) as handle:
        failed = run_files(options.files, report, handle.url)
    report.print()
    if options.report:
        report.write(options.report)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
