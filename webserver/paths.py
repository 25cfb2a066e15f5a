"""Addresses as logs may have them."""

from __future__ import annotations

HOOKS = "/api/v1/hooks/"


def loggable(path: str) -> str:
    """A path without what opens doors: the token of a webhook is part of its address."""
    return f"{HOOKS}***" if path.startswith(HOOKS) else path
