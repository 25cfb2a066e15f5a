"""`/runs/{id}/nodes/{node}/output`: whole outputs, however large."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from flask import Response, stream_with_context

from agentflow import runs as use
from agentflow.access import Role
from agentflow.objects.store import ObjectStore, open_store
from webserver.access import current_principal, requires
from webserver.api.runs_schemas import NodePath
from webserver.database import do
from webserver.offload import offload
from webserver.resource import Resource
from webserver.state import current_web

outputs = Resource("node runs", "Nodes within runs: attempts, logs, outputs.", part="outputs")

_ANY = {"content": {"application/json": {"schema": {}}}, "description": "The JSON that the node returned"}


class _Objects:
    """The object store, read without keeping other requests waiting."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def get(self, name: str) -> bytes:
        return offload(partial(self._store.get, name))


@outputs.get("/runs/<id>/nodes/<node>/output", responses={200: _ANY})
@requires(Role.VIEWER)
def get_output(path: NodePath) -> Response:
    """The whole output of a node run; of a mapped node the list of its indexes' outputs."""
    found = do(partial(use.find_output, run_id=path.id, node=path.node, workspace=current_principal().workspace))
    pieces = use.stream_output(do, _Objects(open_store(current_web().settings)), found)
    first = next(pieces)  # what is missing is told by the status, not by an answer that breaks off

    def rest() -> Iterator[bytes]:
        yield first
        yield from pieces

    return Response(stream_with_context(rest()), content_type="application/json")
