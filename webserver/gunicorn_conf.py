"""How gunicorn runs the app: `python -m webserver`. Values come from the settings; GUNICORN_CMD_ARGS may add to them.

The arbiter (the process that forks the workers) imports neither psycopg nor SQLAlchemy: gevent patches the standard
library in the worker, and both look at import time whether that has happened (ENGINE 17).
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import tempfile
from typing import Any

from agentflow import lifeline, log
from agentflow.settings import load_settings

_FILES = 65536  #: Open files of a process, where the system sets no limit.
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

_settings = load_settings()
log.configure(_settings)

#: Each socket is an open file, and many systems allow a process 1,024 unless it asks for more.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, _hard if _hard != resource.RLIM_INFINITY else _FILES), _hard))

wsgi_app = "webserver.wsgi:application()"
worker_class = "webserver.worker.Worker"
logger_class = "webserver.serverlog.ServerLog"
proc_name = "agentflow-webserver"
bind = [
    f"[{_settings.web_host}]:{_settings.web_port}"
    if ":" in _settings.web_host
    else f"{_settings.web_host}:{_settings.web_port}"
]
workers = _settings.web_workers
preload_app = False
worker_connections = 5000  # websockets count; each costs some 67 KB
backlog = 1024
keepalive = 75  # seconds: longer than the idle time of usual proxies, which keep their connections
timeout = 60  # seconds without a sign of life of a worker's hub
graceful_timeout = 10  # seconds; websockets and idle connections are closed at once
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190
control_socket_disable = True
forwarded_allow_ips = ""  # who is believed is decided in one place: AGENTFLOW_TRUSTED_PROXIES (webserver.wsgi)
accesslog = "-"  # where it goes is decided by ServerLog; this switches it on


def on_starting(_arbiter: Any) -> None:
    """Several workers share their metrics through files, which must be of this life of the server only."""
    if workers > 1:
        os.environ[_MULTIPROCESS] = tempfile.mkdtemp(prefix="agentflow-metrics-")


def when_ready(_arbiter: Any) -> None:
    """From here on the end of a supervisor ends us too."""
    lifeline.watch()


def post_worker_init(worker: Any) -> None:
    """The app of a worker is loaded: begin what goes on beside requests."""
    import gevent

    from webserver.ops.metrics import watch_loop

    worker.wsgi.extensions["agentflow.live"].start()
    gevent.spawn(watch_loop)


def worker_exit(_arbiter: Any, worker: Any) -> None:
    """An orderly end is over here: taking all modules apart would need as long as all the rest of it."""
    if worker.booted and not worker.alive:
        from webserver.state import web_of

        web_of(worker.wsgi).close()
        logging.shutdown()
        os._exit(0)


def child_exit(_arbiter: Any, worker: Any) -> None:
    """What a dead worker's gauges said is over; its counters stay."""
    if workers > 1:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_arbiter: Any) -> None:
    """Remove the files of the metrics."""
    if _MULTIPROCESS in os.environ:
        shutil.rmtree(os.environ[_MULTIPROCESS], ignore_errors=True)
