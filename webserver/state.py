"""What all parts of the app share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flask import Flask, current_app
from sqlalchemy import Engine

from agentflow.db.engine import make_engine
from agentflow.db.kept import share
from agentflow.settings import Settings
from webserver.shared.link import RedisLink
from webserver.shared.values import SharedValues

EXTENSION = "agentflow"

#: ENGINE 8 and 17: a request holds no lock for long, and a worker few connections. Plans are made for the parameters at
#: hand: which filters a list has decides how it is read. Reads by key are planned once (webserver.database).
_OPTIONS = {
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "30s",
    "lock_timeout": "5s",
    "plan_cache_mode": "force_custom_plan",
}
_POOL, _OVERFLOW = 8, 2


@dataclass(slots=True)
class Web:
    """Of one app: settings, database, and what its parts keep."""

    settings: Settings
    url: str  #: SQLAlchemy address of the database, with its password.
    engine: Engine
    redis: RedisLink | None  #: None: there is none, and each process is on its own.
    parts: dict[str, Any] = field(default_factory=dict)  #: By the name of the module that owns it.

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()
        if self.redis is not None:
            self.redis.close()


def make_state(settings: Settings, url: str) -> Web:
    """The state of a new app; connects lazily."""
    engine = make_engine(
        url, pool_size=_POOL, overflow=_OVERFLOW, application_name="agentflow-webserver", options=_OPTIONS
    )
    redis = RedisLink(settings.redis_url) if settings.redis_url else None
    if redis is not None:
        share(engine, SharedValues(redis))
    return Web(settings, url, engine, redis)


def web_of(app: Flask) -> Web:
    """The state of an app."""
    found = app.extensions[EXTENSION]
    assert isinstance(found, Web)
    return found


def current_web() -> Web:
    """The state of the app at work."""
    return web_of(current_app)
