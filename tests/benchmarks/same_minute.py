"""10,000 scheduled workflows that are due in the same minute: how long until all have their run."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import _workflows
from _report import Report
from _single import single
from _system import System, wait_until
from sqlalchemy import text

TIMEOUT = 120.0  # seconds
AHEAD = timedelta(seconds=10)  #: The least time between the preparation and the minute.
BATCH = 200  #: Rows of a transaction of the bare SQL.

#: The first workflow is applied, the others are copied from it: applying each would take minutes and is not measured.
_COPY = [
    text(
        f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(t, to_jsonb(t) || {change})).* {rows}"
    )
    for table, change, rows in (
        (
            "workflow",
            "jsonb_build_object('id', :base + n, 'name', t.name || n, 'published_version_id', :base + n)",
            "FROM workflow t, generate_series(1, :count) AS n WHERE t.id = :workflow",
        ),
        (
            "workflow_version",
            "jsonb_build_object('id', :base + n, 'workflow_id', :base + n)",
            "FROM workflow_version t, generate_series(1, :count) AS n WHERE t.workflow_id = :workflow",
        ),
        (
            "dispatch_group",
            "jsonb_build_object('id', :base + n, 'workflow_id', :base + n)",
            "FROM dispatch_group t, generate_series(1, :count) AS n WHERE t.workflow_id = :workflow",
        ),
        (
            "version_node",
            "jsonb_build_object('version_id', :base + n, 'group_id', :base + n)",
            "FROM version_node t, workflow w, generate_series(1, :count) AS n WHERE w.id = :workflow AND t.version_id = w.published_version_id",
        ),
        (
            "trigger",
            "jsonb_build_object('id', :base + n, 'workflow_id', :base + n)",
            "FROM trigger t, generate_series(1, :count) AS n WHERE t.workflow_id = :workflow",
        ),
    )
]
_BASE = 1_000_000  #: Ids of the copies, out of the sequences' way.
_RUNS = text("SELECT count(*), max(created_at) FROM run WHERE triggered_by = 'cron' AND logical_date = :due")
_NOW = text("SELECT clock_timestamp()")


def measure(
    system: System, report: Report, *, workflows: int = 10_000, window: float = 20.0, at_once: bool = False
) -> None:
    """Add the seconds from the minute to the last run, and the rate at which these runs (of one empty node) then end.

    Args:
        system: Where they run.
        report: What is found goes there.
        workflows: How many.
        window: Seconds for which ends are counted.
        at_once: They are due since the minute that has begun, not in the next one.
    """
    document = _workflows.independent("bench-minute", 1, _workflows.noop())
    name = system.apply(document | {"triggers": [{"type": "cron", "cron": "* * * * *"}]})
    with system.engine.begin() as connection:
        workflow = connection.scalar(text("SELECT id FROM workflow WHERE name = :name"), {"name": name})
        connection.execute(text("UPDATE trigger SET next_fire_at = NULL WHERE workflow_id = :id"), {"id": workflow})
        for statement in _COPY:
            connection.execute(statement, {"base": _BASE, "count": workflows - 1, "workflow": workflow})
    with system.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    now = system.do(lambda c: c.scalar(_NOW))
    due = now.replace(second=0, microsecond=0) if at_once else _next_minute(now + AHEAD)
    with system.engine.begin() as connection:
        connection.execute(text("UPDATE trigger SET next_fire_at = :due WHERE active"), {"due": due})
    wait_until(lambda: _made(system, due)[0] >= workflows, f"{workflows} runs are made", TIMEOUT)
    with system.engine.begin() as connection:
        connection.execute(text("UPDATE trigger SET active = false"))
    took = (_made(system, due)[1] - due).total_seconds()
    what = f"{workflows:,} workflows due in one minute: last run"
    report.add(what, took, "s", goal=10, limit=_bare(system, workflows), limit_of=f"bare INSERT by {BATCH}")
    begin, before = time.monotonic(), _ended(system, due)
    while (ended := _ended(system, due)) < workflows and time.monotonic() - begin < window:
        time.sleep(0.1)
    rate = (ended - before) / (time.monotonic() - begin)
    report.add("  runs that end afterwards", rate, "runs/s", better="higher")


def _next_minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0) + timedelta(minutes=1)


def _made(system: System, due: datetime) -> tuple[int, datetime]:
    count, last = system.do(lambda c: c.execute(_RUNS, {"due": due}).one())
    return int(count), last


def _ended(system: System, due: datetime) -> int:
    query = text("SELECT count(*) FROM run WHERE triggered_by = 'cron' AND state = 'success' AND logical_date = :due")
    return int(system.do(lambda c: c.scalar(query, {"due": due})))


def _bare(system: System, rows: int) -> float:
    """Seconds of inserting as many rows, a commit for each batch."""
    with system.engine.connect() as connection:
        connection.execute(text("CREATE TABLE bare_run (id uuid PRIMARY KEY, at timestamptz, state text)"))
        connection.commit()
        begin = time.monotonic()
        for _ in range(0, rows, BATCH):
            connection.execute(
                text("INSERT INTO bare_run SELECT gen_random_uuid(), now(), 'queued' FROM generate_series(1, :n)"),
                {"n": BATCH},
            )
            connection.commit()
        took = time.monotonic() - begin
        connection.execute(text("DROP TABLE bare_run"))
        connection.commit()
    return took


if __name__ == "__main__":
    single(measure)
