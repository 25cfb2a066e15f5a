"""Measuring: one benchmark with the commits of the disk before and after it, and the command line of a single one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from _report import Report
from _system import System, running_system
from latencies import commit_milliseconds

Measure = Callable[[System, Report], None]


def measured(measure: Measure, system: System, report: Report) -> None:
    """Run one benchmark; its figures carry what a commit cost right before and after it."""
    first = len(report.figures)
    before = commit_milliseconds(system.url)
    measure(system, report)
    report.stamp_commits(first, before, commit_milliseconds(system.url))


def single(measure: Measure) -> None:
    """The command line of a module with one benchmark."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--folder", type=Path, help="where the database is made; default: the temporary folder")
    with running_system(parser.parse_args().folder) as system:
        report = Report(str(sys.modules["__main__"].__doc__))
        measured(measure, system, report)
    report.print()
