"""What the parts of this package share: names of people, where instance-wide deeds are recorded, rows as documents."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog import audit, workspace_id
from agentflow.clock import iso
from agentflow.errors import NotFound, UsageError

_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f-\x9f<>\"(),;:\\]{1,64}@[a-z0-9.-]{1,189}")
_NAME_MAX = 200  # characters

_BY_EMAIL = text("SELECT id FROM app_user WHERE email = :email")
_BY_ID = text("SELECT id, email FROM app_user WHERE id = :id")


def spelled(given: str) -> str:
    """An address in its one spelling, whether it is one or not."""
    return unicodedata.normalize("NFKC", given).strip().lower()


def read_email(given: str) -> str:
    """An address as it is stored: small letters, one spelling.

    Raises:
        UsageError: It does not look like one.
    """
    email = spelled(given)
    if not _EMAIL.fullmatch(email):
        raise UsageError(f"{given[:100]!r} is not an email address.", hint="such as ada@example.org")
    return email


def read_name(given: str) -> str:
    """A name of a person or key, without control characters.

    Raises:
        UsageError: It is too long, or steers terminals.
    """
    name = given.strip()
    if len(name) > _NAME_MAX or not name.isprintable():
        raise UsageError(f"A name is one line of at most {_NAME_MAX} characters.")
    return name


def user_id(connection: Connection, email: str) -> int:
    """Id of the user with this address.

    Raises:
        NotFound: There is none.
    """
    found: int | None = connection.scalar(_BY_EMAIL, {"email": read_email(email)})
    if found is None:
        raise NotFound(f"There is no user {email!r}.", hint="`agentflow users list` shows who there is")
    return found


def require_user(connection: Connection, user: int) -> str:
    """Email of a user.

    Raises:
        NotFound: There is none with this id.
    """
    row = connection.execute(_BY_ID, {"id": user}).one_or_none()
    if row is None:
        raise NotFound(f"There is no user {user}.")
    return str(row.email)


def record(connection: Connection, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Audit what concerns the whole instance: it stands in the log of the workspace `default`."""
    audit(connection, workspace_id(connection), actor, action, subject, **detail)


def document(row: Row[Any]) -> dict[str, Any]:
    """A row as a document: times in ISO 8601."""
    return {name: iso(value) if name.endswith(("_at", "_until")) else value for name, value in row._mapping.items()}  # noqa: SLF001 - the documented way
