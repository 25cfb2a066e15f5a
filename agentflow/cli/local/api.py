"""The local API: a group for each resource, over one open database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentflow.cli.local.accounts import ApiKeys, Users, Workspaces
from agentflow.cli.local.backfills import Backfills
from agentflow.cli.local.named import Connections, Pools, Secrets, Variables, Webhooks
from agentflow.cli.local.runs import Runs
from agentflow.cli.local.system import System
from agentflow.cli.local.workflows import Workflows

if TYPE_CHECKING:
    from agentflow.cli.context import Session


class LocalApi:
    """Use cases in transactions of a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.workflows = Workflows(session)
        self.runs = Runs(session)
        self.backfills = Backfills(session)
        self.pools = Pools(session)
        self.variables = Variables(session)
        self.secrets = Secrets(session)
        self.connections = Connections(session)
        self.webhooks = Webhooks(session)
        self.users = Users(session)
        self.api_keys = ApiKeys(session)
        self.workspaces = Workspaces(session)
        self.system = System(session)
