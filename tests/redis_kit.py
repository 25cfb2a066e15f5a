"""A real Redis for tests, on a port of its own: killed, stopped in its tracks and brought back as they like."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from redis import Redis, RedisError

from tests.live_kit import free_port, until


def redis_program() -> str:
    """Where `redis-server` is; without it a test is skipped here and fails in CI."""
    found = shutil.which("redis-server")
    if found is None:
        missing = "no redis-server: install Debian's package of that name"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


class RedisServer:
    """Answers on one port; what it holds is gone when it ends."""

    def __init__(self, folder: Path, *more: str) -> None:
        """`more`: its command line's options."""
        self._program = redis_program()
        self._folder = folder
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        return Redis.from_url(self.url, socket_timeout=5, decode_responses=False)

    def start(self) -> None:
        """Answer from now on."""
        if self._process is not None and self._process.poll() is None:
            return
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self._more)
        with (self._folder / "redis.log").open("ab") as out:
            self._process = subprocess.Popen(
                [self._program, *options], cwd=self._folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        until(self._answers, "an answer of Redis")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "redis.log").read_text()
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        """Gone at once: connections break, new ones are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Takes connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Says what it was asked meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
