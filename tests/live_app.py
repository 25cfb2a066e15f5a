"""The app as live tests start it: whoever says `Bearer ROLE NAME` has that role, until the file REVOKED names him."""

from __future__ import annotations

import os
from pathlib import Path

from agentflow import log
from agentflow.access import Principal, Role
from agentflow.settings import load_settings
from webserver.app import create_app
from webserver.errors import Unauthenticated
from webserver.wsgi import behind_proxies


def authenticate(request):
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    role, _, name = rest.partition(" ")
    if scheme != "Bearer" or role not in {"none", *(each.value for each in Role)}:
        return None
    if name in Path(os.environ["REVOKED"]).read_text().split():
        raise Unauthenticated("The session was revoked.")
    workspace = request.headers.get("X-Workspace", "default")
    number = {"default": 1}.get(workspace, 99)
    return Principal("user", name, f"user:{name}", number, workspace, None if role == "none" else Role(role))


def application():
    settings = load_settings()
    log.configure(settings)
    return behind_proxies(create_app(settings, url=settings.database_url, authenticate=authenticate), settings)
