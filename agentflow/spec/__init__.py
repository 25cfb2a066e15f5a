"""The workflow document: read, check, hash, export (DESIGN 8.1, SEMANTICS 5)."""

from __future__ import annotations

from agentflow.spec.document import content_hash, to_document
from agentflow.spec.models import Defaults, NodeSpec, Resources, TriggerSpec, WorkflowSpec
from agentflow.spec.params import check_params, read_cli_params
from agentflow.spec.parse import load_file, parse_document, parse_text
from agentflow.spec.policy import NodePolicy, node_policy
from agentflow.spec.schema import json_schema
from agentflow.spec.yaml_writer import to_yaml

__all__ = [
    "Defaults",
    "NodePolicy",
    "NodeSpec",
    "Resources",
    "TriggerSpec",
    "WorkflowSpec",
    "check_params",
    "content_hash",
    "json_schema",
    "load_file",
    "node_policy",
    "parse_document",
    "parse_text",
    "read_cli_params",
    "to_document",
    "to_yaml",
]
