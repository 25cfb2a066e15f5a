"""Claim and dispatch: which ready node runs start now, and what the executors are given (ENGINE 4)."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from agentflow.db.queries import claims
from agentflow.db.queries.attempts import attempt_id
from agentflow.db.queries.claims import Claim, Group
from agentflow.ids import fencing_token
from agentflow.settings import Settings
from agentflow.workload import Finished, Workload
from executors.base import Executor
from scheduler import choose, guarded
from scheduler.crowd import Crowd
from scheduler.dispatch import Dispatcher
from scheduler.identity import Identity
from scheduler.inputs import InputFiles, Wanted
from scheduler.preparing import Preparing
from scheduler.shares import Place, Slots, place_of
from scheduler.tour import Tour

BUSY_AGAIN = 0.02  #: Seconds after which workflows are tried again that somebody else had locked.


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a transaction took; handed over once that is committed."""

    places: dict[str, Place] = field(default_factory=dict)  #: By attempt id.
    workloads: list[Workload] = field(default_factory=list)
    failed: list[Finished] = field(default_factory=list)  #: Could not even begin.
    large: dict[str, Wanted] = field(default_factory=dict)  #: By attempt: inputs to be fetched first.
    more: bool = False  #: There may be more to claim.


@dataclass(frozen=True, slots=True)
class _Took:
    """What was taken of some groups."""

    claimed: list[tuple[Claim, bool]] = field(default_factory=list)
    waiting: list[Group] = field(default_factory=list)  #: Which may have more than could be taken, in their order.
    groups: set[int] = field(default_factory=set)  #: Those that had a turn.
    more: bool = False  #: There may be more to take.


