"""One whole ordeal: start, storm, calm, judgement."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.acceptance.crash_kit import until
from tests.chaos.feeder import Feeder
from tests.chaos.shapes import shapes, to_trigger
from tests.chaos.site import Place, place
from tests.chaos.storm import Storm
from tests.chaos.verdict import Verdict, judge

CALM = 150.0  #: Seconds after the storm within which every run must have ended: on a busy machine work is left over.
STUCK = 25.0  #: Seconds without any progress after which they never will; noticing a loss takes ten of them.
SHUTDOWN = 20.0  #: Seconds for all schedulers to end.
FED = 0.8  #: Part of the storm over which runs are created.
_OPEN = "SELECT count(*) AS n FROM run WHERE state IN ('queued', 'running')"
_PROGRESS = "SELECT coalesce(sum(event_seq), 0) AS n FROM run"
_LEFT = """
SELECT w.name, r.id, vn.node_id, nr.map_index, nr.state, nr.resume_at, nr.resume_key, nr.attempt
FROM run r JOIN workflow w ON w.id = r.workflow_id JOIN node_run nr ON nr.run_id = r.id
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE r.state IN ('queued', 'running') AND nr.finished_at IS NULL ORDER BY r.id, nr.node_no LIMIT 20
"""


@dataclass
class Outcome:
    """What happened, and what is to be said about it."""

    seed: int
    verdict: Verdict
    blows: Counter[str]
    calm: float  #: Seconds from the end of the storm to the end of the last run.


def ordeal(*, seed: int, seconds: float, runs: int, schedulers: int, keep: str | None = None) -> Outcome:
    """Run it.

    Args:
        seed: Of the storm's plan.
        seconds: Length of the storm.
        runs: How many are created during it.
        schedulers: How many run beside each other.
        keep: A file for what they said.
    """
    with place() as found:
        known = shapes(found.site.journal, found.http_url)
        feeder = Feeder(found.site.url, known, to_trigger(known, runs), seconds=FED * seconds)
        storm = Storm(found, random.Random(seed), schedulers=schedulers, seconds=seconds)
        verdict = Verdict()
        try:
            feeder.start()
            storm.start()
            feeder.join()
            storm.join()
            calm, stuck = _wait_for_calm(found)
            _stop(found, storm)
            verdict = judge(found, known, runs)
        finally:
            storm.stop()
            feeder.stop()
            if keep is not None:
                Path(keep).write_text(_story(storm, verdict) + found.site.said())
        verdict.complaints[:0] = stuck
        verdict.complaints += [f"a scheduler ended with {code}" for code in _exit_codes(storm) if code]
        return Outcome(seed, verdict, storm.blows, calm)


def _story(storm: Storm, verdict: Verdict) -> str:
    """Blows and stalls in their order."""
    stalls = [f"{begin.isoformat()} stall of {seconds:.1f} s" for seconds, begin in verdict.stalls]
    return "\n".join(sorted([*storm.timeline, *stalls]))


def _wait_for_calm(found: Place) -> tuple[float, list[str]]:
    began = moved = time.monotonic()
    before = -1
    while (now := time.monotonic()) < min(began + CALM, moved + STUCK):
        if found.site.value(_OPEN) == 0:
            return now - began, []
        progress = found.site.value(_PROGRESS)
        if progress != before:
            before, moved = progress, now
        time.sleep(0.2)
    return now - began, [f"stuck: {row}" for row in found.site.rows(_LEFT)]


def _stop(found: Place, storm: Storm) -> None:
    """As an operator does."""
    living = [process for process in storm.schedulers if process is not None]
    for process in living:
        until(partial(found.site.alive, process), what="the scheduler serves again")
    for process in living:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + SHUTDOWN
    for process in living:
        process.wait(max(0.1, deadline - time.monotonic()))


def _exit_codes(storm: Storm) -> list[int]:
    return [process.returncode for process in storm.schedulers if process is not None]


def table(outcome: Outcome) -> str:
    """The summary for people."""
    verdict = outcome.verdict
    rows = [
        *((name, str(count)) for name, count in sorted(outcome.blows.items())),
        ("", ""),
        *((f"runs {state}", str(count)) for state, count in sorted(verdict.runs.items())),
        *((f"attempts {state}", str(count)) for state, count in sorted(verdict.attempts.items())),
        *((f"  {reason}", str(count)) for reason, count in verdict.losses.most_common(8)),
        ("late results refused", str(verdict.refused)),
        ("executions outside that were not accepted", str(verdict.unaccepted)),
        *((f"ready to queued, {name}", f"{value:.3f} s") for name, value in verdict.waits.items()),
        ("stalls of all schedulers over 1 s", str(len(verdict.stalls))),
        ("  the longest", ", ".join(f"{seconds:.1f}" for seconds, _ in verdict.stalls[:5]) + " s"),
        ("last run ended after the storm", f"{outcome.calm:.1f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value:>10}".rstrip() for name, value in rows]
    ends = [f"BROKEN  {complaint}" for complaint in verdict.complaints[:40]] or ["all promises kept"]
    more = len(verdict.complaints) - 40
    return "\n".join([*lines, "", *ends, *([f"… and {more} more"] if more > 0 else []), f"seed {outcome.seed}"])
