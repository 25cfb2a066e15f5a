"""The log of one attempt: lines become numbered, masked, capped and compressed chunks at the source (ENGINE 11)."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from typing import Final

from agentflow.runner.masking import Masker

CHUNK_MAX: Final = 64 * 1024  # bytes of JSON lines after which a chunk is cut
CHUNK_AGE: Final = 0.2  # seconds after which a chunk is cut
LINE_MAX: Final = 64 * 1024  # characters; longer lines are split
#: Bytes of an area that holds any pending chunk: a full chunk, or one line of the worst escapes (6 bytes a character).
AREA_SIZE: Final = 512 * 1024

_STREAMS: Final = frozenset({"stdout", "stderr", "system"})
_LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})
#: Attempt's number in its process, chunk_no, first_seq, lines, bytes of them, truncated bytes so far, and how many
#: bytes of an unfinished line of stdout and of stderr are kept.
_AREA_HEADER: Final = struct.Struct("<IIIIIQII")
_PARTIAL_MAX: Final = 4096  # bytes kept of an unfinished line
_PARTIALS: Final = {"stdout": _AREA_HEADER.size, "stderr": _AREA_HEADER.size + _PARTIAL_MAX}
_LINES: Final = _AREA_HEADER.size + 2 * _PARTIAL_MAX  # where the pending lines begin


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines, ready to be stored."""

    chunk_no: int
    first_seq: int
    lines: int
    raw_bytes: int
    truncated_bytes: int
    data: bytes  #: zlib of JSON lines `[seq, at, stream, level, text]`; `at` in seconds since the epoch.


class LogBuffer:
    """Collects the lines of one attempt. Not thread-safe: the owner holds a lock.

    Pending lines live in `area`. When that is memory shared with another process, this one can still fetch them with
    `read_pending` after a crash. `log_max` counts the bytes of the JSON lines, so that a flood of tiny lines is
    bounded too.
    """

    def __init__(
        self,
        emit: Callable[[Chunk], None],
        *,
        log_max: int,
        mask: Masker,
        area: mmap | bytearray | None = None,
        number: int = 0,
        first_chunk: int = 0,
        first_seq: int = 1,
    ) -> None:
        self.mask = mask
        self._emit = emit
        self._left = log_max
        self._dropped = 0
        self._area = area if area is not None else bytearray(AREA_SIZE)
        self._number = number
        self._chunk_no = first_chunk
        self._first_seq = first_seq
        self._lines = 0
        self._size = 0
        self._partial = {"stdout": 0, "stderr": 0}
        self._since = 0.0
        self._write_header()

    @property
    def full(self) -> bool:
        """Whether everything that still comes is dropped."""
        return self._left <= 0

    @property
    def pending(self) -> bool:
        """Whether lines wait for the next chunk."""
        return self._lines > 0

    def due_in(self) -> float | None:
        """Seconds until the pending lines should be flushed; None without any."""
        return self._since + CHUNK_AGE - time.monotonic() if self._lines else None

    def line(self, text: str, stream: str, level: str = "info") -> None:
        """Add a line (without its line end)."""
        if self._left <= 0:
            self.drop(_size(text))
            return
        text = self.mask(text)
        if len(text) <= LINE_MAX:
            self._add(text, stream, level)
            return
        for start in range(0, len(text), LINE_MAX):
            self._add(text[start : start + LINE_MAX], stream, level)

    def drop(self, size: int) -> None:
        """Count text that is not kept."""
        self._dropped += size

    def note_partial(self, stream: str, rest: bytes) -> None:
        """Keep the end of an unfinished line where it survives a crash; it is not a line of the log yet."""
        kept = rest[-_PARTIAL_MAX:]
        if not kept and not self._partial[stream]:
            return
        start = _PARTIALS[stream]
        self._area[start : start + len(kept)] = kept
        self._partial[stream] = len(kept)
        self._write_header()

    def flush(self) -> None:
        """Send the pending lines as a chunk."""
        if not self._lines:
            return
        raw = bytes(self._area[_LINES : _LINES + self._size])
        self._emit(_compress(self._chunk_no, self._first_seq, self._lines, raw, 0))
        self._advance()

    def close(self) -> None:
        """Send the rest; when lines were dropped, say so in the last one."""
        if not self._dropped:
            self.flush()
            return
        self._append(self._encoded(f"truncated: {self._dropped} bytes dropped", "system", "warning"))
        raw = bytes(self._area[_LINES : _LINES + self._size])
        self._emit(_compress(self._chunk_no, self._first_seq, self._lines, raw, self._dropped))
        self._advance()

    def _add(self, text: str, stream: str, level: str) -> None:
        encoded = self._encoded(text, stream, level)
        if len(encoded) > self._left:
            self._left = 0  # later, shorter lines would make a hole in the middle
            self.drop(_size(text))
            return
        self._left -= len(encoded)
        self._append(encoded)

    def _encoded(self, text: str, stream: str, level: str) -> bytes:
        stream = stream if stream in _STREAMS else "system"
        level = level if level in _LEVELS else "info"
        seq = self._first_seq + self._lines
        return _encode(f'[{seq},{time.time():.6f},"{stream}","{level}",{_quote(text)}]\n')

    def _append(self, encoded: bytes) -> None:
        if self._lines and self._size + len(encoded) > CHUNK_MAX:
            self.flush()
        start = _LINES + self._size
        self._area[start : start + len(encoded)] = encoded
        if not self._lines:
            self._since = time.monotonic()
        self._size += len(encoded)
        self._lines += 1
        self._write_header()

    def _advance(self) -> None:
        self._chunk_no += 1
        self._first_seq += self._lines
        self._lines = 0
        self._size = 0
        self._write_header()

    def _write_header(self) -> None:
        _AREA_HEADER.pack_into(
            self._area,
            0,
            self._number,
            self._chunk_no,
            self._first_seq,
            self._lines,
            self._size,
            self._dropped,
            self._partial["stdout"],
            self._partial["stderr"],
        )


