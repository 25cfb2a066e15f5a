"""A tiny web server for http_call.yaml: `python dags/lib/quotes_server.py --port 8123`."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

QUOTES = [
    {"text": "Make each program do one thing well.", "author": "Doug McIlroy"},
    {"text": "Simplicity is prerequisite for reliability.", "author": "Edsger W. Dijkstra"},
    {"text": "The most damaging phrase in the language is: it's always been done that way.", "author": "Grace Hopper"},
]


class QuoteHandler(BaseHTTPRequestHandler):
    """Answers `/quotes/today`; the very first request is told to come back later."""

    requests = count(1)

    def do_GET(self) -> None:
        """Today's quote, 404 for every other path."""
        if self.path != "/quotes/today":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is only /quotes/today"})
        elif next(self.requests) == 1:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "waking up"})
        else:
            self._answer(HTTPStatus.OK, QUOTES[datetime.now(UTC).timetuple().tm_yday % len(QUOTES)])

    def _answer(self, status: HTTPStatus, document: dict[str, str]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def make_server(port: int) -> ThreadingHTTPServer:
    """A server on this machine only; port 0 takes a free one. Its first request will fail."""

    class Handler(QuoteHandler):
        requests = count(1)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8123)
    with make_server(parser.parse_args().port) as running:
        print(f"http://127.0.0.1:{running.server_address[1]}", flush=True)
        running.serve_forever()
