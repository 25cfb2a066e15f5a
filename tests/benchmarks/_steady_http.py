"""GET requests at a constant rate, as a process of its own: a plan as a line on stdin, "asking", and what came at EOF.

A request is timed from the moment it was due: one that had to wait for those before it was slow, too.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

CONNECTIONS = 8
_TIMEOUT = 30.0  # seconds


class Caller:
    """A connection that stays open, as a browser keeps one."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
        self._headers = {"X-API-Key": key, "Accept-Encoding": "gzip"}

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body, as they were sent."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class Load:
    """The requests and what became of them."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan
        self._begin = time.perf_counter()
        self._numbers = count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CONNECTIONS)]
        self.milliseconds: list[float] = []
        self.refused: list[int] = []
        for thread in self._threads:
            thread.start()

    def finish(self) -> dict[str, Any]:
        """Stop asking; what is to be told."""
        seconds = time.perf_counter() - self._begin
        self._over.set()
        for thread in self._threads:
            thread.join(_TIMEOUT)
        return {"seconds": seconds, "milliseconds": self.milliseconds, "refused": self.refused}

    def _ask(self) -> None:
        caller = Caller(self._plan["port"], self._plan["key"])
        paths: Sequence[str] = self._plan["paths"]
        for number in self._numbers:
            due = self._begin + number / self._plan["rate"]
            if self._over.wait(max(0.0, due - time.perf_counter())):
                break
            status, _ = caller.get(paths[number % len(paths)])
            self.milliseconds.append((time.perf_counter() - due) * 1000)
            if status != 200:
                self.refused.append(status)
        caller.close()


def main() -> None:
    """Ask until stdin is closed."""
    load = Load(json.loads(sys.stdin.readline()))
    print("asking", flush=True)
    sys.stdin.read()
    print(json.dumps(load.finish()))


if __name__ == "__main__":
    main()
