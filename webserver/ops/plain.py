"""Plain pages for people until there are real ones: one look, light and dark, no style or script within a page."""

from __future__ import annotations

import html

from flask import Blueprint, Response

from webserver.access import public

blueprint = Blueprint("plain", __name__)

_STYLE = """:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:4rem auto;max-width:42rem;padding:0 1rem}
h1{font-size:1.75rem;line-height:1.2}
ul{list-style:none;padding:0}
small{opacity:.7}
code{white-space:nowrap}
label{display:block}
input,button{font:inherit;padding:.5rem .75rem;margin-top:.25rem;border:1px solid #888;border-radius:.375rem}
input{display:block;width:100%;max-width:24rem;box-sizing:border-box}
button{background:#1d4ed8;border-color:#1d4ed8;color:#fff;cursor:pointer}
[role=status]{min-height:1.5rem}
"""


def plain_page(title: str, body: str, *, script: str | None = None, refresh: int | None = None) -> Response:
    """A whole page around `body`, which is HTML; `title` is text.

    Args:
        title: Heading and name of the page.
        body: What stands below the heading.
        script: Address of a script.
        refresh: Seconds after which the browser asks again.
    """
    head = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    tail = f'<script src="{script}"></script>' if script else ""
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="robots" content="noindex">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}'
        f'<title>{html.escape(title)}</title><link rel="stylesheet" href="/plain.css">'
        f"<h1>{html.escape(title)}</h1>{body}{tail}</html>"
    )
    return Response(text, content_type="text/html; charset=utf-8", headers={"Cache-Control": "no-store"})


@blueprint.get("/plain.css")
@public
def style() -> Response:
    """Their style: the policy allows none within a page."""
    return Response(_STYLE, content_type="text/css; charset=utf-8")