class Claimer:
    """Takes as much as the executors have room for. For the loop's thread."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        executors: Mapping[str, Executor],
        files: InputFiles,
        *,
        on_declared_dead: Callable[[], None],
        on_prepared: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._executors = executors
        self._on_declared_dead = on_declared_dead
        self._dispatcher = Dispatcher(settings)
        self._files = files
        self._preparing = Preparing(files, on_prepared)
        self._crowd = Crowd()
        self._tour = Tour()
        self._again_at: float | None = None  # time.monotonic() at which a workflow that was locked is tried again
        self._odd = 0  # whose turn an odd slot is, when backfills and others wait: 1 is a backfill's

    def begin(self) -> None:
        """Something may have changed: look at all groups again."""
        self._crowd.begin()
        self._tour.begin()

    def due_in(self) -> float | None:
        """Seconds until there may be something to claim even if nothing happens; None: there is not."""
        now = time.monotonic()
        dues = [self._tour.due_in(now), None if self._again_at is None else max(0.0, self._again_at - now)]
        return min((due for due in dues if due is not None), default=None)

    def claim(self, connection: Connection, oldest: uuid.UUID, out: Mapping[str, int]) -> Claimed:
        """Claim as much as the executors take, and build its workloads.

        Args:
            connection: In a transaction.
            oldest: No open run is older.
            out: Attempts with a process of their own, by executor.
        """
        self._again_at = None
        slots = guarded.free_slots(self._executors)
        if hidden := self._preparing.out:
            slots = {place: max(0, count - hidden.get(place, 0)) for place, count in slots.items()}
        if not any(slots.values()) or not self._identity.may_claim:
            self._tour.halt()
            return Claimed()
        taken, more = self._take(connection, slots, oldest, out)
        if not taken:
            return Claimed(more=more)
        built = self._dispatcher.build(connection, [claim for claim, _ in taken])
        places = {attempt_id(claim.key): (claim.executor, in_lane) for claim, in_lane in taken}
        return Claimed(places, built.workloads, built.failed, built.large, more)

    def submit(self, claimed: Claimed) -> list[Finished]:
        """Hand over what was claimed; returns the ends of attempts that no executor took or that could not begin."""
        given = []
        for workload in claimed.workloads:
            place = claimed.places[workload.attempt_id]
            if wanted := claimed.large.get(workload.attempt_id):
                self._preparing.begin(place, workload, wanted)
            else:
                given.append((place, workload))
        return claimed.failed + self._hand_over(given) + self.submit_prepared()

    def submit_prepared(self) -> list[Finished]:
        """Hand over workloads whose inputs are there now; returns the ends of attempts that could not begin."""
        ready, ended = self._preparing.take()
        return ended + self._hand_over(ready)

    def give_back_prepared(self) -> None:
        """What waits for its inputs is not to begin here any more; `submit_prepared` returns the ends."""
        self._preparing.give_back()

    def forget_prepared(self) -> list[str]:
        """Others have taken over what waits for its inputs: attempts whose end nobody will report."""
        return self._preparing.forget()

    def stop_preparing(self, attempt_ids: Collection[str]) -> None:
        """These attempts need not begin any more."""
        self._preparing.stop(attempt_ids)

    def _hand_over(self, given: Sequence[tuple[Place, Workload]]) -> list[Finished]:
        failed: list[Finished] = []
        for name, executor in self._executors.items():
            mine = [workload for (wanted, _), workload in given if wanted == name]
            if mine:
                failed.extend(guarded.submit(name, executor, mine))
        for event in failed:
            self._files.release(event.attempt_id)
        return failed

    def _take(
        self, connection: Connection, slots: Slots, oldest: uuid.UUID, out: Mapping[str, int]
    ) -> tuple[list[tuple[Claim, bool]], bool]:
        """The claims, each with whether it takes an I/O lane instead of a process; and whether there may be more."""
        default, me = self._settings.executor, self._identity.id
        # Also those without a free slot: they say who else wants one.
        names = list({name for name, _ in slots})
        asker = claims.Asker(
            me,
            self._identity.reserved_only,
            self._settings.served_queues,
            [*names, ""] if default in names else names,
        )
        now, free = time.monotonic(), {place for place, count in slots.items() if count > 0}
        known = self._crowd.pick(slots, default, now)
        if not known and self._tour.rests(free, now):
            return [], False
        window = (
            claims.lock_known(connection, asker, known, oldest=oldest)
            if known
            else claims.lock_groups(connection, asker, oldest=oldest, after=self._tour.after)
        )
        if not window.alive:
            self._identity.declared_dead(me)
            self._on_declared_dead()
            return [], False
        took = self._take_from(connection, window.groups, slots, oldest, out)
        if known:
            self._crowd.served(known, window.groups, took.groups)
            return took.claimed, True
        over = time.monotonic()
        if took.claimed:
            self._crowd.note(took.waiting, took.groups, over)
        others = self._tour.looked(window.end, free, took=bool(took.claimed), seconds=over - now, now=over)
        return took.claimed, took.more or others

    def _take_from(
        self,
        connection: Connection,
        groups: Sequence[Group],
        slots: Slots,
        oldest: uuid.UUID,
        out: Mapping[str, int],
    ) -> _Took:
        """What is taken of these groups, as far as limits and slots allow."""
        if not groups:
            return _Took()
        default, me = self._settings.executor, self._identity.id
        usage = claims.lock_usage(connection, groups, oldest=oldest)
        if usage.busy:
            self._again_at = time.monotonic() + BUSY_AGAIN
        parallelism = self._settings.parallelism
        shared = choose.together(groups, usage, slots, default, out=out, parallelism=parallelism)
        most = choose.limits(groups, usage, slots, default, shared=shared)
        if not most:
            return _Took()
        candidates = claims.take_candidates(connection, most, oldest=oldest)
        by_id = {group.id: group for group in groups}
        chosen = choose.choose(candidates, by_id, usage, slots, default, odd=self._odd, shared=shared)
        if len({by_id[candidate.group_id].backfill for candidate in candidates}) > 1:
            self._odd = 1 - self._odd
        taken = []
        for c in chosen:
            executor, in_lane = place_of(by_id[c.group_id], slots, default)
            key = (c.run_id, c.node_no, c.map_index, c.attempt if c.again else c.attempt + 1)
            taken.append((Claim(key, c.version_id, executor, fencing_token(), c.again, c.carries), in_lane))
        if taken:
            claims.write_claims(connection, [claim for claim, _ in taken], me=me)
        had, left = Counter(c.group_id for c in chosen), Counter(c.group_id for c in candidates)
        waiting = [group for group in groups if left[group.id] > had[group.id] or left[group.id] == most.get(group.id)]
        return _Took(taken, waiting, set(had), bool(taken) and len(candidates) >= sum(most.values()))
