"""Sizes a template may ask for.

A cheap check here gives a clear message; what slips through meets the limits on memory and time of the process that
renders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentflow.errors import TemplateError

MAX_TEMPLATE = 256 * 2**10  # characters of one template
MAX_TEXT = 16 * 2**20  # characters of any text a template makes
MAX_DEPTH = 100  # levels of a syntax tree; Jinja's and Python's compilers recurse over it
MAX_ITEMS = 1_000_000  # items of any list a template makes
MAX_RANGE = 100_000  # items of `range`
MAX_INT_BITS = 64 * 2**10  # bits of an integer a template computes

#: A width or precision of seven digits or more, in `%` and in `str.format` texts.
_WIDE_PERCENT = re.compile(r"%(?:\([^()]*\))?[-+ #0]*(?:\d{7,}|\d*\.\d{7,})")
_WIDE_FORMAT = re.compile(r"\{[^{}:]*:[^{}]*?\d{7,}")

#: Methods of texts whose first argument is the width of the result.
_WIDTH_METHODS = frozenset({"center", "ljust", "rjust", "zfill"})


def bounded_range(*args: int) -> range:
    """Jinja's `range`, up to `MAX_RANGE` items."""
    numbers = range(*args)
    # Not len(): it overflows for a range beyond what an index can hold.
    count = -((numbers.start - numbers.stop) // numbers.step)
    if count > MAX_RANGE:
        raise TemplateError(f"`range` gives at most {MAX_RANGE:,} numbers")
    return numbers


def check_text_size(size: float) -> None:
    """Refuse a text of more than `MAX_TEXT` characters before it is made."""
    if size > MAX_TEXT:
        raise TemplateError(f"the result would be longer than {MAX_TEXT:,} characters")


def check_items(count: float) -> None:
    """Refuse a list of more than `MAX_ITEMS` items before it is made."""
    if count > MAX_ITEMS:
        raise TemplateError(f"the result would have more than {MAX_ITEMS:,} items")


def check_binop(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be huge."""
    if operator == "*":
        _check_product(left, right)
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_INT_BITS:
            raise TemplateError(f"the number would have more than {MAX_INT_BITS:,} bits")
    elif operator == "%":
        if isinstance(left, str):
            check_percent_format(left)
    elif operator == "+":
        if isinstance(left, str) and isinstance(right, str):
            check_text_size(len(left) + len(right))
        elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            check_items(len(left) + len(right))


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_INT_BITS:
            raise TemplateError(f"the number would have more than {MAX_INT_BITS:,} bits")
        return
    repeated, times = (left, right) if isinstance(right, int) else (right, left)
    if not isinstance(times, int):
        return
    if isinstance(repeated, (str, bytes)):
        check_text_size(len(repeated) * times)
    elif isinstance(repeated, (list, tuple)):
        check_items(len(repeated) * times)


def check_percent_format(text: str) -> None:
    """Refuse `'%1000000000d' % 1`."""
    if _WIDE_PERCENT.search(text):
        raise TemplateError("a width in this % format is too large")


def check_str_format(text: str) -> None:
    """Refuse `'{:>1000000000}'.format(1)`; a width that is itself an argument meets the process's limits."""
    if _WIDE_FORMAT.search(text):
        raise TemplateError("a width in this format text is too large")


def check_replace(text: str, old: str, new: str) -> None:
    """Refuse a replacement that makes a huge text."""
    if len(new) > len(old):
        check_text_size(len(text) + text.count(old) * (len(new) - len(old)))


def check_call(called: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a call of a text's method whose result would be huge."""
    owner = getattr(called, "__self__", None)
    if isinstance(owner, int) and getattr(called, "__name__", "") == "to_bytes":
        raise TemplateError("`to_bytes` is not available: templates work on text")
    if not isinstance(owner, str):
        return
    name = called.__name__
    if name in _WIDTH_METHODS:
        check_text_size(args[0] if args and isinstance(args[0], int) else 0)
    elif name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        check_replace(owner, args[0], args[1])
    elif name == "expandtabs":
        width = args[0] if args else kwargs.get("tabsize", 8)
        check_text_size(len(owner) + owner.count("\t") * width if isinstance(width, int) else 0)
