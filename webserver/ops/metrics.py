"""`/metrics` for Prometheus. With several workers the numbers of all of them are added up through files."""

from __future__ import annotations

import os
import time

from flask import Blueprint, Flask, Response, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from webserver.access import public

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUESTS = Counter("agentflow_web_requests_total", "Requests answered", ["method", "endpoint", "status"])
DURATION = Histogram("agentflow_web_request_seconds", "Time to answer", ["endpoint"], buckets=_SECONDS)
SOCKETS = Gauge("agentflow_web_sockets", "Live sockets that are connected", multiprocess_mode="livesum")
LIVE_MESSAGES = Counter("agentflow_web_live_messages_total", "Messages queued for live sockets", ["event"])
LIVE_TOO_SLOW = Counter("agentflow_web_live_too_slow_total", "Live sockets closed because they took nothing")
LIVE_REFUSED = Counter("agentflow_web_live_refused_total", "Messages of live sockets that were one too many")
LIVE_LISTENS = Counter(
    "agentflow_web_live_listens_total", "Connections made to listen for changes: more than one is a loss"
)
#: With a label, so that there is no such number where there is no Redis.
REDIS_UP = Gauge("agentflow_web_redis_up", "Whether Redis answers, and fast", ["use"], multiprocess_mode="livemin")
LIVE_SHARED = Counter(
    "agentflow_web_live_shared_total", "Changes of runs that another worker had read, or read for all", ["result"]
)
SHARED = Counter("agentflow_web_shared_reads_total", "Values looked for in Redis that were not in memory", ["result"])
LAG = Histogram("agentflow_web_loop_lag_seconds", "How late the worker's loop wakes who sleeps", buckets=_SECONDS)
LAG_EVERY = 0.5  # seconds
#: Others are counted as one: a client may make up as many as it likes, and each would be a series for ever.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@public
def metrics() -> Response:
    """The numbers."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def init_metrics(app: Flask) -> None:
    """Count requests, and serve what is counted."""

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def count(response: Response) -> Response:
        endpoint = request.endpoint or "unknown"  # not the path: its ids would make a series each
        method = request.method if request.method in _METHODS else "other"
        REQUESTS.labels(method, endpoint, response.status_code).inc()
        if "began" in g:
            DURATION.labels(endpoint).observe(time.perf_counter() - g.began)
        return response

    app.register_blueprint(blueprint)


def watch_loop() -> None:
    """Measure for ever how long who is ready has to wait; a greenlet of the worker runs it."""
    while True:
        began = time.monotonic()
        time.sleep(LAG_EVERY)
        LAG.observe(max(0.0, time.monotonic() - began - LAG_EVERY))
