"""Backfills as people handle them: preview, create, list, show, pause, cancel (docs/backfill.md).

Each function runs in the caller's transaction. The scheduler makes the runs (scheduler/backfills.py).
"""

from agentflow.backfills.control import cancel_backfill, set_backfill_paused
from agentflow.backfills.create import create_backfill, preview_backfill
from agentflow.backfills.dates import DateRun, newest_runs, runs_again
from agentflow.backfills.plan import Asked
from agentflow.backfills.show import list_backfills, show_backfill

__all__ = [
    "Asked",
    "DateRun",
    "cancel_backfill",
    "create_backfill",
    "list_backfills",
    "newest_runs",
    "preview_backfill",
    "runs_again",
    "set_backfill_paused",
    "show_backfill",
]
