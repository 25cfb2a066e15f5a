"""100 workflows on cron, none of them due: the processor time and memory of a scheduler that has nothing to do."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import _workflows
import psutil
from _processor_time import processor_seconds
from _report import Report
from _single import single
from _system import System, wait_until
from sqlalchemy import text

SETTLE = 8.0  # seconds: more than one look at the folder and one safety poll
WINDOW = 60.0  # seconds: the clock of processor time ticks a hundred times in each
MIB = 2**20

_SCHEDULED = text("SELECT count(*) FROM trigger WHERE next_fire_at IS NOT NULL")


def cron_workflow(number: int, now: datetime) -> _workflows.Document:
    """A workflow on a cron that is not due for hours."""
    due = now + timedelta(hours=6, minutes=number)
    trigger = {"type": "cron", "cron": f"{due.minute} {due.hour} * * *"}
    return _workflows.chain(f"bench-idle-{number}", 3, _workflows.noop()) | {"triggers": [trigger]}


def measure(
    system: System, report: Report, *, workflows: int = 100, settle: float = SETTLE, window: float = WINDOW
) -> None:
    """Add the shares of a core and the memory over `window` seconds; the workflows are files of the DAG folder."""
    before = int(system.do(lambda c: c.scalar(_SCHEDULED)) or 0)
    now = datetime.now(UTC)
    for number in range(workflows):
        document = json.dumps(cron_workflow(number, now))
        (system.dags / f"idle_{number}.json").write_text(document, encoding="utf-8")
    wait_until(lambda: system.do(lambda c: c.scalar(_SCHEDULED)) == before + workflows, f"{workflows} triggers are set")
    time.sleep(settle)
    main = system.scheduler
    children = main.children(recursive=True)
    postgres = system.postgres()
    start = [processor_seconds([main]), processor_seconds(children), processor_seconds(postgres)]
    time.sleep(window)
    end = [processor_seconds([main]), processor_seconds(children), processor_seconds(postgres)]
    shares = [(after - first) / window * 100 for first, after in zip(start, end, strict=True)]
    what = f"idle, {workflows} workflows on cron"
    report.add(what, shares[0], "% of a core", goal=1)
    report.add("  its node processes", shares[1], "% of a core")
    report.add("  Postgres", shares[2], "% of a core")
    report.add("  the scheduler's memory, RSS", main.memory_info().rss / MIB, "MB", goal=150)
    proportional = sum(map(proportional_bytes, [main, *children]))
    report.add("  with its node processes, PSS", proportional / MIB, "MB")
    for file in system.dags.glob("idle_*.json"):
        file.unlink()


def proportional_bytes(process: psutil.Process) -> int:
    """Memory with shared pages split among their users (Linux); elsewhere the resident size."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        return int(process.memory_info().rss)


if __name__ == "__main__":
    single(measure)
