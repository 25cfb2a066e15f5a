"""The command line as users meet it: in this process where that is equal, as a process of its own for what runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text


@dataclass(frozen=True)
class Said:
    """What a command line answered."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The `error` object, the document's only key."""
        document = self.document
        assert set(document) == {"error"}, document
        return document["error"]


@pytest.fixture
def environment(database_url, tmp_path, monkeypatch) -> dict[str, str]:
    """`AGENTFLOW_*` of this test: its own database, home and DAG folder, and none of the caller's."""
    for name in [name for name in os.environ if name.startswith("AGENTFLOW_")]:
        monkeypatch.delenv(name)
    (tmp_path / "dags").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    settings = {
        "AGENTFLOW_DATABASE_URL": database_url,
        "AGENTFLOW_HOME": str(tmp_path / "home"),
        "AGENTFLOW_DAGS_FOLDER": str(tmp_path / "dags"),
        "AGENTFLOW_SECRET_KEY": "5e" * 32,  # a scheduler on a database of one's own wants one
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def write(environment, tmp_path) -> Callable[[str, str | bytes], str]:
    """Write a file into the working directory; gives its name."""

    def do(name: str, content: str | bytes) -> str:
        path = tmp_path / "work" / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return do


@pytest.fixture
def cli(environment, capsys) -> Callable[..., Said]:
    """Run a command line in this process."""
    from agentflow.cli.main import main

    def do(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return do


@pytest.fixture
def shell(environment) -> Callable[..., Said]:
    """Run a command line as a process of its own."""

    def do(*arguments: str, timeout: float = 60, env: Mapping[str, str] | None = None) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "agentflow", *arguments],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    return do


def row_counts(engine: Engine) -> dict[str, int]:
    """Rows of every table but `scheduler`, which tells who was here; partitions count in their parent."""
    with engine.connect() as connection:
        tables = connection.scalars(
            text("""
            SELECT relname FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
              AND relname <> 'scheduler'""")
        ).all()
        return {table: connection.scalar(text(f'SELECT count(*) FROM "{table}"')) for table in tables}


@pytest.fixture
def nothing_stored(engine) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A block after which every table has as many rows as before."""

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        before = row_counts(engine)
        yield
        assert row_counts(engine) == before

    return block


@pytest.fixture
def project_root() -> Path:
    """Where the checkout is."""
    return Path(__file__).parents[2]
