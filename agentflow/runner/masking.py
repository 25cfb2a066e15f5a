"""Hides the secrets of a workload in everything that people read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
SHORTEST: Final = 4  # characters; masking shorter values would shred ordinary text


class Masker:
    """Replaces each secret, in the forms it usually travels in, by `***`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        #: Length of the longest form; a cut line keeps this much back so that no secret is split.
        self.longest = max(map(len, forms), default=0)
        self._pattern = _any_of(forms)

    def __call__(self, text: str) -> str:
        """The text without the secrets."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)


def mask_output(text: str, secrets: Mapping[str, str]) -> tuple[str, list[str]]:
    """An output's JSON text without the secrets, and the names of those that were in it.

    Only texts and keys are changed, so that numbers stay numbers, and only whole values are looked for: a line of a
    longer secret, such as the first one of a PEM file, may well stand in data that has nothing to do with it.
    """
    found = []
    for name, secret in secrets.items():
        pattern = _any_of(_whole_forms(secret))
        # Without a backslash the JSON text shows its texts as they are, and looking into it is enough.
        if pattern is None or ("\\" not in text and pattern.search(text) is None):
            continue
        masked = json.dumps(_masked(json.loads(text), pattern), ensure_ascii=False, separators=(",", ":"))
        if masked != text:
            text = masked
            found.append(name)
    return text, found


def _masked(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(MASK, value)
    if isinstance(value, list):
        return [_masked(item, pattern) for item in value]
    if isinstance(value, dict):
        return {pattern.sub(MASK, key): _masked(item, pattern) for key, item in value.items()}
    return value


def _any_of(forms: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _forms(secret: str) -> set[str]:
    """The whole value, and each line of it."""
    if len(secret) < SHORTEST:
        return set()
    return _whole_forms(secret) | {line.strip() for line in secret.splitlines()}


def _whole_forms(secret: str) -> set[str]:
    """Plain, as JSON, URL-encoded and base64."""
    if len(secret) < SHORTEST:
        return set()
    raw = secret.encode("utf-8", "surrogateescape")
    return {
        secret,
        secret.strip(),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        *_in_base64(raw, base64.b64encode),
        *_in_base64(raw, base64.urlsafe_b64encode),
    }


def _in_base64(raw: bytes, encode: Callable[[bytes], bytes]) -> set[str]:
    """The value alone, and inside of more (`user:password`): its letters then depend on where it begins."""
    forms = {encode(raw).decode().rstrip("=")}
    for before in range(3):
        first = -(-before * 8 // 6)  # letters that hold bits of what stands before
        forms.add(encode(b"\0" * before + raw).decode()[first : (before + len(raw)) * 8 // 6])
    return forms
