"""Quantities of `resources`, written as Kubernetes writes them."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([A-Za-z]*)")
_MEMORY_UNITS = {
    "": 1,
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
MAX_CORES = 1024
MIN_MEMORY = 2**20  #: Bytes; less is a forgotten unit.
MAX_MEMORY = 2**45  #: Bytes, 32 TiB.


def parse_cpu(value: object) -> float:
    """Cores: `2`, `0.5`, `"500m"`.

    Raises:
        ValueError: It is no such quantity, 0, or more than MAX_CORES.
    """
    number, unit = _split(value, "cores such as 500m, 0.5 or 2")
    if unit not in {"", "m"}:
        raise ValueError(f"{value!r} is not an amount of cores; write 500m, 0.5 or 2")
    cores = number / 1000 if unit else number
    if not 0 < cores <= MAX_CORES:
        raise ValueError(f"must be more than 0 and at most {MAX_CORES} cores")
    return cores


def parse_memory(value: object) -> int:
    """Bytes: `"512Mi"`, `"1G"`, `1073741824`.

    Raises:
        ValueError: It is no such quantity, or outside 1 MiB to 32 TiB.
    """
    number, unit = _split(value, "memory such as 512Mi or 1G")
    if unit not in _MEMORY_UNITS:
        hint = "M is mega, m is milli" if unit == "m" else f"units are {' '.join(filter(None, _MEMORY_UNITS))}"
        raise ValueError(f"{value!r} is not an amount of memory; write 512Mi or 1G ({hint})")
    size = int(number * _MEMORY_UNITS[unit])
    if not MIN_MEMORY <= size <= MAX_MEMORY:
        raise ValueError(f"{value!r} must be between 1Mi and 32Ti; is the unit right?")
    return size


def _split(value: object, wanted: str) -> tuple[float, str]:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be {wanted}")  # noqa: TRY004 - pydantic and our callers expect ValueError
    if not isinstance(value, str):
        return float(value), ""
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r:.60} must be {wanted}")
    return float(match[1]), match[2]
