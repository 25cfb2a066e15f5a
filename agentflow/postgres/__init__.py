"""Postgres as AgentFlow finds it: a server of yours, or the embedded one under HOME (ENGINE 14)."""

from agentflow.postgres.connect import (
    DatabaseHandle,
    check_server,
    database,
    libpq_url,
    normalise_url,
    without_password,
)
from agentflow.postgres.embedded import EmbeddedPostgres

__all__ = [
    "DatabaseHandle",
    "EmbeddedPostgres",
    "check_server",
    "database",
    "libpq_url",
    "normalise_url",
    "without_password",
]
