"""Runs as people handle them: create, show, list, cancel, clear, mark, rerun, note, logs, outputs.

Each function runs in the caller's transaction and returns documents in the shapes of DESIGN 8.2.
"""

from agentflow.runs.cancel import cancel_run, open_runs
from agentflow.runs.clear import clear_run, runs_between
from agentflow.runs.create import create_run, insert_run, rerun
from agentflow.runs.delete import delete_run
from agentflow.runs.listing import list_runs
from agentflow.runs.logs import read_logs
from agentflow.runs.mark import mark_node, set_note
from agentflow.runs.outputs import find_output, stream_output
from agentflow.runs.show import show_run
from agentflow.runs.why import why

__all__ = [
    "cancel_run",
    "clear_run",
    "create_run",
    "delete_run",
    "find_output",
    "insert_run",
    "list_runs",
    "mark_node",
    "open_runs",
    "read_logs",
    "rerun",
    "runs_between",
    "set_note",
    "show_run",
    "stream_output",
    "why",
]
