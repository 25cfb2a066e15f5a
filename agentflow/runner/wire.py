"""The messages between an executor and a runner on one machine: length-prefixed frames, binary headers, JSON bodies.

Executor to runner: RUN, DISCARD; to an I/O lane: RUN, STOP, STORED. Runner to executor: STARTED, FINISHED, EXPIRED,
LOG. `seq` numbers the workloads of one runner from 1.
"""

from __future__ import annotations

import struct
from typing import Final

RUN: Final = 1  #: seq, deadline (monotonic seconds after which it must not start), workload as JSON.
DISCARD: Final = 2  #: seq: this workload and those after it have been taken back.
STARTED: Final = 3  #: seq, wall clock, monotonic clock.
FINISHED: Final = 4  #: seq, outcome, whether the process retires, start, end, body (output, error or deferral).
EXPIRED: Final = 5  #: seq: its deadline had passed, it did not start.
LOG: Final = 6  #: seq, chunk header, data.
STOP: Final = 7  #: seq: end this attempt; the others go on.
STORED: Final = 8  #: seq: a chunk of this attempt's log is on disk, another one may be sent.

HEADER: Final = struct.Struct("<IB")  # length of the body, kind
RUN_BODY: Final = struct.Struct("<Id")
SEQ_BODY: Final = struct.Struct("<I")
STARTED_BODY: Final = struct.Struct("<Idd")
FINISHED_BODY: Final = struct.Struct("<IBBdd")
LOG_BODY: Final = struct.Struct("<IIIIIQ")

#: Outcomes by their number on the wire.
OUTCOMES: Final = ("success", "failed", "skipped", "deferred")

FRAME_MAX: Final = 512 * 2**20  # bytes; more can only be garbage


class WireError(Exception):
    """The other side sent something that is no message."""


def frame(kind: int, body: bytes) -> bytes:
    """One message as bytes."""
    return HEADER.pack(len(body), kind) + body


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The messages that are complete now, as (kind, body).

        Raises:
            WireError: A length that no message has.
        """
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, bytes]] = []
        position = 0
        while len(buffer) - position >= HEADER.size:
            length, kind = HEADER.unpack_from(buffer, position)
            if length > FRAME_MAX:
                raise WireError(f"a message of {length} bytes")
            end = position + HEADER.size + length
            if end > len(buffer):
                break
            frames.append((kind, bytes(buffer[position + HEADER.size : end])))
            position = end
        if position:
            del buffer[:position]
        return frames
