"""The documents of `agentflow.client` have the fields of the server's schemas, no more and no fewer."""

from __future__ import annotations

import importlib

import pytest

from agentflow.client import documents

MODULES = {
    name: importlib.import_module(f"webserver.api.{name}")
    for name in (
        *(
            "api_keys",
            "users",
            "auth_schemas",
            "backfills",
            "connections",
            "operations",
            "pools",
            "runs_schemas",
            "secrets",
            "triggers",
        ),
        *("variables", "webhooks", "workflows_schemas"),
    )
}

PAIRS = [
    (documents.WorkflowItem, "workflows_schemas.WorkflowItem"),
    (documents.Workflow, "workflows_schemas.Workflow"),
    (documents.Applied, "workflows_schemas.Applied"),
    (documents.VersionItem, "workflows_schemas.VersionItem"),
    (documents.Version, "workflows_schemas.Version"),
    (documents.Run, "runs_schemas.Run"),
    (documents.NewRun, "runs_schemas.NewRun"),
    (documents.NodeRun, "runs_schemas.NodeRun"),
    (documents.RunError, "runs_schemas.Error"),
    (documents.Cleared, "runs_schemas.Cleared"),
    (documents.ClearedNode, "runs_schemas.ClearedNode"),
    (documents.Attempt, "runs_schemas.Attempt"),
    (documents.LogLine, "runs_schemas.RunLogLine"),
    (documents.Why, "runs_schemas.Why"),
    (documents.Reason, "runs_schemas.Reason"),
    (documents.Backfill, "backfills.NewBackfill"),
    (documents.BackfillPreview, "backfills.BackfillPreview"),
    (documents.BackfillDate, "backfills.BackfillDate"),
    (documents.Pool, "pools.Pool"),
    (documents.Variable, "variables.Variable"),
    (documents.Secret, "secrets.Secret"),
    (documents.Connection, "connections.Connection"),
    (documents.Webhook, "webhooks.Webhook"),
    (documents.NewToken, "webhooks.NewToken"),
    (documents.Trigger, "triggers.Trigger"),
    (documents.Fire, "triggers.Fire"),
    (documents.Event, "operations.Event"),
    (documents.ImportProblem, "operations.ImportProblem"),
    (documents.Scheduler, "operations.Scheduler"),
    (documents.SchedulerPage, "operations.SchedulerPage"),
    (documents.Unserved, "operations.Unserved"),
    (documents.NodeType, "operations.NodeType"),
    (documents.User, "users.User"),
    (documents.Granted, "users.Granted"),
    (documents.ApiKey, "api_keys.ApiKey"),
    (documents.NewApiKey, "api_keys.NewApiKey"),
    (documents.Workspace, "api_keys.WorkspaceItem"),
    (documents.Me, "auth_schemas.Me"),
]


@pytest.mark.parametrize(("typed", "model"), PAIRS, ids=lambda each: getattr(each, "__name__", each))
def test_fields_are_those_of_the_server(typed, model):
    module, name = model.split(".")
    model = getattr(MODULES[module], name)
    fields = {field.alias or name for name, field in model.model_fields.items()}
    assert typed.__annotations__.keys() | typed.__required_keys__ | typed.__optional_keys__ == fields
