"""Figures of a benchmark run: a table for people on stdout, JSON for comparison between commits."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

FILE_WIDTH = 150  #: Columns of a table that goes to a file or a pipe.

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    goal: float | None = None  #: In the same unit; reached when `value` is not on the wrong side of it.
    better: Better = "lower"
    limit: float | None = None  #: What this machine can do at best, measured in the same run.
    limit_of: str = ""  #: What the limit was measured on.
    commit_ms: tuple[float, float] | None = None  #: A commit on this disk, median before and after the measurement.

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal

    @property
    def share_of_limit(self) -> float | None:
        """How near the value comes to the limit, 1 being as good."""
        if not self.limit or not self.value:
            return None
        return self.limit / self.value if self.better == "lower" else self.value / self.limit


@dataclass
class Report:
    """All figures of one run."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)  #: Anything that explains a figure.

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        goal: float | None = None,
        better: Better = "lower",
        limit: float | None = None,
        limit_of: str = "",
    ) -> Figure:
        """Keep a figure and return it."""
        figure = Figure(name, value, unit, goal, better, limit, limit_of)
        self.figures.append(figure)
        return figure

    def stamp_commits(self, first: int, before: float, after: float) -> None:
        """Set beside the figures from number `first` on what a commit cost while they were measured."""
        self.figures[first:] = [replace(figure, commit_ms=(before, after)) for figure in self.figures[first:]]

    def missed(self) -> list[Figure]:
        """The figures that did not reach their goal."""
        return [figure for figure in self.figures if figure.reached is False]

    def as_document(self) -> dict[str, object]:
        """What is written as JSON."""
        return {
            "title": self.title,
            "at": datetime.now(UTC).isoformat(),
            "machine": machine(),
            "figures": [
                asdict(figure) | {"reached": figure.reached, "share_of_limit": figure.share_of_limit}
                for figure in self.figures
            ],
            "notes": self.notes,
        }

    def write(self, path: Path) -> None:
        """Write the JSON document."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_document(), indent=2) + "\n", encoding="utf-8")

    def print(self, console: Console | None = None) -> None:
        """Print the table."""
        table = Table(title=self.title, title_justify="left")
        for heading in ("what", "value", "goal", "", "limit here", "commit, ms"):
            table.add_column(heading, justify="right" if heading in {"value", "commit, ms"} else "left")
        for figure in self.figures:
            value, goal = _amount(figure.value, figure.unit), _goal(figure)
            table.add_row(figure.name, value, goal, _mark(figure), _limit(figure), _commits(figure))
        (console or Console(width=None if sys.stdout.isatty() else FILE_WIDTH)).print(table)


def machine() -> dict[str, object]:
    """What the figures were measured on; the load tells whether neighbours disturbed."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below or at which a share (0 to 1) of the values lies, interpolated.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values: nothing was measured")
    if len(values) == 1:
        return values[0]
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = min(int(place), len(ordered) - 2)
    return ordered[low] + (ordered[low + 1] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def _amount(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f} {unit}"


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    return f"{'<=' if figure.better == 'lower' else '>='} {_amount(figure.goal, figure.unit)}"


def _mark(figure: Figure) -> str:
    return {True: "reached", False: "[red]missed[/red]", None: ""}[figure.reached]


def _commits(figure: Figure) -> str:
    return "" if figure.commit_ms is None else " / ".join(f"{value:.2f}" for value in figure.commit_ms)


def _limit(figure: Figure) -> str:
    if figure.limit is None:
        return ""
    share = f" ({figure.share_of_limit:.0%})" if figure.share_of_limit is not None else ""
    return f"{_amount(figure.limit, figure.unit)}{share} {figure.limit_of}".rstrip()
