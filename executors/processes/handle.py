"""One runner process as the executor sees it: its socket, its tokens, its workloads."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agentflow.runner import wire
from executors.processes.item import Item, Key

UNACKED_MAX: Final = 8  # log chunks of a runner that wait for storage before its socket is left alone
_READ_MAX: Final = 256 * 1024  # bytes per read


class Handle:
    """Mutable; belongs to the I/O thread. See `worker.py` for the token pipe."""

    lane = False  #: Whether it runs many attempts at once.

    def __init__(self, number: int) -> None:
        self.id = number
        self.pid: int | None = None
        self.key: Key | None = None  #: None: a spare that may serve anybody.
        self.items: deque[Item] = deque()  #: Handed over and not ended, in order.
        self.retiring = False  #: Takes no more work; its process is about to end.
        self.unacked = 0
        self.garbled = False  #: It sent something that is no message.
        self.watched = False  #: The zygote samples its memory.
        self.hung_up = False  #: Its socket reached its end.
        self.idle_since = 0.0
        self.sock, self.remote_sock = socket.socketpair()
        self.token_read, self._token_write = os.pipe()
        self.sock.setblocking(False)
        os.set_blocking(self.token_read, False)
        os.set_blocking(self._token_write, False)
        self._frames = wire.FrameReader()
        self._out = bytearray()
        self._tokens_due = 0
        self._next_seq = 0

    def hand_over(self, item: Item, deadline: float) -> None:
        """Queue a workload for the runner; `flush` sends it."""
        self._next_seq += 1
        item.handle = self
        self._out += item.run_frame(self._next_seq, deadline)
        self._tokens_due += 1
        self.items.append(item)

    def flush(self) -> bool:
        """Send what is queued; False when the socket takes no more now."""
        try:
            while self._out:
                sent = self.sock.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            return False
        except OSError:  # the process is gone; its end will be reported
            self._out.clear()
        if self._tokens_due:
            with suppress(OSError):
                os.write(self._token_write, b"t" * self._tokens_due)
            self._tokens_due = 0
        return True

    def take_back(self) -> list[Item]:
        """Withdraw every workload that the runner has not begun; afterwards it begins nothing by itself."""
        count = self._tokens_due
        self._tokens_due = 0
        with suppress(OSError):
            count += len(os.read(self.token_read, 65536))
        taken = [self.items.pop() for _ in range(min(count, len(self.items)))]
        taken.reverse()
        if taken:
            self._out += wire.frame(wire.DISCARD, wire.SEQ_BODY.pack(taken[0].seq))
        for item in taken:
            item.handle = None
        return taken

    def read(self) -> list[tuple[int, bytes]] | None:
        """The messages that have arrived, None when nothing has; sets `hung_up` at the end of the stream.

        Raises:
            wire.WireError: Garbage came.
        """
        try:
            data = self.sock.recv(_READ_MAX)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.hung_up = True
            return None
        return self._frames.feed(data)

    def take_messages(self, act: Callable[[int, bytes], None]) -> bool:
        """Act on the messages that have arrived; whether there may be more. Sets `garbled` when one makes no sense."""
        try:
            frames = self.read()
            for kind, body in frames or ():
                act(kind, body)
        except (wire.WireError, struct.error, ValueError, IndexError, KeyError):
            self.garbled = True
            return False
        return frames is not None

    def item(self, seq: int) -> Item | None:
        """The workload with this number, if it has not ended."""
        for item in self.items:
            if item.seq == seq:
                return item
        return None

    @property
    def choked(self) -> bool:
        """Whether storage of its log lags so far that it must wait."""
        return self.unacked >= UNACKED_MAX

    @property
    def busy_since(self) -> float | None:
        """`time.monotonic()` of the start of what it runs; None before a start is reported."""
        return self.items[0].started_mono or None if self.items else None

    def close(self) -> None:
        """Close everything; an idle runner ends by that."""
        self.sock.close()
        self.remote_sock.close()
        for fd in (self.token_read, self._token_write):
            with suppress(OSError):
                os.close(fd)
        self.token_read = self._token_write = -1


class LaneHandle(Handle):
    """An I/O lane: whatever is handed over begins at once, and ends in any order."""

    lane = True

    def hand_over(self, item: Item, deadline: float) -> None:
        """Queue a workload for the lane; `flush` sends it."""
        self._next_seq += 1
        item.handle = self
        self._out += item.run_frame(self._next_seq, deadline)
        self.items.append(item)

    def stop_item(self, item: Item) -> None:
        """Ask the lane to end one attempt; `flush` sends it."""
        self._out += wire.frame(wire.STOP, wire.SEQ_BODY.pack(item.seq))

    def chunk_stored(self, seq: int) -> None:
        """Tell the lane that a chunk of an attempt's log is on disk; `flush` sends it."""
        self._out += wire.frame(wire.STORED, wire.SEQ_BODY.pack(seq))
