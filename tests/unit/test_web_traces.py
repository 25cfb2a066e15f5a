"""What requests leave behind in logs and metrics, and how addresses are counted."""

from __future__ import annotations

import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest
from flask import Flask
from prometheus_client import REGISTRY

from agentflow.access.throttle import household
from webserver.ops.metrics import init_metrics
from webserver.serverlog import ServerLog


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/api/v1/hooks/whk_3xyzzy", "/api/v1/hooks/***"),
        ("/api/v1/runs", "/api/v1/runs"),
    ],
)
def test_the_token_of_a_webhook_is_in_no_log(caplog, path, logged):
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "POST"}
    answer = SimpleNamespace(headers=[], status="202 ACCEPTED", sent=1)
    with caplog.at_level(logging.INFO):
        ServerLog.access(SimpleNamespace(), answer, None, environ, timedelta())
    (record,) = caplog.records
    assert record.path == logged


def test_methods_that_a_client_makes_up_are_one_series():
    app = Flask(__name__)
    init_metrics(app)
    for method in ("MADEUP1", "MADEUP2", "GET"):
        app.test_client().open("/nowhere", method=method)
    told = {
        sample.labels["method"]
        for metric in REGISTRY.collect()
        if metric.name == "agentflow_web_requests"
        for sample in metric.samples
    }
    assert {"GET", "other"} <= told
    assert not {"MADEUP1", "MADEUP2"} & told


@pytest.mark.parametrize(
    ("address", "counted_by"),
    [
        ("192.0.2.9", "192.0.2.9"),
        ("::ffff:192.0.2.9", "192.0.2.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_what_an_address_is_counted_by(address, counted_by):
    assert household(address) == counted_by
