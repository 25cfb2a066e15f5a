"""The same requests by a bare loop of one process: `python _bare_http.py URL COUNT`; prints seconds and the peak memory in bytes."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from contextlib import AsyncExitStack

import httpx

PER_CLIENT = 50  #: A client looks at all its connections at every request: one with 1,000 of them needs half a minute.


async def ask(url: str, count: int) -> float:
    """Seconds for all requests, side by side."""
    limits = httpx.Limits(max_connections=None)
    async with AsyncExitStack() as stack:
        made = [httpx.AsyncClient(limits=limits, timeout=60, verify=False) for _ in range(-(-count // PER_CLIENT))]
        clients = [await stack.enter_async_context(client) for client in made]
        began = time.perf_counter()
        for response in await asyncio.gather(*(clients[n // PER_CLIENT].get(url) for n in range(count))):
            response.raise_for_status()
        return time.perf_counter() - began


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    took = asyncio.run(ask(sys.argv[1], int(sys.argv[2])))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(took, peak * (1 if sys.platform == "darwin" else 1024))
