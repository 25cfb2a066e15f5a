"""Bounds that keep any file cheap to read."""

from __future__ import annotations

MAX_BYTES = 10 * 2**20  #: A workflow file or document; aliases of YAML may add as much again.
MAX_DEPTH = 64  #: Lists and mappings inside each other.
MAX_VALUES = 1_000_000  #: Values in one document.
MAX_PROBLEMS = 50  #: Reported at once.
MAX_DIGITS = 308  #: Of an integer; longer ones are a mistake and slow to convert.
