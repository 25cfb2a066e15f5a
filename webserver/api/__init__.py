"""The resources of the API: a blueprint each, with its schemas beside it."""

from webserver.api.api_keys import api_keys, workspace_resource
from webserver.api.apply import apply
from webserver.api.auth import auth
from webserver.api.backfills import backfills
from webserver.api.connections import connections
from webserver.api.grid import grid
from webserver.api.node_runs import node_runs
from webserver.api.oidc import oidc
from webserver.api.operations import operations
from webserver.api.outputs import outputs
from webserver.api.pools import pools
from webserver.api.run_actions import run_actions
from webserver.api.runs import runs
from webserver.api.secrets import secrets
from webserver.api.system import system
from webserver.api.triggers import triggers
from webserver.api.users import resource as users
from webserver.api.variables import variables
from webserver.api.versions import versions
from webserver.api.webhooks import webhooks
from webserver.api.workflows import workflows

RESOURCES = (
    auth,
    oidc,
    users,
    api_keys,
    workspace_resource,
    workflows,
    apply,
    versions,
    grid,
    runs,
    run_actions,
    node_runs,
    outputs,
    backfills,
    triggers,
    webhooks,
    pools,
    variables,
    secrets,
    connections,
    operations,
    system,
)
