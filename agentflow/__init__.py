"""The core and SDK of AgentFlow."""
