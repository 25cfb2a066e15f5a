"""The API of an AgentFlow webserver in Python.

with Client("https://agentflow.example.org", api_key="…") as client:
    run = client.runs.create("nightly-report", {"city": "Berlin"})
    for line in client.runs.logs(run["id"]):
        print(line["text"])

Errors are those of `agentflow.errors`, as the server made them. It needs no more than the base package.
"""

from agentflow.client.client import Client
from agentflow.client.workflows import Application

__all__ = ["Application", "Client"]
