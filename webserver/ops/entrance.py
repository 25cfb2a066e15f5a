"""`/login`: for people with a password, and where one-time links lead.

A link's token is in the fragment, which browsers send to nobody.
"""

from __future__ import annotations

from flask import Blueprint, Response

from webserver.access import public
from webserver.ops.plain import plain_page
from webserver.state import current_web

blueprint = Blueprint("entrance", __name__)

_FORM = """<form id="form"><p id="who" hidden><label>Email
<input id="email" type="email" autocomplete="username"></label></p>
<p><label><span id="what">Password</span>
<input id="password" type="password" autocomplete="current-password"></label></p>
<p><button>Log in</button></p></form><p id="answer" role="status"></p>"""
_PROVIDER = '<p><a href="/api/v1/auth/oidc/start">Log in with your identity provider</a></p>'
#: With a token it waits for a click: a link that somebody else sent must not change who one is without a word.
_SCRIPT = """"use strict";
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const at = (id) => document.getElementById(id);
history.replaceState(null, "", location.pathname);
if (token) {
  at("what").textContent = "New password, if the link is for that";
  at("password").autocomplete = "new-password";
} else {
  at("who").hidden = false;
  at("email").required = at("password").required = true;
}
at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const password = at("password").value || null;
  const reply = await fetch(token ? "/api/v1/auth/link" : "/api/v1/auth/session", {
    method: "POST", headers: {"Content-Type": "application/json"},
    body: JSON.stringify(token ? {token, password} : {email: at("email").value, password}),
  });
  if (reply.ok) { location.replace("/"); return; }
  const problem = await reply.json().catch(() => ({}));
  at("answer").textContent = [problem.detail || "That did not work.", problem.hint].filter(Boolean).join(" ");
});
"""


@blueprint.get("/login")
@public
def login_page() -> Response:
    """The page."""
    provider = _PROVIDER if current_web().settings.oidc_issuer else ""
    return plain_page("Log in to AgentFlow", _FORM + provider, script="/login.js")


@blueprint.get("/login.js")
@public
def login_script() -> Response:
    """Its script: the policy allows none within a page."""
    return Response(_SCRIPT, content_type="text/javascript; charset=utf-8")
