"""Workflows as stored: apply, list, show, pause, delete. Each function runs in the caller's transaction."""

from agentflow.catalog.apply import apply_spec, store_adhoc
from agentflow.catalog.audit import audit
from agentflow.catalog.drafts import delete_draft, publish_draft, read_named, save_draft, show_draft
from agentflow.catalog.events import list_events
from agentflow.catalog.listing import export_spec, import_errors, list_workflows, show_workflow
from agentflow.catalog.lookup import find_workflow, workspace_id
from agentflow.catalog.names import BY_NAME, check_name, delete_named, list_named
from agentflow.catalog.schedulers import count_alive, describe_unserved, list_schedulers, unserved
from agentflow.catalog.state import delete_workflow, require_version, set_paused, set_tags
from agentflow.catalog.trigger_list import list_triggers
from agentflow.catalog.versions import compare_versions, list_versions, show_version

__all__ = [
    "BY_NAME",
    "apply_spec",
    "audit",
    "check_name",
    "compare_versions",
    "count_alive",
    "delete_draft",
    "delete_named",
    "delete_workflow",
    "describe_unserved",
    "export_spec",
    "find_workflow",
    "import_errors",
    "list_events",
    "list_named",
    "list_schedulers",
    "list_triggers",
    "list_versions",
    "list_workflows",
    "publish_draft",
    "read_named",
    "require_version",
    "save_draft",
    "set_paused",
    "set_tags",
    "show_draft",
    "show_version",
    "show_workflow",
    "store_adhoc",
    "unserved",
    "workspace_id",
]
