"""The way into the embedded server: the password and the port kept in the home."""

from __future__ import annotations

import random
import secrets
import socket
from pathlib import Path

import psycopg

from agentflow.errors import DatabaseUnreachable
from agentflow.home import write_private

HOST = "127.0.0.1"
USER = "agentflow"
LOGIN_TIMEOUT = 5  # seconds
#: Below the range from which systems draw ports for outgoing connections, so that the kept port stays free.
_PORTS = (20000, 32000)


class Access:
    """Password and port of one home's server."""

    def __init__(self, home: Path) -> None:
        self.password_file = home / "postgres.password"
        self._port_file = home / "postgres.port"

    def password(self) -> str:
        """The superuser's password."""
        return self.password_file.read_text(encoding="ascii").strip()

    def make_password(self) -> None:
        """Draw a password, for a cluster that is about to be made."""
        write_private(self.password_file, secrets.token_urlsafe(24))

    def port(self) -> int:
        """The kept port; 0 before the first start."""
        try:
            return int(self._port_file.read_text())
        except (OSError, ValueError):
            return 0

    def choose_port(self, *, new: bool) -> int:
        """The kept port if it is free, else (or if `new`) another one, kept from now on.

        Raises:
            DatabaseUnreachable: No port is free.
        """
        if new or not _is_free(self.port()):
            write_private(self._port_file, str(_free_port()))
        return self.port()

    def url(self, database: str) -> str:
        """SQLAlchemy address of a database on the server."""
        return f"postgresql+psycopg://{USER}:{self.password()}@{HOST}:{self.port()}/{database}?sslmode=disable"

    def login(self, database: str) -> psycopg.Connection[tuple[str]]:
        """An autocommit connection; raises what psycopg raises."""
        return psycopg.connect(
            host=HOST,
            port=self.port(),
            user=USER,
            password=self.password(),
            dbname=database,
            sslmode="disable",
            gssencmode="disable",
            connect_timeout=LOGIN_TIMEOUT,
            autocommit=True,
        )


def _is_free(port: int) -> bool:
    if not port:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    for port in random.sample(range(*_PORTS), 200):
        if _is_free(port):
            return port
    raise DatabaseUnreachable(f"No free port between {_PORTS[0]} and {_PORTS[1]} on {HOST}")
