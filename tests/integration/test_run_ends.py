"""The outbox of ended runs while somebody reads it."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

_WAITERS = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_a_run_that_ends_again_while_its_first_end_is_told_is_told_again(kit):
    kit.apply({"a": {}})
    run = kit.run()
    key = {"run": uuid.UUID(run)}
    kit.sql("INSERT INTO run_end (run_id) VALUES (:run)", **key)
    with kit.engine.connect() as teller, ThreadPoolExecutor(1) as pool:
        teller.execute(text("SELECT FROM run_end WHERE run_id = :run FOR UPDATE"), key)
        kit.clear(run)
        again = pool.submit(lambda: [kit.tick() for _ in range(3)])
        deadline = time.monotonic() + 30
        while not kit.row(_WAITERS).n and time.monotonic() < deadline and not again.done():
            pass
        teller.execute(text("DELETE FROM run_end WHERE run_id = :run"), key)
        teller.commit()
        again.result(30)
    assert kit.state(run) == "success"
    assert kit.row("SELECT count(*) AS n FROM run_end WHERE run_id = :run", **key).n == 1
