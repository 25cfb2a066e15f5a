"""The resources of the API: a blueprint each, with its schemas beside it."""

from webserver.api.workflows import workflows

RESOURCES = (workflows,)
