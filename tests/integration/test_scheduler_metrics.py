"""What a scheduler counts, and its health endpoint."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from agentflow.errors import SettingsError
from agentflow.settings import Settings
from executors.stub import fail
from scheduler.daemon import Daemon
from scheduler.metrics import Metrics

RUNS, READY = ("agentflow_waiting", {"what": "queued"}), ("agentflow_waiting", {"what": "ready"})
FINISHED = "agentflow_scheduler_node_runs_finished_total"


def value(name: str, labels: dict[str, str] | None = None) -> float:
    return REGISTRY.get_sample_value(name, labels or {}) or 0.0


def test_what_happens_is_counted(kit) -> None:
    names = ("agentflow_scheduler_ticks_total", "agentflow_scheduler_hop_seconds_count")
    before = {name: value(name) for name in names}
    claimed = value("agentflow_scheduler_claimed_total", {"executor": "stub"})
    ends = {state: value(FINISHED, {"state": state}) for state in ("success", "failed", "upstream_failed")}
    kit.apply({"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}})
    kit.stub.script("b", fail())
    kit.run()
    assert all(value(name) > before[name] for name in names)
    assert value("agentflow_scheduler_claimed_total", {"executor": "stub"}) == claimed + 2
    assert {state: value(FINISHED, {"state": state}) - count for state, count in ends.items()} == {
        "success": 1,
        "failed": 1,
        "upstream_failed": 1,
    }


def test_what_waits_is_looked_up_now_and_then(kit) -> None:
    kit.apply({"a": {}})
    kit.create()
    metrics = Metrics(kit.engine, kit.identity, {"stub": kit.stub}, lambda: kit.loop.open_attempts)
    families = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}
    assert value(*RUNS) == 1
    assert value(*READY) == 0
    assert families["agentflow_scheduler_free_slots"].samples[0].value > 0
    kit.create()
    metrics.text()
    assert value(*RUNS) == 1  # not looked at again so soon
    kit.settle()


def test_the_endpoint_answers_while_the_scheduler_lives(database_url: str, tmp_path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings(executor="stub", executors="stub", home=tmp_path, dags_folder=tmp_path, health_port=port)
    daemon = Daemon(settings, database_url)
    daemon.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as reply:
            assert reply.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            assert "text/plain" in reply.headers["Content-Type"]
            text = reply.read().decode()
        assert 'agentflow_scheduler_free_slots{executor="stub",kind="process"}' in text
        assert "agentflow_scheduler_repairs_total 0.0" in text
        with pytest.raises(SettingsError, match=f"Port {port} "):
            Daemon(settings, database_url).start()
    finally:
        daemon.stop()
