"""`/pools`: limits on node runs at once."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field

from agentflow import settings_store
from agentflow.access import Role
from webserver.access import requires
from webserver.api.named import NamePath, delete_one, list_all, put_one, show_one
from webserver.arguments import Body
from webserver.pages import Answer, Page, PageQuery
from webserver.resource import Resource


class Pool(Answer):
    """A pool."""

    name: str
    slots: int
    description: str
    used: int = Field(description="Slots taken by node runs at work")


class PoolPage(Page[Pool]):
    """Pools by name."""


class PoolBody(Body):
    """What a pool is to be."""

    slots: int = Field(ge=0, le=settings_store.MAX_SLOTS, description="Node runs at once; 0 lets nothing start")
    description: str | None = Field(None, max_length=1000, description="Left out: as it was")


pools = Resource("pools", "Named limits on node runs at once.")


@pools.get("/pools", responses={200: PoolPage})
@requires(Role.VIEWER)
def list_pools(query: PageQuery) -> dict[str, Any]:
    """List pools with their slots and how many are taken."""
    return list_all(settings_store.list_pools, query)


@pools.get("/pools/<name>", responses={200: Pool})
@requires(Role.VIEWER)
def get_pool(path: NamePath) -> dict[str, Any]:
    """Show a pool."""
    return show_one(settings_store.list_pools, "pool", path.name)


@pools.put("/pools/<name>", responses={200: Pool, 201: Pool})
@requires(Role.ADMIN)
def put_pool(path: NamePath, body: PoolBody) -> tuple[dict[str, Any], int]:
    """Create or resize a pool."""
    change = partial(settings_store.set_pool, name=path.name, slots=body.slots, description=body.description)
    return put_one(settings_store.list_pools, path.name, change)


@pools.delete("/pools/<name>", responses={204: None, 409: None})
@requires(Role.ADMIN)
def delete_pool(path: NamePath) -> tuple[str, int]:
    """Delete a pool that no workflow names."""
    return delete_one(settings_store.delete_pool, path.name)