@dataclass(frozen=True, slots=True)
class Pending:
    """What a process had not sent when it died."""

    number: int  #: Attempt's number in its process.
    chunk: Chunk | None
    dropped: int  #: Bytes over the cap.
    partial: dict[str, bytes]  #: Unfinished lines by stream.


def read_pending(area: bytes) -> Pending:
    """The content of an area whose owner is gone."""
    number, chunk_no, first_seq, lines, size, dropped, out, err = _AREA_HEADER.unpack_from(area, 0)
    partial = {
        stream: area[_PARTIALS[stream] : _PARTIALS[stream] + min(length, _PARTIAL_MAX)]
        for stream, length in (("stdout", out), ("stderr", err))
    }
    chunk = None
    if lines and _LINES + size <= len(area):
        chunk = _compress(chunk_no, first_seq, lines, area[_LINES : _LINES + size], 0)
    return Pending(number, chunk, dropped, partial)


def used_area(area: mmap) -> bytes:
    """The part of an area that `read_pending` needs."""
    size: int = _AREA_HEADER.unpack_from(area, 0)[4]
    return area[: min(len(area), _LINES + size)]


def _compress(chunk_no: int, first_seq: int, lines: int, raw: bytes, truncated: int) -> Chunk:
    return Chunk(chunk_no, first_seq, lines, len(raw), truncated, zlib.compress(raw, 1))


def _size(text: str) -> int:
    """Bytes of a line with its line end."""
    return len(text) + 1 if text.isascii() else len(text.encode("utf-8", "replace")) + 1


def _quote(text: str) -> str:
    """A JSON string; NUL becomes U+FFFD because Postgres cannot store it."""
    return json.encoder.encode_basestring(text.replace("\0", "\ufffd") if "\0" in text else text)


def _encode(line: str) -> bytes:
    try:
        return line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as `surrogateescape` leaves them
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in line).encode()
