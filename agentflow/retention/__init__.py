"""Keeping history for as long as it is wanted, and no longer: months are dropped as a whole, archived first if set."""

from agentflow.retention.prune import AUDIT_DAYS, Pruner

__all__ = ["AUDIT_DAYS", "Pruner"]
