from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from agentflow.cli import output, progress, progress_rows, style
from agentflow.clock import iso
from agentflow.states import AttemptState, BackfillState, NodeRunState, RunState

START = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


def node_run(name, state="pending", *, index=None, attempt=0, begun=None, took=None, error=None):
    started = START + timedelta(seconds=begun) if begun is not None else None
    finished = started + timedelta(seconds=took) if started is not None and took is not None else None
    return {
        "node": name,
        "map_index": index,
        "state": state,
        "attempt": attempt,
        "executor": None,
        "ready_at": None,
        "queued_at": None,
        "started_at": iso(started),
        "finished_at": iso(finished),
        "output": None,
        "error": error,
    }


@pytest.mark.parametrize(
    ("state", "resume_at", "detail"),
    [
        ("deferred", "2026-11-22T06:05:00.000000Z", "due 2026-11-22 06:05:00 UTC"),
        ("retrying", "2026-11-22T06:05:00.000000Z", "due 2026-11-22 06:05:00 UTC"),
        ("deferred", None, ""),  # a sub-run, or a mapped node
        ("pending", "2026-11-22T06:05:00.000000Z", ""),  # leased to be decided
    ],
)
def test_what_waits_says_when_it_is_due(state, resume_at, detail):
    node = node_run("nap", state) | {"resume_at": resume_at}
    assert progress_rows.row_of(node, START).detail == detail


def run_document(nodes, state="running", *, took=None):
    return {
        "id": "019aa8b1-0000-7000-8000-000000000001",
        "workflow": "nightly-report",
        "version": 1,
        "state": state,
        "started_at": iso(START),
        "finished_at": iso(START + timedelta(seconds=took)) if took is not None else None,
        "nodes": nodes,
    }


def terminal(width=80, height=24, *, encoding="utf-8"):
    raw = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(
        file=raw,
        force_terminal=True,
        width=width,
        height=height,
        color_system=None,
        highlight=False,
        markup=False,
        legacy_windows=False,
    )


def written(console):
    return console.file.buffer.getvalue().decode(console.encoding)


def frame(nodes, *, width=80, height=24, at=10.0, encoding="utf-8", **run):
    """What the last frame of the live view looks like."""
    console = terminal(width, height, encoding=encoding)
    view = progress.RunView(console, clock=lambda: START + timedelta(seconds=at))
    view._document = run_document(nodes, **run)
    console.print(view._frame())
    return written(console).splitlines()


def plain(documents, at=10.0):
    """The lines a pipe gets for these documents."""
    stream = io.StringIO()
    view = progress.RunView(
        Console(file=stream, width=40, highlight=False, markup=False), clock=lambda: START + timedelta(seconds=at)
    )
    with view:
        for document in documents:
            view.update(document)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("state", [*RunState, *NodeRunState, *AttemptState, *BackfillState])
def test_every_state_has_a_look_of_its_own_colour(state):
    assert state in style.LOOKS
    assert style.glyph(state) != ""
    assert style.glyph(state, encoding="ascii").isascii()


def test_the_view_shows_state_duration_and_error_of_each_node():
    lines = frame(
        [
            node_run("fetch", "success", attempt=1, begun=0, took=1.25),
            node_run("clean", "running", attempt=2, begun=4),
            node_run(
                "report",
                "failed",
                attempt=1,
                begun=2,
                took=0.012,
                error={"type": "ExitCode", "message": "exit 3\nmore"},
            ),
            node_run("post"),
        ]
    )
    assert lines[0].startswith("● running  10.0s  nightly-report")
    assert "2/4" in lines[1]
    assert lines[2].split() == ["✓", "fetch", "1.2s"]
    assert lines[3].split() == ["●", "clean", "6.0s", "attempt", "2"]
    assert lines[4].split() == ["✗", "report", "12ms", "ExitCode:", "exit", "3"]
    assert lines[5].split() == ["·", "post"]


def test_indexes_of_a_mapped_node_are_below_it_and_counted_instead_of_it():
    nodes = [
        node_run("each", "pending"),
        node_run("each", "success", index=0, attempt=1, begun=0, took=1),
        node_run("each", "running", index=1, attempt=1, begun=0),
    ]
    lines = frame(nodes)
    assert "1/2" in lines[1]
    assert lines[2].split() == ["·", "each", "1/2"]
    assert lines[3].split() == ["✓", "[0]", "1.0s"]
    assert progress_rows.counts(nodes) == {"success": 1, "running": 1}


