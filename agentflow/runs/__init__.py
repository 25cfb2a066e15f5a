"""Runs as people handle them: create, show, list, cancel, clear, mark, rerun, note, logs, outputs.

Each function runs in the caller's transaction and returns documents in the shapes of DESIGN 8.2.
"""

from agentflow.runs.attempts import list_attempts, read_log_range
from agentflow.runs.cancel import cancel_run, open_runs
from agentflow.runs.clear import clear_run, runs_between
from agentflow.runs.create import create_run, insert_run, rerun
from agentflow.runs.delete import delete_run
from agentflow.runs.grid import read_grid
from agentflow.runs.listing import list_runs
from agentflow.runs.logs import list_log_lines, read_logs
from agentflow.runs.mark import MARKABLE, MAX_NOTE, mark_node, set_note
from agentflow.runs.nodes import list_nodes, show_node
from agentflow.runs.outputs import find_output, stream_output
from agentflow.runs.rendered import AskedConfig, read_config, render_config
from agentflow.runs.show import show_run, show_run_alone
from agentflow.runs.why import why

__all__ = [
    "MARKABLE",
    "MAX_NOTE",
    "AskedConfig",
    "cancel_run",
    "clear_run",
    "create_run",
    "delete_run",
    "find_output",
    "insert_run",
    "list_attempts",
    "list_log_lines",
    "list_nodes",
    "list_runs",
    "mark_node",
    "open_runs",
    "read_config",
    "read_grid",
    "read_log_range",
    "read_logs",
    "render_config",
    "rerun",
    "runs_between",
    "set_note",
    "show_node",
    "show_run",
    "show_run_alone",
    "stream_output",
    "why",
]
