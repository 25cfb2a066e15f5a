"""Runner processes on this machine: what the executors `local` and `subprocess` share.

executor.py   the seam: thread-safe front of the I/O thread
policy.py     where the two differ: how processes are made, and how long they live
io_loop.py    one thread: sockets of all runners, timers, commands from other threads
engine.py     what happens: hand out, events of runners, cancel, time out, stop (runs in that thread only)
nursery.py    the zygote and the processes that it makes, as the engine uses them
pool.py       which processes exist and whom they serve
handle.py     one runner process as the parent sees it; item.py  one workload on its way
outcomes.py   pure: what the end of a process means; prefetch.py  pure: how far to look ahead
zygote.py     the single-threaded parent of all runners; zygote_link.py  the executor's end of it
confinement.py  what the zygote imposes on a new runner: user, limits, environment
lanes.py      processes with many attempts each, for node types that only wait; lane.py  such a process
watchdog.py   ends the step that blocks a lane's event loop
worker.py     the runner process; usage.py  memory, processor time and size of a family of processes
"""

from __future__ import annotations

from executors.processes.executor import ProcessExecutor
from executors.processes.policy import ProcessPolicy

__all__ = ["ProcessExecutor", "ProcessPolicy"]
