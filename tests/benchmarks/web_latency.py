"""The API on a database with 1,000,000 finished node runs: lists, a run, a grid; and a chain beside 50 requests a second.

A real webserver (gunicorn, one worker, as shipped but for its rate limit) is asked with an API key over a connection that
stays open. Beside each figure is the same use case called in this process, right after the request: its SQL, no web.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import _steady_http
import _workflows
import psutil
from _report import Report, median, percentile
from _single import single
from _system import ACTOR, BenchmarkFailed, System, wait_until
from chain import measure_gaps
from latencies import timed
from live import webserver
from sqlalchemy import Connection, text

from agentflow import catalog, runs, settings_store
from agentflow.access import api_keys
from agentflow.clock import utc_now
from agentflow.states import RunState
from tests.history_kit import fill_history

API = "/api/v1"
DAYS = 75
VALVE = "bench-web-valve"  #: A pool without slots: what needs it stays open.
WARM = 3  #: Requests of each kind that are not counted.
TIMEOUT = 600.0  # seconds

_FILLED = text("SELECT EXISTS (SELECT 1 FROM workflow WHERE name = 'old-0')")
_NOT_PACKED = text("SELECT count(*) FROM run WHERE id = ANY(CAST(:ids AS uuid[])) AND grid IS NULL")
_STARTED = text("SELECT count(*) FROM run WHERE id = CAST(:run AS uuid) AND state = 'running'")


@dataclass
class Endpoint:
    """Something to ask for."""

    name: str
    path: str
    alone: Callable[[Connection], Any] | None = None  #: The same use case without the web.
    goal: float | None = 50
    took: list[float] = field(default_factory=list)
    took_alone: list[float] = field(default_factory=list)


def measure(
    system: System,
    report: Report,
    *,
    history: tuple[int, int] = (25_000, 40),
    size: int = 1000,
    columns: int = 25,
    requests: int = 100,
    length: int = 40,
    rounds: int = 8,
    pairs: int = 3,
    rate: float = 50,
) -> None:
    """Add median and p95 of each endpoint, then the gap of a chain alone and beside a client that asks for all of them."""
    if not system.do(lambda c: c.scalar(_FILLED)):  # the benchmark of a large run leaves a history, too
        fill_history(system.engine, now=utc_now(), runs=history[0], nodes=history[1], days=DAYS)
    ended, still_open = _columns(system, size, columns)
    chained = system.apply(_workflows.chain("bench-web-chain", length, _workflows.fibo(10)))
    system.run(chained)
    limit = {"rate_limit_read": "1000000/minute"}
    environment = {f"AGENTFLOW_{name.upper()}": value for name, value in limit.items()}
    with webserver(system, app="webserver.wsgi:application()", **environment) as server:
        key = str(system.do(_key)["key"])
        asked = _endpoints(system, ended)
        _ask_all(system, _steady_http.Caller(server.port, key), asked, requests)
        for each in asked:
            of = {"limit": percentile(each.took_alone, 0.95), "limit_of": "its SQL, no web"} if each.alone else {}
            report.add(f"web: {each.name}, p95", percentile(each.took, 0.95), "ms", goal=each.goal, **of)
            report.add("  median", median(each.took), "ms")
        system.cancel([still_open])
        plan = {"port": server.port, "key": key, "rate": rate, "paths": [each.path for each in asked if each.goal]}
        worker = psutil.Process(server.workers()[0].pid)
        used = sum(worker.cpu_times()[:2])
        answered = _beside(system, report, chained, plan, rounds=rounds, pairs=pairs)
        used = sum(worker.cpu_times()[:2]) - used
        report.add("  processor time of the webserver for one", used / answered * 1000, "ms")


def _key(connection: Connection) -> dict[str, Any]:
    options: dict[str, Any] = {"scopes": ["read"], "user": None, "now": utc_now(), "actor": ACTOR}
    return api_keys.create_api_key(connection, "bench-web", workspace="default", **options)


def _columns(system: System, size: int, columns: int) -> tuple[str, str]:
    """Ended runs for a grid, and one of another workflow that stays open; the id of the newest ended one, and its."""
    name = system.apply(_workflows.independent("bench-grid", size, _workflows.noop()))
    ids = [system.trigger(name) for _ in range(columns)]
    system.wait(ids, TIMEOUT)
    wait_until(lambda: system.do(lambda c: c.scalar(_NOT_PACKED, {"ids": ids})) == 0, "the columns are kept", TIMEOUT)
    system.do(partial(settings_store.set_pool, name=VALVE, slots=0, actor=ACTOR))
    held = _workflows.independent("bench-grid-open", size, _workflows.noop() | {"pool": VALVE})
    still_open = system.trigger(system.apply(held))
    wait_until(lambda: system.do(lambda c: c.scalar(_STARTED, {"run": still_open})) == 1, "a run stays open", TIMEOUT)
    return ids[-1], still_open


def _endpoints(system: System, run: str) -> list[Endpoint]:
    def listed(name: str, query: str, **filters: Any) -> Endpoint:
        return Endpoint(f"runs, {name}", f"{API}/runs?{query}", partial(runs.list_runs, **filters))

    def grid(name: str, workflow: str) -> Endpoint:
        known = system.do(partial(runs.read_grid, name=workflow))["structure_etag"]
        read = partial(runs.read_grid, name=workflow, structure=known)
        return Endpoint(f"grid, {name}", f"{API}/workflows/{workflow}/grid?structure={known}", read)

    return [
        Endpoint("workflows", f"{API}/workflows", catalog.list_workflows),
        listed("the newest", ""),
        listed("of a workflow, failed", "workflow=old-0&state=failed", workflow="old-0", states=[RunState.FAILED]),
        listed("search for a name", "search=old-3", search="old-3"),
        listed("search without a hit", "search=nowhere", search="nowhere"),
        Endpoint("a run", f"{API}/runs/{run}", partial(runs.show_run_alone, run_id=run)),
        Endpoint("its nodes, a page", f"{API}/runs/{run}/nodes", partial(runs.list_nodes, run_id=run)),
        grid("ended runs", "bench-grid"),
        grid("an open run", "bench-grid-open"),
        Endpoint("/healthz, the floor", "/healthz", goal=None),
    ]


def _ask_all(system: System, caller: _steady_http.Caller, asked: list[Endpoint], requests: int) -> None:
    """Ask for each in turn, so that a moment of noise hits all alike."""
    for number in range(-WARM, requests):
        for each in asked:
            took = timed(partial(_get, caller, each.path))
            took_alone = timed(partial(system.do, each.alone)) if each.alone else 0.0
            if number >= 0:
                each.took.append(took)
                each.took_alone.append(took_alone)
    caller.close()


def _get(caller: _steady_http.Caller, path: str) -> None:
    status, body = caller.get(path)
    if status != 200:
        raise BenchmarkFailed(f"{path} answers {status}: {body[:300]!r}")


def _beside(system: System, report: Report, chained: str, plan: dict[str, Any], *, rounds: int, pairs: int) -> int:
    """The number of requests."""
    alone, busy, told = [], [], []
    for _ in range(pairs):
        alone += measure_gaps(system, chained, rounds)
        with _asking(plan, told):
            busy += measure_gaps(system, chained, rounds)
    what = f"{plan['rate']:.0f} requests/s"
    report.add(f"gap beside {what}, median", median(busy), "ms", limit=median(alone), limit_of="without them")
    report.add("  times the gap without", median(busy) / median(alone), "times", goal=2)
    took = [each for one in told for each in one["milliseconds"]]
    answered = len(took) / sum(one["seconds"] for one in told)
    report.add("  requests a second", answered, "/s", better="higher", limit=plan["rate"], limit_of="asked for")
    report.add("  a request of them, p95", percentile(took, 0.95), "ms")
    return len(took)


@contextmanager
def _asking(plan: dict[str, Any], told: list[dict[str, Any]]) -> Iterator[None]:
    """A client process that asks at a constant rate meanwhile; what it saw is added to `told`."""
    command = [sys.executable, str(Path(_steady_http.__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(json.dumps(plan) + "\n")
        client.stdin.flush()
        if client.stdout.readline() != "asking\n":
            raise BenchmarkFailed("the client process does not ask")
        try:
            yield
        finally:
            said = client.communicate(timeout=60)[0]
        seen = json.loads(said)
    if seen["refused"]:
        raise BenchmarkFailed(f"requests were refused: {sorted(set(seen['refused']))}")
    told.append(seen)


if __name__ == "__main__":
    single(measure)
