"""Which database is used, and what is said when it cannot be."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from agentflow.errors import DatabaseNotReady, DatabaseUnreachable, SettingsError
from agentflow.postgres import check_server, connect, database, libpq_url, normalise_url, without_password
from agentflow.settings import Settings


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgres_becomes_psycopg_3(scheme: str) -> None:
    assert (
        normalise_url(f"{scheme}://u:p%40@h:1/d?sslmode=require") == "postgresql+psycopg://u:p%40@h:1/d?sslmode=require"
    )
    assert libpq_url(f"{scheme}://u@h/d") == "postgresql://u@h/d"


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "sqlite:///x", "postgresql", "postgresql://", "postgresql+asyncpg://h/d"]
)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="must look like postgresql://"):
        normalise_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:1/d", "postgresql://u@h:1/d"),
        ("postgresql+psycopg://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?password=secret", "postgresql://h/d"),
        ("postgresql://u:sec%40ret@[::1]:5432/d", "postgresql://u@[::1]:5432/d"),
        ("postgresql://u:p@a:1,b:2/d", "postgresql://u@a:1,b:2/d"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_refused_connection_is_unreachable_with_a_hint() -> None:
    with pytest.raises(DatabaseUnreachable, match=r"postgresql://u@127\.0\.0\.1:1/d cannot be reached") as caught:
        check_server("postgresql://u:hunter2@127.0.0.1:1/d")
    assert "hunter2" not in str(caught.value)
    assert "AGENTFLOW_DATABASE_URL" in str(caught.value.hint)


def test_an_option_unknown_to_libpq_is_unreachable() -> None:
    with pytest.raises(DatabaseUnreachable, match="nonsense"):
        check_server("postgresql://127.0.0.1:1/d?nonsense=1")


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CONNECT_TIMEOUT", 2)  # libpq's smallest
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(DatabaseUnreachable):
            check_server(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d")
        assert time.monotonic() - began < 6


def test_the_handle_does_not_print_the_password() -> None:
    assert "secret" not in repr(connect.DatabaseHandle("postgresql+psycopg://u:secret@h/d"))


def test_a_given_database_starts_no_embedded_one(postgres_server, tmp_path: Path) -> None:
    settings = Settings(database_url=libpq_url(postgres_server.url), home=tmp_path / "home")
    with database(settings) as handle:
        assert handle.url == postgres_server.url
        assert handle.ensure_running() == postgres_server.url
    assert not (tmp_path / "home").exists()


def test_a_version_out_of_range_is_named(postgres_server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "OLDEST", 19)
    with pytest.raises(DatabaseNotReady, match=r"is Postgres 1[678]; AgentFlow runs on 19"):
        check_server(postgres_server.url)
