"""Following a run: its document again and again, and the wait in between; NOTIFY on the database, time on a webserver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agentflow.cli.context import PATIENCE
from agentflow.cli.local import LocalApi
from agentflow.cli.news import News
from agentflow.cli.output import Document
from agentflow.client import Client

REMOTE_GAP = 0.5  #: Seconds between questions to a webserver: it counts them.


@dataclass(frozen=True, slots=True)
class Follower:
    """How to follow runs."""

    show: Callable[[str], Document]  #: A run with its nodes; what goes away meanwhile is waited for.
    wait: Callable[[float], object]  #: Returns after so many seconds, or earlier when there may be news.


@contextmanager
def following(api: LocalApi | Client) -> Iterator[Follower]:
    """A follower on this API."""
    if isinstance(api, LocalApi):
        session = api.session
        with News(session.settings.listen_database_url or session.url) as news:
            yield Follower(api.runs.show_patiently, news.wait)
        return
    api.wait_longer(PATIENCE)
    yield Follower(_changed_only(api), lambda seconds: time.sleep(max(seconds, REMOTE_GAP)))


def _changed_only(client: Client) -> Callable[[str], Document]:
    """Reads the nodes of a run only when something of it has changed."""
    kept: dict[str, tuple[int, Document]] = {}

    def show(run_id: str) -> Document:
        run = client.runs.get(run_id)
        sequence, document = kept.get(run_id, (-1, run))
        if sequence != run["event_seq"]:
            document = client.runs.show(run_id)
            kept[run_id] = (run["event_seq"], document)
        return document

    return show
