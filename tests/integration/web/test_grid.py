"""The run grid: packed columns, versions, what a client has already."""

from __future__ import annotations

import base64

import pytest
from sqlalchemy import text

from agentflow.catalog import versions
from agentflow.runs import grid
from agentflow.runs.grid import lay_out
from executors.stub import fail
from tests.web_kit import WebKit


def cells(grid):
    """Columns of words."""
    flat = [grid["states"][code] for code in base64.b64decode(grid["cells"])]
    rows = len(flat) // max(1, len(grid["runs"]))
    return [flat[start : start + rows] for start in range(0, len(flat), rows)] if flat else []


def ids(grid):
    return [node["id"] for node in grid["nodes"]]


def test_a_column_per_run_the_newest_first(web, kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    good = kit.run()
    kit.stub.script("a", fail())
    bad = kit.run()
    open_run = kit.create()
    grid = web.get("/workflows/flow/grid")
    assert ids(grid) == ["a", "b"]
    assert [run["id"] for run in grid["runs"]] == [open_run, bad, good]
    assert cells(grid) == [["pending", "pending"], ["failed", "upstream_failed"], ["success", "success"]]
    assert grid["runs"][0]["duration"] is None
    assert grid["runs"][2]["duration"] >= 0


def test_columns_are_packed_once_when_runs_end(web, kit):
    kit.apply({"a": {}, "m": {"for_each": "{{ [1, 2] }}"}})
    run = kit.run()
    packed = kit.row("SELECT grid, state_counts FROM run")
    assert bytes(packed.grid) == b"\x07\x07"
    assert packed.state_counts == {"success": 4}
    kit.sql("UPDATE run SET grid = '\\x0808'")
    assert cells(web.get("/workflows/flow/grid")) == [["failed", "failed"]]  # read as it is kept
    kit.clear(run, "a")
    assert kit.row("SELECT grid FROM run").grid is None
    kit.settle()
    assert bytes(kit.row("SELECT grid FROM run").grid) == b"\x07\x07"


def test_a_run_cancelled_before_it_started(web, kit):
    kit.apply({"a": {}, "b": {}})
    kit.cancel(kit.create())
    kit.settle()
    assert cells(web.get("/workflows/flow/grid")) == [["cancelled", "cancelled"]]
    assert kit.row("SELECT state_counts FROM run").state_counts == {}


def test_columns_of_other_versions_are_put_in_place(web, kit):
    kit.apply({"a": {}, "old": {}, "b": {}})
    kit.run()
    kit.apply({"b": {}, "new": {}, "a": {}})
    kit.run()
    grid = web.get("/workflows/flow/grid")
    rows = dict(zip(ids(grid), zip(*cells(grid), strict=True), strict=True))
    assert rows == {
        "a": ("success", "success"),
        "b": ("success", "success"),
        "new": ("success", None),
        "old": (None, "success"),
    }
    assert [node["id"] for node in grid["nodes"] if node["removed"]] == ["old"]


def test_pages(web, kit):
    kit.apply({"a": {}})
    runs = [kit.create() for _ in range(3)]
    grid = web.get("/workflows/flow/grid?runs=2")
    rest = web.get(f"/workflows/flow/grid?runs=2&cursor={grid['next_cursor']}")
    assert [run["id"] for run in grid["runs"] + rest["runs"]] == runs[::-1]
    assert rest["next_cursor"] is None


def test_what_the_client_has_is_not_sent_again(web, kit):
    kit.apply({"a": {}})
    kit.run()
    answer = web.call("GET", "/workflows/flow/grid")
    etag = answer.json["structure_etag"]
    again = web.get(f"/workflows/flow/grid?structure={etag}")
    assert (again["nodes"], again["structure_etag"], cells(again)) == (None, etag, [["success"]])
    headers = {"If-None-Match": answer.headers["ETag"]}
    assert web.client.get("/api/v1/workflows/flow/grid", headers=headers).status_code == 304
    kit.create()
    assert web.client.get("/api/v1/workflows/flow/grid", headers=headers).status_code == 200
    kit.apply({"a": {}, "b": {}})
    assert web.get(f"/workflows/flow/grid?structure={etag}")["nodes"] is not None


def test_an_empty_grid(web, kit):
    kit.apply({"a": {}})
    grid = web.get("/workflows/flow/grid")
    assert (grid["runs"], grid["cells"], ids(grid)) == ([], "", ["a"])
    web.get("/workflows/none/grid", expect=404)
    web.get("/workflows/flow/grid?runs=501", expect=422)


@pytest.mark.parametrize(
    ("nodes", "columns", "expected"),
    [
        (["a", "b"], [(("a", "b"), b"\x01\x02"), (("a", "b"), b"\x03\x04")], b"\x01\x02\x03\x04"),
        (["a", "b"], [(("b", "c", "a"), b"\x01\x02\x03")], b"\x03\x01"),
        (["a", "b"], [(("a",), b"\x05")], b"\x05\x00"),
        (["a", "b"], [(("a", "b"), b"")], b"\x00\x00"),
        ([], [], b""),
    ],
)
def test_laying_out(nodes, columns, expected):
    assert lay_out(nodes, columns) == expected


def test_processes_share_what_never_changes(web, kit, tmp_path, redis_server, monkeypatch):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    kit.run()
    alone = web.get("/workflows/flow/grid")
    spec = web.get("/workflows/flow/versions/1")
    one, other = (WebKit(web.engine, tmp_path, redis_url=redis_server.url) for _ in range(2))
    try:
        assert one.get("/workflows/flow/grid") == alone
        assert one.get("/workflows/flow/versions/1") == spec
        for module in (grid, versions):
            monkeypatch.setattr(module, "_NODES" if module is grid else "_SPEC", text("SELECT 1/0"))
        assert other.get("/workflows/flow/grid") == alone
        assert other.get("/workflows/flow/versions/1") == spec
        redis_server.kill()
        assert other.get("/workflows/flow/grid") == alone, "from memory"
    finally:
        one.close()
        other.close()
