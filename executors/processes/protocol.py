"""Kinds of the messages between executor and zygote; the bodies are JSON, see `zygote.py` and `zygote_link.py`."""

from __future__ import annotations

from typing import Final

FORK: Final = 16  #: To the zygote: {id, work_dir}, with the runner's socket and token pipe as file descriptors.
SIGNAL: Final = 17  #: To the zygote: {id, signal}.
WATCH: Final = 18  #: To the zygote: {id, limit}; null ends the watch.
FORKED: Final = 19  #: From the zygote: {id, pid}.
EXITED: Final = 20  #: From the zygote: {id, status, oom, sizes}, a line end, log area, rest of stdout, rest of stderr.
