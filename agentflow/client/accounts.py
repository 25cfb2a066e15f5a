"""`client.users`, `api_keys`, `workspaces`: who may do what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, cast

from agentflow.client.documents import ApiKey, Granted, NewApiKey, User, Workspace
from agentflow.client.http import Http, address
from agentflow.client.pages import each
from agentflow.errors import NotFound


class Users:
    """People, and their roles in the workspace."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, members: bool = True) -> Iterator[User]:
        """The members of the workspace, or everybody, for administrators of the instance."""
        return each(self._http, "/users", {"all": not members})

    def find(self, email: str) -> User:
        """The user with this address.

        Raises:
            NotFound: There is none whom the caller may see.
        """
        everywhere = bool(self._http.get("/auth/me")["instance_admin"])
        for user in each(self._http, "/users", {"search": email.strip(), "all": everywhere}):
            if user["email"] == email.strip().lower():
                return cast("User", user)
        raise NotFound(f"There is no user {email!r}.", hint="`agentflow users list` shows who there is")

    def create(
        self, email: str, *, role: str | None = None, name: str = "", instance_admin: bool = False
    ) -> dict[str, Any]:
        """Make a user; the answer's `link` sets their password, once."""
        body = {"email": email, "name": name, "instance_admin": instance_admin} | ({"role": role} if role else {})
        return cast("dict[str, Any]", self._http.call("POST", "/users", body=body).json())

    def set_disabled(self, email: str, *, disabled: bool) -> User:
        """Shut a user out, or let them in again."""
        path = address("users", self.find(email)["id"])
        return cast("User", self._http.call("PATCH", path, body={"disabled": disabled}).json())

    def reset_password(self, email: str) -> dict[str, Any]:
        """Void a user's password and sessions: `{id, changed, link}`, whose link's token sets another one."""
        user = self.find(email)["id"]
        made = self._http.call("POST", address("users", user, "reset-password")).json()
        return {"id": user, "changed": True, "link": made["token"]}

    def grant(self, email: str, role: str | None) -> Granted:
        """Give a user a role in the workspace, or take it away."""
        user = self.find(email)
        path = address("users", user["id"], "role")
        if role is not None:
            return cast("Granted", self._http.call("PUT", path, body={"role": role}).json())
        self._http.call("DELETE", path)
        here = self._http.get("/auth/me")["workspace"]
        return {"email": user["email"], "workspace": here, "role": None, "changed": True}


class ApiKeys:
    """Keys of the workspace."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, revoked: bool = False) -> Iterator[ApiKey]:
        """The keys, without themselves."""
        return each(self._http, "/api-keys", {"revoked": revoked})

    def create(self, name: str, *, scopes: Sequence[str], expires_at: datetime | None = None) -> NewApiKey:
        """Make a key that is nobody's; it stands in this answer alone."""
        body: dict[str, Any] = {"name": name, "scopes": [*scopes], "shared": True}
        if expires_at is not None:
            body["expires_at"] = expires_at.isoformat()
        return cast("NewApiKey", self._http.call("POST", "/api-keys", body=body).json())

    def revoke(self, name: str) -> dict[str, Any]:
        """Stop the key of this name for good.

        Raises:
            NotFound: There is none in force.
        """
        found = next((key for key in self.list() if key["name"] == name.strip()), None)
        if found is None:
            raise NotFound(f"There is no key {name!r} in force.", hint="`agentflow api-keys list` shows those that are")
        self._http.call("DELETE", address("api-keys", found["id"]))
        return {"id": found["id"], "changed": True}


class Workspaces:
    """Tenants."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self) -> Iterator[Workspace]:
        """Those of the caller; all, for administrators of the instance."""
        yield from each(self._http, "/workspaces")

    def create(self, name: str) -> dict[str, Any]:
        """Make a workspace, with a default pool."""
        return cast("dict[str, Any]", self._http.call("POST", "/workspaces", body={"name": name}).json())
