"""Code of daily_report.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

DATA = Path(__file__).parents[1] / "data"


def readings() -> dict[str, list[float]]:
    """Degrees by city, one reading every three hours."""
    found: dict[str, list[float]] = json.loads((DATA / "weather.json").read_text(encoding="utf-8"))
    return found


def summarise(readings: dict[str, list[float]], threshold: float) -> list[dict[str, Any]]:
    """One line of the report per city, by name."""
    return [
        {"name": city, "mean": round(mean(values), 2), "max": max(values), "hot": max(values) > threshold}
        for city, values in sorted(readings.items())
    ]
