"""Extract, check, transform, load: sales per region from a CSV file into SQLite.

What to look at:

* A call of a `@node` function in the `@workflow` body adds a node. The result of one call as the argument of another
  makes the edge, so the graph needs no separate wiring.
* `check` stops bad data: it raises, the node fails, everything downstream becomes `upstream_failed` and the run fails.
  Try it with `agentflow run dags/sales_etl.py --param max_bad_share=0.01`.
* `load` may run twice (a retry, a lost machine), so it replaces what it wrote before instead of adding to it.
* Data files lie beside the code and are found from `__file__`: nodes run from a read-only copy of this folder, on
  whichever machine, and never in this folder itself.
"""

from __future__ import annotations

import csv
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from agentflow import node, workflow

DATA = Path(__file__).parent / "data"


@node
def extract(file: str) -> list[dict[str, str]]:
    """The rows as they are, all text."""
    with (DATA / file).open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


@node
def check(rows: list[dict[str, str]], max_bad_share: float) -> list[dict[str, str]]:
    """The usable rows; fails when too many are not."""
    good = [row for row in rows if row["amount"].isdecimal() and row["region"]]
    bad_share = 1 - len(good) / len(rows)
    print(f"{len(rows) - len(good)} of {len(rows)} rows are not usable ({bad_share:.1%})")
    if bad_share > max_bad_share:
        raise ValueError(f"{bad_share:.1%} of the rows are bad, more than the {max_bad_share:.1%} allowed")
    return good


@node
def transform(rows: list[dict[str, str]]) -> dict[str, int]:
    """Cents per region."""
    totals: dict[str, int] = {}
    for row in rows:
        totals[row["region"]] = totals.get(row["region"], 0) + int(row["amount"])
    return dict(sorted(totals.items()))


@node(retries=2, retry_delay="1s")
def load(totals: dict[str, int], database: str) -> int:
    """Write the totals; running it again changes nothing."""
    folder = Path(tempfile.gettempdir()) / f"agentflow-examples-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS sales (region TEXT PRIMARY KEY, cents INTEGER NOT NULL)")
        connection.executemany("INSERT OR REPLACE INTO sales VALUES (?, ?)", totals.items())
        (count,) = connection.execute("SELECT count(*) FROM sales").fetchone()
    print(f"{folder / database} holds {count} regions")
    return int(count)


@workflow(
    name="sales-etl",
    title="Sales: extract, check, load",
    tags=["example", "etl"],
    params={"max_bad_share": {"type": "number", "default": 0.1, "minimum": 0, "maximum": 1}},
    triggers=[{"type": "cron", "cron": "30 5 * * *", "timezone": "Europe/Berlin", "paused": True}],
    max_active_runs=1,
    timeout="10m",
)
def sales_etl(max_bad_share: float, file: str = "sales.csv", database: str = "sales.db") -> None:
    """Loads the day's sales per region, unless too many rows are broken."""
    rows = check(extract(file), max_bad_share)
    load(transform(rows), database)
