"""Code of http_call.yaml: a client that does not give up at once, and a server for it."""

from __future__ import annotations

import time
from threading import Thread

import httpx
from lib.quotes_server import make_server

ATTEMPTS = 5
PAUSE = 0.1  # seconds


def serve_and_ask() -> dict[str, str]:
    """Start a server on a free port of this machine, ask it, and stop it."""
    with make_server(port=0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            return ask(f"http://127.0.0.1:{server.server_address[1]}")
        finally:
            # A node leaves nothing behind: what it starts, it stops.
            server.shutdown()
            thread.join()


def ask(base_url: str) -> dict[str, str]:
    """Today's quote. 503 means "later": ask again a few times."""
    with httpx.Client(base_url=base_url, timeout=5, trust_env=False) as client:  # no proxy for this machine
        for attempt in range(1, ATTEMPTS + 1):
            response = client.get("/quotes/today")
            print(f"attempt {attempt}: {response.status_code}")
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(PAUSE)
    response.raise_for_status()
    quote: dict[str, str] = response.json()
    return quote
