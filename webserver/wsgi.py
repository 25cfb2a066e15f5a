"""What gunicorn imports in a worker: the app on the database of the settings."""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from agentflow import log
from agentflow.postgres import normalise_url
from agentflow.settings import Settings, load_settings


def application() -> Flask:
    """The app of this process."""
    from webserver.app import create_app

    settings = load_settings()
    log.configure(settings)
    return behind_proxies(create_app(settings, url=normalise_url(settings.database_url)), settings)


def behind_proxies(app: Flask, settings: Settings) -> Flask:
    """Believe as many X-Forwarded-* headers as there are proxies of ours; none by default."""
    count = settings.trusted_proxies
    if count:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]  # the documented way
            app.wsgi_app, x_for=count, x_proto=count, x_host=count, x_port=0, x_prefix=0
        )
    return app
