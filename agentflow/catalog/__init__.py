"""Workflows as stored: apply, list, show, pause, delete. Each function runs in the caller's transaction."""

from agentflow.catalog.apply import apply_spec, store_adhoc
from agentflow.catalog.audit import audit
from agentflow.catalog.events import list_events
from agentflow.catalog.listing import export_spec, import_errors, list_workflows, show_workflow
from agentflow.catalog.lookup import find_workflow, workspace_id
from agentflow.catalog.names import BY_NAME, check_name, delete_named, list_named
from agentflow.catalog.schedulers import list_schedulers
from agentflow.catalog.state import delete_workflow, set_paused
from agentflow.catalog.trigger_list import list_triggers

__all__ = [
    "BY_NAME",
    "apply_spec",
    "audit",
    "check_name",
    "delete_named",
    "delete_workflow",
    "export_spec",
    "find_workflow",
    "import_errors",
    "list_events",
    "list_named",
    "list_schedulers",
    "list_triggers",
    "list_workflows",
    "set_paused",
    "show_workflow",
    "store_adhoc",
    "workspace_id",
]
