"""The duty that drops history older than AGENTFLOW_RETENTION_DAYS; of several schedulers one does it."""

from __future__ import annotations

import logging
from datetime import timedelta

from agentflow.db.engine import make_engine
from agentflow.errors import AgentFlowError, Conflict
from agentflow.objects.store import ObjectStore
from agentflow.retention import Pruner
from agentflow.settings import Settings

log = logging.getLogger(__name__)

RETENTION_EVERY = 3600.0  #: Seconds. Mostly there is nothing to do, and a scheduler may not live for a day.


class Retention:
    """Prunes with connections of its own: a month may take a while, and the loop's give up their locks soon."""

    def __init__(self, settings: Settings, url: str, store: ObjectStore) -> None:
        self._days = settings.retention_days
        self._engine = make_engine(url, pool_size=2, application_name="agentflow-retention")
        self._pruner = Pruner(self._engine, store, actor="system", archive=settings.archive)

    def work(self) -> None:
        """Prune once."""
        if self._days == 0:
            return
        try:
            told = self._pruner.prune(timedelta(days=self._days))
        except Conflict:  # another scheduler, or a person
            return
        except AgentFlowError as error:
            log.error("retention_failed", extra={"error": error.message})
            return
        finally:
            self._engine.dispose()
        for month in told["months"]:
            if month["open"]:
                log.warning("month_kept_by_open_runs", extra={"month": month["month"], "runs": month["open"]})

    def stop(self) -> None:
        """End after the step at hand."""
        self._pruner.stop()
