"""`/workflows/apply`: workflows with their code, as `agentflow apply` sends them."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Connection

from agentflow import catalog
from agentflow.access import Role
from agentflow.bundles import Bundle, check_bundle
from agentflow.spec import WorkflowSpec, parse_document
from webserver.access import current_principal, requires
from webserver.api.workflows_schemas import Applied, Document
from webserver.arguments import Body
from webserver.database import do
from webserver.errors import InvalidRequest
from webserver.offload import offload
from webserver.pages import Answer
from webserver.resource import Resource

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Application(Body):
    """A workflow to be created or changed."""

    spec: Document = Field(description="The same as in a file")
    source_path: str | None = Field(None, max_length=4000, description="Its file, for people")
    bundle: Hash | None = Field(None, description="Hash of its code, which `bundles` must hold")


class ApplyBody(Body):
    """Workflows and their code."""

    workflows: list[Application] = Field(min_length=1, max_length=1000)
    bundles: dict[Hash, str] = Field(
        {}, max_length=100, description="Code by its hash: base64 of a gzipped tar of a folder, as the client packs it"
    )


class AppliedList(Answer):
    """What became of each, in the order of the request."""

    items: list[Applied]


apply = Resource("workflows", "Definitions: create, change, pause, publish, delete.", part="apply")


@apply.post("/workflows/apply", responses={200: AppliedList, 409: None})
@requires(Role.EDITOR)
def apply_workflows(body: ApplyBody) -> dict[str, Any]:
    """Create or change workflows with their code: all of them, or none. The same content again changes nothing."""
    principal = current_principal()
    code = {name: offload(partial(_read, name, text)) for name, text in body.bundles.items()}
    specs = [_spec(number, each, code) for number, each in enumerate(body.workflows)]

    def work(connection: Connection) -> list[dict[str, Any]]:
        return [
            catalog.apply_spec(
                connection,
                spec,
                source="api",
                source_path=each.source_path,
                bundle=code[each.bundle] if each.bundle else None,
                actor=principal.name,
                workspace=principal.workspace,
            )
            for spec, each in zip(specs, body.workflows, strict=True)
        ]

    return {"items": do(work)}


def _read(name: str, text: str) -> Bundle:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidRequest.at(f"body.bundles.{name}", f"is not base64: {error}") from error
    return check_bundle(data, name)


def _spec(number: int, given: Application, code: dict[str, Bundle]) -> WorkflowSpec:
    if given.bundle is not None and given.bundle not in code:
        # Known to the database or not: who has only a hash, perhaps of another workspace's code, gets nothing for it.
        raise InvalidRequest.at(f"body.workflows[{number}].bundle", "is not in `bundles`")
    return offload(partial(parse_document, given.spec))
