"""Typed models of every table, one file a group."""

from agentflow.db.models.base import Model
from agentflow.db.models.definitions import (
    Bundle,
    Connection,
    DagFolder,
    DispatchGroup,
    Pool,
    Secret,
    SourceFile,
    Variable,
    VersionEdge,
    VersionNode,
    Workflow,
    WorkflowVersion,
    Workspace,
)
from agentflow.db.models.history import Attempt, LogChunk, NodeRun, Output, Run, RunEvent
from agentflow.db.models.operations import AuditEvent, Fire, ManualDate, RunEnd, RunWaiter, Scheduler, Trigger

__all__ = [
    "Attempt",
    "AuditEvent",
    "Bundle",
    "Connection",
    "DagFolder",
    "DispatchGroup",
    "Fire",
    "LogChunk",
    "ManualDate",
    "Model",
    "NodeRun",
    "Output",
    "Pool",
    "Run",
    "RunEnd",
    "RunEvent",
    "RunWaiter",
    "Scheduler",
    "Secret",
    "SourceFile",
    "Trigger",
    "Variable",
    "VersionEdge",
    "VersionNode",
    "Workflow",
    "WorkflowVersion",
    "Workspace",
]
