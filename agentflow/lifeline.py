"""A child's line to its supervisor: a pipe on stdin whose end means that the supervisor is gone, killed or not."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

ENVIRONMENT = "AGENTFLOW_LIFELINE"
GRACE = 10.0  # seconds between the polite and the hard end


def watch(on_gone: Callable[[], None] | None = None, *, grace: float = GRACE) -> bool:
    """Stop this process when its supervisor is gone; does nothing (False) in a process that has no supervisor.

    Starts a thread: call it after processes that fork have been started. From then on stdin is empty.

    Args:
        on_gone: Called from the thread; the default sends SIGTERM to this process.
        grace: Seconds after which a process that has not ended is killed.
    """
    if os.environ.pop(ENVIRONMENT, "") != "stdin":
        return False
    line = os.dup(0)
    # Children of ours must neither read from the line nor keep it.
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=_wait, args=(line, on_gone or _terminate, grace), name="lifeline", daemon=True).start()
    return True


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _wait(line: int, on_gone: Callable[[], None], grace: float) -> None:
    while os.read(line, 1024):
        pass
    logger.warning("supervisor_gone")
    on_gone()
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)
