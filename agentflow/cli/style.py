"""How states look in a terminal: one glyph and one colour each, with letters where the terminal has no Unicode."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.text import Text


class Look(NamedTuple):
    """Glyph, plain replacement and rich style of a state."""

    glyph: str
    ascii: str
    style: str


LOOKS: dict[str, Look] = {
    "pending": Look("·", ".", "dim"),
    "ready": Look("○", "o", "cyan"),
    "queued": Look("◌", "q", "cyan"),
    "running": Look("●", "*", "bold blue"),
    "deferred": Look("◔", "w", "magenta"),
    "retrying": Look("↻", "r", "yellow"),
    "success": Look("✓", "+", "green"),
    "failed": Look("✗", "x", "bold red"),
    "skipped": Look("»", "-", "magenta"),
    "upstream_failed": Look("▲", "!", "yellow"),
    "cancelled": Look("■", "#", "yellow"),
    # Attempts only.
    "launching": Look("◌", "q", "cyan"),
    "lost": Look("?", "?", "yellow"),
    "refused": Look("?", "?", "yellow"),
    # Backfills only.
    "paused": Look("‖", "=", "yellow"),
}
_UNKNOWN = Look("?", "?", "")


def look(state: str) -> Look:
    """The look of a state; a plain one for a state of a newer version."""
    return LOOKS.get(state, _UNKNOWN)


def glyph(state: str, *, encoding: str = "utf-8") -> str:
    """The glyph, or its letter where the encoding cannot write it."""
    shape = look(state)
    try:
        shape.glyph.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return shape.ascii
    return shape.glyph


def state_text(state: str, *, encoding: str = "utf-8") -> Text:
    """Glyph and word, coloured."""
    from rich.text import Text

    return Text(f"{glyph(state, encoding=encoding)} {state}", look(state).style)
