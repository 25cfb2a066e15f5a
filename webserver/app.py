"""The app: every part is wired here."""

from __future__ import annotations

from importlib.metadata import version

from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from agentflow.settings import Settings
from webserver.access import Authenticate, init_access, require_marks
from webserver.api import RESOURCES
from webserver.auth.authenticate import authenticate as authenticate_request
from webserver.docs import docs
from webserver.encoding import init_encoding
from webserver.headers import init_headers
from webserver.live.sockets import init_live
from webserver.operation import SECURITY_SCHEMES
from webserver.ops import entrance, health, plain
from webserver.ops.metrics import init_metrics
from webserver.ops.requests import init_request_ids
from webserver.problems import ProblemDocument, init_problems
from webserver.ratelimits import counting_refusals, init_rate_limits
from webserver.state import EXTENSION, make_state


def create_app(settings: Settings, *, url: str, authenticate: Authenticate = authenticate_request) -> OpenAPI:
    """The web server's app.

    Args:
        settings: Of this process.
        url: SQLAlchemy address of a database with the current schema.
        authenticate: Who a request is from; tests say it themselves.
    """
    app = OpenAPI(
        "webserver",
        info=Info(title="AgentFlow", version=version("agentflow")),
        security_schemes=SECURITY_SCHEMES,
        validation_error_model=ProblemDocument,
        doc_ui=False,
        static_folder=None,
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.http_body_max
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = web = make_state(settings, url)
    init_request_ids(app)
    init_metrics(app)
    init_problems(app)
    init_headers(app, settings)
    init_access(app, counting_refusals(authenticate))
    init_rate_limits(app, web)
    init_encoding(app)
    for resource in RESOURCES:
        app.register_api(resource)
    app.register_blueprint(docs)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(entrance.blueprint)
    app.register_blueprint(plain.blueprint)
    init_live(app, web, authenticate)
    require_marks(app)
    return app
