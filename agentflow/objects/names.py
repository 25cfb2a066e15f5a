"""How objects are called: names say whose an object is, so that what belongs to a run or a month goes by its prefix.

    runs/2026_11/<run id>/<node number>.<map index>.<attempt>.json
    archive/2026_11/manifest.json, archive/2026_11/<partition>.<number>.jsonl.gz

An attempt writes its own name only: a late result of a lost attempt never overwrites an accepted one.
"""

from __future__ import annotations

import uuid
from typing import Final

from agentflow.ids import uuid7_time

RUNS: Final = "runs"
ARCHIVE: Final = "archive"


def month_of(run_id: uuid.UUID) -> str:
    """`2026_11`: the month of a run, as its partitions are called."""
    return f"{uuid7_time(run_id):%Y_%m}"


def month_prefix(month: str) -> str:
    """Where all objects of a month's runs are; `month` as `2026_11`."""
    return f"{RUNS}/{month}"


def archive_prefix(month: str) -> str:
    """Where the rows of a dropped month are; `month` as `2026_11`."""
    return f"{ARCHIVE}/{month}"


def run_prefix(run_id: uuid.UUID) -> str:
    """Where all objects of a run are."""
    return f"{month_prefix(month_of(run_id))}/{run_id}"


def output_name(run_id: uuid.UUID, node_no: int, map_index: int, attempt: int) -> str:
    """The name of an attempt's output."""
    return f"{run_prefix(run_id)}/{node_no}.{map_index}.{attempt}.json"
