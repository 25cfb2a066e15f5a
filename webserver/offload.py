"""Work that would keep the other requests of a gevent worker waiting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def offload(work: Callable[[], T]) -> T:
    """Run long computing work in a real thread of the hub's pool; without gevent's patches, here."""
    if not gevent_patched():
        return work()
    from gevent import get_hub

    result: T = get_hub().threadpool.apply(work)
    return result


def gevent_patched() -> bool:
    """Whether this process has gevent's patches, as gunicorn's workers do."""
    if "gevent.monkey" not in sys.modules:
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("socket"))
