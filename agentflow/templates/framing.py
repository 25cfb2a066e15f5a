"""Messages between the evaluator and its child: four bytes of length, then JSON."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

HEADER = struct.Struct(">I")
MAX_FRAME = 32 * 2**20  # bytes of one message's JSON


class FrameTooLarge(ValueError):
    """A message is larger than a frame may be."""


def encode_frame(document: Any) -> bytes:
    """One message, ready to write.

    Raises:
        FrameTooLarge: Its JSON is larger than `MAX_FRAME`.
        TypeError, ValueError: The document is not JSON.
    """
    data = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    if len(data) > MAX_FRAME:
        raise FrameTooLarge(f"{len(data):,} bytes are more than the {MAX_FRAME:,} that fit")
    return HEADER.pack(len(data)) + data


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that these bytes complete; take them all before the next bytes.

        Raises:
            ValueError: The stream is not made of frames.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise FrameTooLarge(f"a frame says that it has {length:,} bytes")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            text = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield json.loads(text)
