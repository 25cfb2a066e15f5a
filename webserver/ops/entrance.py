"""`/login`: where one-time links lead. The token is in the fragment, which browsers send to nobody."""

from __future__ import annotations

from flask import Blueprint, Response

from webserver.access import public
from webserver.ops.plain import plain_page

blueprint = Blueprint("entrance", __name__)

_BODY = """<form id="form"><p><label>New password, if the link is for that
<input id="password" type="password" autocomplete="new-password"></label></p>
<p><button>Log in</button></p></form><p id="answer" role="status"></p>"""
#: It waits for a click: a link that somebody else sent must not change who one is without a word.
_SCRIPT = """"use strict";
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const answer = document.getElementById("answer");
history.replaceState(null, "", location.pathname);
if (!token) answer.textContent = "This link has no token: open it as it was given to you.";
document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const password = document.getElementById("password").value || null;
  const reply = await fetch("/api/v1/auth/link", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({token, password}),
  });
  if (reply.ok) { location.replace("/"); return; }
  const problem = await reply.json().catch(() => ({}));
  answer.textContent = [problem.detail || "That did not work.", problem.hint].filter(Boolean).join(" ");
});
"""


@blueprint.get("/login")
@public
def login_page() -> Response:
    """The page."""
    return plain_page("Log in to AgentFlow", _BODY, script="/login.js")


@blueprint.get("/login.js")
@public
def login_script() -> Response:
    """Its script: the policy allows none within a page."""
    return Response(_SCRIPT, content_type="text/javascript; charset=utf-8")
