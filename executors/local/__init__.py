"""Runs attempts in warm processes on this machine.

executor.py   the seam: thread-safe front of the I/O thread
io_loop.py    one thread: sockets of all runners, timers, commands from other threads
engine.py     what happens: hand out, events of runners, cancel, time out, stop (runs in that thread only)
pool.py       which processes exist and whom they serve
handle.py     one runner process as the parent sees it; item.py  one workload on its way
outcomes.py   pure: what the end of a process means; prefetch.py  pure: how far to look ahead
zygote.py     the single-threaded parent of all runners; zygote_link.py  the executor's end of it
worker.py     the runner process; memory.py  memory of a group of processes
"""

from __future__ import annotations

from executors.local.executor import LocalExecutor

__all__ = ["LocalExecutor"]
