"""The scheduler's health endpoint: whether this one takes part, and what it counts."""

from __future__ import annotations

import os
from functools import partial

from agentflow.health import HealthServer
from agentflow.readiness import readiness
from agentflow.settings import Settings
from scheduler.metrics import Metrics


class HealthEndpoint:
    """A service that answers on `AGENTFLOW_HEALTH_PORT`."""

    def __init__(self, settings: Settings, url: str, metrics: Metrics) -> None:
        self._settings = settings
        self._url = url
        self._metrics = metrics
        self._server: HealthServer | None = None

    def take_port(self) -> None:
        """Fail before anything is started, if it must.

        Raises:
            SettingsError: The port cannot be had.
        """
        ready = partial(readiness, self._url, pid=os.getpid())
        settings = self._settings
        self._server = HealthServer(settings.health_host, settings.health_port, ready, self._metrics.text)

    def start(self) -> None:
        """Answer."""
        if self._server is not None:
            self._server.start()

    def stop(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.stop()
