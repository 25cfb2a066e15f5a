"""gunicorn's log as lines of ours: one vocabulary, one shape, one place (agentflow.log)."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from gunicorn.glogging import Logger

from webserver.paths import loggable

log = logging.getLogger("webserver.request")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  #: Asked every few seconds by machines.


class ServerLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Hands everything to the root logger, which `agentflow.log.configure` has set up."""

    def setup(self, cfg: Any) -> None:
        """No handlers of gunicorn's own."""
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True
        self.error_log.setLevel(logging.getLogger().level or logging.INFO)
        self._access_log_enabled = True
        self.cfg = cfg

    def access(self, resp: Any, _req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """A line for a request that was answered. The query stays out of it: it may hold what is nobody's business."""
        path = str(environ.get("PATH_INFO", ""))
        headers = {name.lower(): value for name, value in getattr(resp, "headers", ())}
        log.log(
            logging.DEBUG if path in _QUIET else logging.INFO,
            "request",
            extra={
                "method": environ.get("REQUEST_METHOD"),
                "path": loggable(path),
                "status": int(str(resp.status).split(maxsplit=1)[0]),
                "bytes": getattr(resp, "sent", None),
                "ms": round(request_time.total_seconds() * 1000, 1),
                "remote": environ.get("REMOTE_ADDR"),
                "request_id": headers.get("x-request-id"),
            },
        )
