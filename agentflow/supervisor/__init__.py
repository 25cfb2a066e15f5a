"""`agentflow standalone`: one terminal that keeps database, scheduler and webserver going (ENGINE 15)."""

from agentflow.supervisor.standalone import run_standalone

__all__ = ["run_standalone"]
