"""What is looked up by key is found by key under the policies too, however large the run: see `look_up`, which keeps plans."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from agentflow.cursors import write_cursor
from agentflow.runs.nodes import CURSOR
from executors.stub import succeed
from tests.engine_kit import Kit
from tests.explain_kit import Explainer
from webserver.state import web_of

LARGE = 1200  #: Nodes, and items of a mapped one.
PAGE = 25
#: Rows of history that a page may look at: node runs, outputs, indexes; and for each of them the run.
MOST_ROWS = PAGE * 10


@pytest.fixture
def run(engine, tmp_path):
    """A large run of which the planner knows nothing: its tables were empty when they were looked at last."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    kit = Kit(engine, tmp_path, parallelism=10 * LARGE)
    mapped = {"items": {}, "mapped": {"needs": ["items"], "for_each": "{{ nodes.items.output }}"}}
    kit.apply({f"n{number}": {} for number in range(LARGE)} | mapped, "large", concurrency=None)
    kit.stub.script("items", succeed(list(range(LARGE))))
    run = kit.run("large")
    assert kit.finish(run) == "success"
    yield run
    kit.close()


def at(number, index=-1):
    return "/nodes?limit=25&cursor=" + write_cursor(CURSOR, f"[{number}, {index}]")


@pytest.mark.timeout(180)
def test_what_is_looked_up_costs_the_same_wherever_it_is_in_a_large_run(web, run):
    explainer = Explainer()
    pages = ["/nodes?limit=25", at(700), at(LARGE + 1, 700)]
    for path in [
        "",
        *pages,
        "/nodes/n700",
        "/nodes/mapped[700]",
        "/nodes/n700/attempts",
        "/nodes/n700/attempts/1/logs",
    ]:
        with explainer.watching(web_of(web.app).engine):
            web.get(f"/runs/{run}{path}")
    assert len(explainer.found) > 6
    assert [f"{one.rows} rows: {sql}" for sql, one in explainer.found.items() if one.rows > MOST_ROWS] == []
    assert [web.get(f"/runs/{run}{path}")["items"][0]["node"] for path in pages] == ["n0", "n701", "mapped"]
