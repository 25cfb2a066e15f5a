"""A database with a whole scheduler, its threads and the local executor, watched through its notifications."""

from __future__ import annotations

import json
import time

import psycopg

from agentflow import runs
from agentflow.catalog import apply_spec
from agentflow.db.engine import make_engine, transact
from agentflow.postgres import libpq_url
from agentflow.settings import Settings
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy
from scheduler.daemon import Daemon
from tests.engine_kit import ACTOR

DEADLINE = 40.0  # seconds


class Site:
    """A database with a running scheduler, watched through the notifications that webservers live by."""

    def __init__(self, url, folder, **settings):
        self.url, self.engine = url, make_engine(url)
        self.settings = Settings(
            home=folder,
            dags_folder=folder / "dags",
            executor="local",
            executors="local",
            parallelism=4,
            allow_private_http=True,
            **settings,
        )
        self.settings.dags_path.mkdir(parents=True)
        self.daemon = self.start()
        self._notes = psycopg.connect(libpq_url(url), autocommit=True)
        self._notes.execute("LISTEN agentflow_live")

    def start(self):
        self.daemon = Daemon(self.settings, self.url)
        self.daemon.start()
        return self.daemon

    def close(self):
        self.daemon.stop()
        self._notes.close()
        self.engine.dispose()

    def do(self, function, *arguments, **keywords):
        return transact(self.engine, lambda connection: function(connection, *arguments, **keywords))

    def trigger(self, document):
        self.do(apply_spec, parse_document(document), source="api", actor=ACTOR)
        name = document["name"]
        return self.do(runs.create_run, name, {}, triggered_by=TriggeredBy.CLI, actor=ACTOR)["id"]

    def show(self, run):
        return self.do(runs.show_run, run)

    def wait(self, run, reached):
        """The run's document once `reached` holds for it; every change of a run is announced, so nothing sleeps."""
        until = time.monotonic() + DEADLINE
        while not reached(shown := self.show(run)):
            assert time.monotonic() < until, json.dumps(shown, indent=1)
            for _ in self._notes.notifies(timeout=1.0, stop_after=1):
                pass
        return shown

    def end(self, run):
        return self.wait(run, lambda shown: shown["finished_at"] is not None)


def python(code, needs=(), **keys):
    return {"type": "python", "needs": list(needs), "config": {"code": code, **keys.pop("config", {})}, **keys}
