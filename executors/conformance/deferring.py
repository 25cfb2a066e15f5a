"""Attempts that go on later: what one turn leaves, and what the next one gets."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from agentflow.workload import Outcome, Turn
from executors.conformance.harness import Harness, WithHarness


class Deferring(WithHarness):
    """A node type that defers itself: `wait`, in one process with others where an executor has lanes, and alone."""

    @pytest.fixture(params=["shared", "alone"])
    def limits(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        """A limit of memory asks for a process of one's own."""
        return {} if request.param == "shared" else {"memory": 512 * 2**20}

    def test_a_deferred_attempt_leaves_its_process_and_says_when_and_with_what_it_goes_on(
        self, harness: Harness, limits: dict[str, Any]
    ) -> None:
        workload = harness.workload("wait", {"for": "1h"}, limits=limits)
        result = harness.run(workload)
        assert result.finished.outcome is Outcome.DEFERRED
        assert (result.finished.output, result.finished.error) == (None, None)
        deferral = result.finished.deferral
        assert deferral is not None
        assert 3599 < deferral.after <= 3600
        assert deferral.state == "the time had not come"
        assert (deferral.chunks, deferral.lines) == (1, 1)
        assert result.text == "not yet: the time had not come"
        assert harness.executor.slots_free >= 4

    def test_the_next_turn_goes_on_with_state_time_and_log(self, harness: Harness, limits: dict[str, Any]) -> None:
        turn = Turn(state="something else", waited=3000.0, chunks=4, lines=9, log_bytes=500)
        result = harness.run(harness.workload("wait", {"for": "1h"}, limits=limits, turn=turn))
        deferral = result.finished.deferral
        assert deferral is not None
        assert 599 < deferral.after <= 600
        (chunk,) = result.chunks
        assert (chunk.chunk_no, chunk.first_seq) == (4, 10)
        assert (deferral.chunks, deferral.lines) == (5, 10)
        assert deferral.log_bytes > 500

    def test_the_last_turn_is_a_result_like_any_other(self, harness: Harness, limits: dict[str, Any]) -> None:
        turn = Turn(state="the time had not come", waited=3600.0, chunks=1, lines=1)
        result = harness.run(harness.workload("wait", {"for": "1h"}, limits=limits, turn=turn))
        assert result.output["waited_s"] == pytest.approx(3600, abs=5)
        assert result.finished.deferral is None

    def test_a_pause_is_not_longer_than_what_is_left_of_the_timeout(
        self, harness: Harness, limits: dict[str, Any]
    ) -> None:
        result = harness.run(harness.workload("wait", {"for": "1h"}, limits={**limits, "timeout": 60}))
        assert result.finished.deferral is not None
        assert result.finished.deferral.after == 60

    def test_a_log_that_is_full_stays_full(self, harness: Harness, limits: dict[str, Any]) -> None:
        turn = Turn(waited=1.0, chunks=1, lines=1, log_bytes=1000)
        result = harness.run(harness.workload("wait", {"for": "1h"}, limits={**limits, "log_max": 1000}, turn=turn))
        assert b"truncated: 31 bytes dropped" in zlib.decompress(result.chunks[-1].data)
