"""What feeds of the live feed need when they run in a test's own thread: sockets and a clock."""

from __future__ import annotations

import json
from collections import defaultdict

from webserver.live.feed import PACE


class Sockets:
    """Where the feeds send to."""

    def __init__(self) -> None:
        self.got: dict[str, list[dict]] = defaultdict(list)
        self.full: set[str] = set()

    def send(self, event, payload, sids) -> None:
        for sid in sids:
            assert sid not in self.full
            self.got[sid].append(json.loads(json.dumps(payload)))

    def congested(self, sid) -> bool:
        return sid in self.full

    def take(self, sid) -> list[dict]:
        """What a socket got since the last call."""
        got, self.got[sid] = self.got[sid], []
        return got


class Clock:
    """Time moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def work(self, feed, passed: float = PACE):
        self.now += passed
        return feed.work(self.now)
