"""Work that would keep the other requests of a gevent worker waiting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def offload(work: Callable[[], T]) -> T:
    """Run long computing work in a real thread of the hub's pool; without gevent's patches, here."""
    if "gevent.monkey" in sys.modules:
        from gevent import get_hub, monkey

        if monkey.is_module_patched("threading"):
            result: T = get_hub().threadpool.apply(work)
            return result
    return work()
