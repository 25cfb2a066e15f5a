"""The storm: kills and stops at random moments, drawn from a seed; what was killed comes back by itself."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import psutil

from tests.chaos.site import Place

EVERY = (0.8, 3.0)  #: Seconds between two blows.
CLOCK_STOPPED = 20.0  #: Seconds that one scheduler sleeps: far longer than it takes to be declared dead.


class Storm:
    """Strikes until its time is over. Runs in a thread of its own; everything it does is counted by kind."""

    def __init__(self, place: Place, rng: random.Random, *, schedulers: int, seconds: float) -> None:
        self._place = place
        self._rng = rng
        self._seconds = seconds
        self.schedulers: list[subprocess.Popen[bytes] | None] = [place.start_scheduler() for _ in range(schedulers)]
        self.blows: Counter[str] = Counter()
        self.timeline: list[str] = []  #: Every blow and every recovery with its moment.
        self._asleep: set[int] = set()  # slots of `schedulers` that are stopped
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._server_hit = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._rage, name="storm")
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until it is over and everything is back.

        Raises:
            BaseException: What stopped it early.
        """
        self._thread.join()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End early."""
        self._over.set()
        self._thread.join()

    # -- the plan --------------------------------------------------------------------------------------------------
    def _rage(self) -> None:
        try:
            self._strike_until_over()
        except BaseException as error:  # noqa: BLE001 - told by `join`
            self.error = error

    def _strike_until_over(self) -> None:
        began = time.monotonic()
        end = began + self._seconds
        if self._seconds > 2 * CLOCK_STOPPED:
            self._at(began + self._rng.uniform(0.1, 0.3) * self._seconds, self._stop_clock)
        moment = began + 3.0  # let them come up first
        while (moment := moment + self._rng.uniform(*EVERY)) < end:
            self._at(moment, self._blow)
        self._at(end + 1.0, self._revive)  # whoever was killed last is dead by then
        while self._plan and not self._over.is_set():
            due, _, action = heapq.heappop(self._plan)
            self._over.wait(max(0.0, due - time.monotonic()))
            action()
            self._revive()

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._plan, (moment, next(self._order), action))

    def _in(self, seconds: float, action: Callable[[], None]) -> None:
        self._at(time.monotonic() + seconds, action)

    def _blow(self) -> None:
        # Drawn every time, whether or not there is a victim now: the same seed gives the same plan.
        kind = self._rng.choices(
            (
                self._kill_scheduler,
                self._term_scheduler,
                self._stop_scheduler,
                self._kill_runner,
                self._stop_runner,
                self._kill_zygote,
                self._kill_server,
                self._stop_server,
            ),
            weights=(4, 3, 4, 8, 5, 2, 1, 1),
        )[0]
        kind()

    def _revive(self) -> None:
        """What a supervisor does: dead schedulers are started again."""
        for slot, process in enumerate(self.schedulers):
            if process is not None and process.poll() is not None:
                self.schedulers[slot] = None
                self._in(self._rng.uniform(0.2, 1.5), partial(self._restart, slot))

    def _restart(self, slot: int) -> None:
        self.schedulers[slot] = self._place.start_scheduler()

    def _note(self, word: str, pid: int) -> None:
        self.blows[word] += 1
        self.timeline.append(f"{datetime.now(UTC).isoformat()} {word} ({pid})")

    # -- blows -----------------------------------------------------------------------------------------------------
    def _victim(self) -> int | None:
        awake = [slot for slot, found in enumerate(self.schedulers) if found is not None and slot not in self._asleep]
        return self._rng.choice(awake) if awake else None

    def _signal_scheduler(self, word: str, number: signal.Signals) -> int | None:
        slot = self._victim()
        process = None if slot is None else self.schedulers[slot]
        if process is None or process.poll() is not None:
            return None
        self._note(word, process.pid)
        process.send_signal(number)
        return slot

    def _kill_scheduler(self) -> None:
        self._signal_scheduler("scheduler: kill -9", signal.SIGKILL)

    def _term_scheduler(self) -> None:
        self._signal_scheduler("scheduler: SIGTERM", signal.SIGTERM)

    def _stop_scheduler(self) -> None:
        self._sleep_scheduler("scheduler: SIGSTOP", self._rng.uniform(0.5, 5.0))

    def _stop_clock(self) -> None:
        self._sleep_scheduler("scheduler: clock stopped", CLOCK_STOPPED)

    def _sleep_scheduler(self, word: str, seconds: float) -> None:
        slot = self._signal_scheduler(word, signal.SIGSTOP)
        if slot is not None:
            self._asleep.add(slot)
            self._in(seconds, partial(self._wake_scheduler, slot))

    def _wake_scheduler(self, slot: int) -> None:
        self._asleep.discard(slot)
        process = self.schedulers[slot]
        if process is not None:
            process.send_signal(signal.SIGCONT)

    def _runners(self) -> list[psutil.Process]:
        return [child for zygote in self._zygotes() for child in _children(zygote)]

    def _zygotes(self) -> list[psutil.Process]:
        living = [process for process in self.schedulers if process is not None and process.poll() is None]
        return [child for process in living for child in _children(process.pid)]

    def _hit(self, word: str, found: list[psutil.Process], number: signal.Signals) -> psutil.Process | None:
        if not found:
            return None
        victim = self._rng.choice(sorted(found, key=lambda process: process.pid))
        with contextlib.suppress(psutil.Error):
            victim.send_signal(number)
            self._note(word, victim.pid)
            return victim
        return None

    def _kill_runner(self) -> None:
        self._hit("runner: kill -9", self._runners(), signal.SIGKILL)

    def _kill_zygote(self) -> None:
        self._hit("zygote or evaluator: kill -9", self._zygotes(), signal.SIGKILL)

    def _stop_runner(self) -> None:
        victim = self._hit("runner: SIGSTOP", self._runners(), signal.SIGSTOP)
        if victim is not None:
            self._in(self._rng.uniform(0.3, 3.0), partial(_wake, [victim]))

    def _kill_server(self) -> None:
        family = [] if self._server_hit else self._place.server_processes()
        if not family:
            return
        self._note("Postgres: kill -9", family[0].pid)
        self._server_hit = True
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=10)
        self._in(self._rng.uniform(0.0, 3.0), self._start_server)

    def _start_server(self) -> None:
        assert self._place.postgres.ensure_running() == self._place.site.url
        self._server_hit = False

    def _stop_server(self) -> None:
        family = [] if self._server_hit else self._place.server_processes()
        if not family:
            return
        self._note("Postgres: SIGSTOP", family[0].pid)
        self._server_hit = True
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        self._in(self._rng.uniform(0.5, 3.0), partial(self._wake_server, family))

    def _wake_server(self, family: list[psutil.Process]) -> None:
        _wake(family)
        self._server_hit = False


def _children(parent: int | psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return (psutil.Process(parent) if isinstance(parent, int) else parent).children()
    return []


def _wake(found: list[psutil.Process]) -> None:
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.resume()