@pytest.mark.parametrize("height", [5, 10, 24, 50])
def test_a_thousand_nodes_fit_the_terminal_and_the_rest_is_counted(height):
    nodes = [node_run(f"n{i}", "success", attempt=1, begun=0, took=1) for i in range(990)]
    nodes += [node_run(f"r{i}", "running", attempt=1, begun=0) for i in range(8)]
    nodes += [node_run("bad", "failed", attempt=1, begun=0, took=1), node_run("last")]
    lines = frame(nodes, height=height)
    assert len(lines) < height
    assert any("bad" in line for line in lines)
    assert "more:" in lines[-1]
    assert "success" in lines[-1]
    assert "991/1000" in lines[1]


def test_many_failures_leave_room_for_what_runs():
    nodes = [node_run(f"bad{i}", "failed") for i in range(500)] + [node_run("busy", "running")]
    rows = progress_rows.choose(nodes, 10, START)
    assert [row.label for row in rows.shown][-1] == "busy"
    assert len(rows.shown) == 10
    assert rows.hidden == {"failed": 491}


def test_rows_keep_the_order_of_the_run():
    nodes = [node_run("a", "success"), node_run("b", "pending"), node_run("c", "running"), node_run("d", "failed")]
    assert [row.label for row in progress_rows.choose(nodes, 3, START).shown] == ["b", "c", "d"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_no_line_is_wider_than_the_terminal(width):
    nodes = [node_run("x" * 100, "failed", attempt=1, begun=0, took=1, error={"type": "E", "message": "y" * 200})]
    lines = frame(nodes, width=width)
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)


def test_a_terminal_without_unicode_gets_letters():
    lines = frame([node_run("a", "success"), node_run("b", "failed")], encoding="latin-1")
    assert lines[2].split() == ["+", "a"]
    assert lines[3].split() == ["x", "b"]


def test_control_characters_of_an_error_do_not_reach_the_terminal():
    lines = frame([node_run("a", "failed", error={"type": "E", "message": "\x1b[2Jgone\x07"})])
    assert "E: gone" in lines[2]
    assert not any("\x1b[2J" in line or "\x07" in line for line in lines)


def test_plain_output_tells_each_change_once():
    first = run_document([node_run("a", "running", attempt=1, begun=1), node_run("b")])
    second = run_document([node_run("a", "success", attempt=1, begun=1, took=2), node_run("b", "ready")])
    last = run_document(
        [node_run("a", "success", attempt=1, begun=1, took=2), node_run("b", "skipped")], "success", took=4
    )
    assert plain([first, first, second, last, last]) == [
        "06:00:10.000  run 019aa8b1-0000-7000-8000-000000000001  of  nightly-report",
        "06:00:01.000  a  running",
        "06:00:10.000  run 019aa8b1-0000-7000-8000-000000000001  running",
        "06:00:03.000  a  success  2.0s",
        "06:00:10.000  b  skipped",
        "06:00:10.000  run 019aa8b1-0000-7000-8000-000000000001  success  4.0s",
    ]


def test_plain_output_tells_a_second_attempt():
    lines = plain(
        [
            run_document([node_run("a", "running", attempt=1, begun=1)]),
            run_document([node_run("a", "retrying", attempt=1, begun=1, error={"type": "E", "message": "no"})]),
            run_document([node_run("a", "running", attempt=2, begun=5)]),
        ]
    )
    assert lines[-2:] == ["06:00:10.000  a  retrying  E: no", "06:00:05.000  a  running  attempt 2"]


def test_watch_reads_until_the_run_has_ended_and_returns_its_last_document():
    documents = iter([run_document([], "queued"), run_document([], "running"), run_document([], "failed", took=1)])
    waits = []
    view = progress.RunView(Console(file=io.StringIO()))
    last = progress.watch(lambda: next(documents), waits.append, view=view, sleep=lambda _: None)
    assert last["state"] == "failed"
    assert len(waits) == 2
    assert all(0 <= wait <= progress.IDLE_POLL for wait in waits)


def test_the_terminal_is_whole_again_when_reading_fails():
    console = terminal()

    def fail():
        raise RuntimeError("database gone")

    with pytest.raises(RuntimeError, match="database gone"):
        progress.watch(fail, lambda _: None, view=progress.RunView(console), sleep=lambda _: None)
    assert written(console).rstrip().endswith("\x1b[?25h")  # the cursor is visible


def test_a_note_stands_above_the_live_view():
    console = terminal()
    with progress.RunView(console) as view:
        view.update(run_document([node_run("a", "running", begun=0)]))
        output.note("cancelling")
        assert "cancelling" in written(console)
    assert output.stderr() is not console


@pytest.mark.parametrize(
    ("start", "end", "seconds"), [(None, None, None), (0, None, 10.0), (0, 3, 3.0), (20, None, 0.0)]
)
def test_durations_never_run_backwards(start, end, seconds):
    item = node_run("a", begun=start, took=end)
    assert progress_rows.seconds_of(item, START + timedelta(seconds=10)) == seconds
