"""Measure AgentFlow on this machine: one table on the terminal, the same as JSON in bench-results/ (`make bench`).

Exit 0: everything was measured; 1: a benchmark failed, or with --strict a goal was missed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import blocked_pool
import burst
import chain
import fan
import idle
import large_run
import live
import log_flood
import processor
import profile_hop
import same_minute
import subprocess_start
import trigger_latency
import two_schedulers
import waiting
import web_latency
import wfinstances
from _report import Report
from _single import Measure, measured
from _system import BenchmarkFailed, System, running_system

ROOT = Path(__file__).parents[2]
#: In order: what needs an untouched database first, what leaves most behind last.
BENCHMARKS: dict[str, Measure] = {
    "trigger": trigger_latency.measure,
    "chain": chain.measure,
    "fan": fan.measure,
    "burst": burst.measure,
    "processor": processor.measure,
    "subprocess": lambda _system, report: subprocess_start.measure(report),
    "waiting": waiting.measure,
    "flood": log_flood.measure,
    "idle": idle.measure,
    "live": live.measure,
    "pool": blocked_pool.measure,
}
#: `make bench-scale`: what takes minutes. In this order: the history stays, and so do the runs of the minute.
SCALE: dict[str, Measure] = {
    "subprocess": BENCHMARKS["subprocess"],
    "schedulers": two_schedulers.measure,
    "large": large_run.measure,
    "web": web_latency.measure,
    "minute": same_minute.measure,
}
INSTANCES = "instances"


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for, print, write."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that scheduler and Postgres are stopped, too
    report = Report("AgentFlow on this machine")
    began = time.monotonic()
    failed = _measure_all(options, report)
    if options.profile or any(figure.name.startswith("chain") for figure in report.missed()):
        with running_system(options.folder, scheduler=False) as system:
            profile_hop.print_profile(system, profile_hop.profile(system))
    report.notes |= {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain"))}
    report.notes |= {"seconds": round(time.monotonic() - began), "failed": failed}
    report.print()
    _print_notes(report)
    path = ROOT / "bench-results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    report.write(path)
    print(f"written to {path.relative_to(ROOT)} after {report.notes['seconds']} s")
    return 1 if failed or (options.strict and report.missed()) else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    names = [*BENCHMARKS, INSTANCES, *(name for name in SCALE if name not in BENCHMARKS)]
    parser = argparse.ArgumentParser(
        prog="tests/benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--scale", action="store_true", help=f"large sizes instead: {', '.join(SCALE)}")
    parser.add_argument(
        "--instances", type=Path, metavar="PATH", help="WfFormat file, or a folder of *.json, to run too"
    )
    parser.add_argument("--folder", type=Path, help="where the database is made; default: the temporary folder")
    parser.add_argument(
        "--profile", action="store_true", help="say where a hop goes even if the chain reached its goals"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args(arguments)
    options.only = options.only or list(SCALE if options.scale else [*BENCHMARKS, INSTANCES])
    return options


def _measure_all(options: argparse.Namespace, report: Report) -> list[str]:
    """Measure all that was asked for on one system; returns the names of what failed."""
    chosen = {name: measure for name, measure in (BENCHMARKS | SCALE).items() if name in options.only}
    if INSTANCES in options.only:
        files = wfinstances.find_files(options.instances)
        if files:
            chosen[INSTANCES] = partial(_measure_instances, files)
        else:
            report.notes["skipped"] = "recorded executions: give files in WfFormat with --instances PATH"
    with running_system(options.folder) as system:
        return [name for name, measure in chosen.items() if not _succeeds(name, measure, system, report)]


def _succeeds(name: str, measure: Measure, system: System, report: Report) -> bool:
    """Measure one; a failure is told and does not keep the others from being measured."""
    began = time.monotonic()
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    try:
        measured(measure, system, report)
    except Exception:  # noqa: BLE001 - whatever went wrong in one, the others still tell something
        print("failed", file=sys.stderr)
        traceback.print_exc()
        return False
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return True


def _measure_instances(files: Sequence[Path], system: System, report: Report) -> None:
    if wfinstances.run_files(files, report, system.url, environment=system.environment):
        raise BenchmarkFailed("recorded executions did not run as they should")


def _print_notes(report: Report) -> None:
    for name in ("skipped", "failed"):
        if report.notes.get(name):
            print(f"{name}: {report.notes[name]}")


def _git(*arguments: str) -> str:
    """What git says, empty where there is no git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
