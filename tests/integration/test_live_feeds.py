"""What the live feeds tell, to whom and when: the feeds alone, on a real database, with sockets that a test fills."""

from __future__ import annotations

import json
import threading
import uuid
import zlib
from functools import partial

import psycopg
import pytest
from sqlalchemy import text

from agentflow import catalog
from agentflow.catalog import changes
from agentflow.db.notify import notify_workflows
from agentflow.postgres import libpq_url
from agentflow.runs import delete_run, live, set_note
from agentflow.spec import parse_document
from tests.engine_kit import Kit, branch
from tests.feed_kit import Clock, Sockets
from webserver.live.changes import OwnChanges
from webserver.live.definitions import DefinitionFeed
from webserver.live.feed import CONGESTED_AGAIN, PACE
from webserver.live.listener import read_note
from webserver.live.lists import ListFeed
from webserver.live.logs import LATE, POLL, LogFeed
from webserver.live.pump import Pump
from webserver.live.runs import RunFeed

WORKSPACE = 1


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def read(kit):
    return lambda workspace, work: kit.call(work)


def states(messages) -> dict[str, str]:
    """The newest state of each node that messages name."""
    return {node["node"]: node["state"] for message in messages for node in message.get("nodes", ())}


def key(run: str) -> uuid.UUID:
    return uuid.UUID(run)


class TestRuns:
    @pytest.fixture
    def feed(self, read, sockets) -> RunFeed:
        return RunFeed(read, sockets, OwnChanges(read))

    def moved(self, kit: Kit, feed: RunFeed, run: str) -> None:
        seq = kit.row("SELECT event_seq FROM run WHERE id = :id", id=key(run)).event_seq
        feed.note(WORKSPACE, {key(run): seq})

    def test_a_newcomer_is_told_everything_and_then_only_what_changes(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}})
        run = kit.create()
        kit.starter.work()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        (first,) = sockets.take("s")
        assert (first["from"], first["seq"], first["run"]["state"]) == (None, 1, "running")
        assert states([first]) == {"a": "ready", "b": "pending", "c": "pending"}
        kit.tick()
        kit.tick()
        self.moved(kit, feed, run)
        clock.work(feed)
        (second,) = sockets.take("s")
        assert second["from"] == 1
        assert states([second]) == {"a": "success", "b": "queued"}  # and not c, which nothing has touched
        assert [node["attempt"] for node in second["nodes"]] == [1, 1]

    def test_news_within_the_pace_come_together(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}, "b": {"needs": ["a"]}})
        run = kit.create()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        sockets.take("s")
        kit.settle()
        self.moved(kit, feed, run)
        assert clock.work(feed, PACE / 2) == pytest.approx(PACE / 2)
        assert sockets.take("s") == []
        self.moved(kit, feed, run)
        assert clock.work(feed, PACE) is None
        (message,) = sockets.take("s")
        assert message["run"]["state"] == "success"
        assert states([message]) == {"a": "success", "b": "success"}

    def test_who_comes_back_gets_what_happened_meanwhile_from_whatever_position(
        self, kit, feed, sockets, clock
    ) -> None:
        kit.apply({"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}})
        run = kit.run()
        last = kit.row("SELECT event_seq FROM run").event_seq
        for after in range(last + 1):
            feed.join(f"s{after}", WORKSPACE, key(run), after)
        clock.work(feed)
        events = kit.rows("SELECT seq, node_no FROM run_event ORDER BY seq")
        for after in range(last + 1):
            messages = sockets.take(f"s{after}")
            assert messages[-1]["seq"] == last
            assert messages[0]["from"] <= after  # no gap
            touched = {"abc"[event.node_no] for event in events if event.seq > after and event.node_no is not None}
            assert touched <= states(messages).keys()
            assert set(states(messages).values()) <= {"success"}

    def test_who_knows_all_is_told_so_once(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        last = kit.row("SELECT event_seq FROM run").event_seq
        feed.join("s", WORKSPACE, key(run), last)
        clock.work(feed)
        (message,) = sockets.take("s")
        assert (message["from"], message["seq"], message["nodes"]) == (last, last, [])
        self.moved(kit, feed, run)
        assert feed.work(clock.now + 1) is None
        assert sockets.take("s") == []

    def test_a_full_socket_gets_nothing_and_later_one_message_for_all_it_missed(
        self, kit, feed, sockets, clock
    ) -> None:
        kit.apply({"a": {}, "b": {"needs": ["a"]}})
        run = kit.create()
        for sid in ("slow", "fast"):
            feed.join(sid, WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        sockets.full.add("slow")
        for _ in range(2):
            kit.settle()
            self.moved(kit, feed, run)
            clock.work(feed)
        assert len(sockets.take("fast")) >= 2
        assert len(sockets.take("slow")) == 1
        sockets.full.clear()
        clock.work(feed, CONGESTED_AGAIN)
        (message,) = sockets.take("slow")
        assert (message["from"], message["run"]["state"]) == (0, "success")
        assert sockets.take("fast") == []

    def test_too_many_nodes_are_left_to_be_read(self, kit, feed, sockets, clock, monkeypatch) -> None:
        monkeypatch.setattr(live, "NODES_MAX", 3)
        kit.apply({"root": {}} | {f"n{i}": {"needs": ["root"]} for i in range(4)})
        run = kit.run()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        (message,) = sockets.take("s")
        assert message["reset"] is True
        assert "nodes" not in message
        assert message["seq"] == kit.row("SELECT event_seq FROM run").event_seq

    def test_indexes_tell_their_summary_and_the_summary_its_counts(self, kit, feed, sockets, clock) -> None:
        kit.apply({"m": {"for_each": "{{ [1, 2, 3] }}"}})
        run = kit.create()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        kit.settle()
        self.moved(kit, feed, run)
        clock.work(feed)
        nodes = sockets.take("s")[-1]["nodes"]
        assert {node["map_index"]: node["state"] for node in nodes} == dict.fromkeys((None, 0, 1, 2), "success")
        assert [node["indexes"] for node in nodes if node["map_index"] is None] == [
            {"open": 0, "success": 3, "failed": 0}
        ]

    def test_a_cleared_node_goes_back_at_a_later_position(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}, "b": {"needs": ["a"]}})
        run = kit.run()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        kit.clear(run, "b")
        self.moved(kit, feed, run)
        clock.work(feed)
        first, second = sockets.take("s")
        assert second["seq"] > first["seq"]
        assert states([second])["b"] in {"ready", "pending"}
        assert second["run"]["state"] == "running"

    def test_skipped_nodes_below_a_branch_are_told(self, kit, feed, sockets, clock) -> None:
        kit.apply({"choose": branch("left"), "left": {"needs": ["choose"]}, "right": {"needs": ["choose"]}})
        run = kit.create()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        kit.settle()
        self.moved(kit, feed, run)
        clock.work(feed)
        assert states(sockets.take("s")) == {"choose": "success", "left": "success", "right": "skipped"}

    def test_another_workspace_sees_nothing(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        feed.join("s", 99, key(run), live.WHOLE)
        clock.work(feed)
        assert sockets.take("s") == [{"room": f"run:{run}", "gone": True}]

    def test_a_deleted_run_is_gone(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        sockets.take("s")
        kit.call(delete_run, run, actor="test")
        feed.look()
        clock.work(feed)
        assert sockets.take("s") == [{"room": f"run:{run}", "gone": True}]
        assert feed.work(clock.now + 60) is None

    def test_a_look_finds_what_no_notification_told(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.create()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        kit.settle()
        feed.look()
        clock.work(feed)
        assert sockets.take("s")[-1]["run"]["state"] == "success"
        feed.look()
        assert feed.work(clock.now + 1) is None

    def test_a_note_moves_the_run(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        (before,) = sockets.take("s")
        kit.call(set_note, run, "looked at it", actor="test")
        kit.call(set_note, run, "looked at it", actor="test")
        feed.look()
        clock.work(feed)
        (after,) = sockets.take("s")
        assert (after["run"]["note"], after["run"]["state"], after["nodes"]) == ("looked at it", "success", [])
        assert (after["from"], after["seq"]) == (before["seq"], before["seq"] + 1)

    def test_who_left_is_told_nothing(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.create()
        for sid in ("one", "two"):
            feed.join(sid, WORKSPACE, key(run), live.WHOLE)
        clock.work(feed)
        feed.leave("one", WORKSPACE, key(run))
        feed.drop("two")
        kit.settle()
        self.moved(kit, feed, run)
        assert clock.work(feed) is None
        assert len(sockets.got["one"]) == len(sockets.got["two"]) == 1

    def test_a_read_that_fails_is_made_again(self, kit, sockets, clock, read) -> None:
        fail = [True]

        def sometimes(workspace, work):
            if fail.pop() if fail else False:
                raise OSError("away")
            return read(workspace, work)

        feed = RunFeed(sometimes, sockets, OwnChanges(sometimes))
        kit.apply({"a": {}})
        run = kit.run()
        feed.join("s", WORKSPACE, key(run), live.WHOLE)
        with pytest.raises(OSError, match="away"):
            clock.work(feed)
        clock.work(feed)
        assert sockets.take("s")[0]["run"]["state"] == "success"


class TestLists:
    @pytest.fixture
    def feed(self, read, sockets, clock) -> ListFeed:
        feed = ListFeed(read, sockets)
        feed.join("all", WORKSPACE, None)
        feed.join("flow", WORKSPACE, "flow")
        clock.work(feed)
        return feed

    def test_each_room_hears_of_its_own_runs(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        kit.apply({"a": {}}, "other")
        mine, others = kit.run(), kit.run("other")
        feed.note(WORKSPACE, {key(mine): 3, key(others): 3})
        clock.work(feed)
        (to_all,), (to_flow,) = sockets.take("all"), sockets.take("flow")
        assert {run["id"]: run["state"] for run in to_all["runs"]} == {mine: "success", others: "success"}
        assert [run["id"] for run in to_flow["runs"]] == [mine]
        assert (to_all["room"], to_flow["room"]) == ("workspace", "workflow:flow")
        assert to_flow["runs"][0]["event_seq"] == kit.row("SELECT event_seq FROM run WHERE id = :r", r=mine).event_seq

    def test_a_look_finds_new_moved_and_ended_runs_and_nothing_twice(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        before = kit.create()
        feed.look()
        clock.work(feed)
        assert [(run["id"], run["state"]) for run in sockets.take("all")[0]["runs"]] == [(before, "queued")]
        kit.settle()
        began_and_ended = kit.run()
        feed.look()
        clock.work(feed)
        (message,) = sockets.take("all")
        assert {run["id"]: run["state"] for run in message["runs"]} == dict.fromkeys(
            (before, began_and_ended), "success"
        )
        kit.clear(before)
        feed.look()
        clock.work(feed)
        assert [run["id"] for run in sockets.take("all")[0]["runs"]] == [before]
        feed.look()
        clock.work(feed)
        assert sockets.take("all") == []

    def test_hidden_runs_stay_hidden(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        kit.sql("UPDATE run SET hidden = true")
        feed.note(WORKSPACE, {key(run): 9})
        feed.look()
        clock.work(feed)
        assert sockets.take("all") == []

    def test_a_deleted_run_is_told(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        kit.call(delete_run, run, actor="test")
        feed.note(WORKSPACE, {key(run): -1})
        clock.work(feed)
        assert sockets.take("flow") == [{"room": "workflow:flow", "runs": [], "gone": [run]}]

    def test_too_much_is_left_to_be_read(self, kit, feed, sockets, clock, monkeypatch) -> None:
        monkeypatch.setattr(live, "RUNS_MAX", 2)
        kit.apply({"a": {}})
        for _ in range(3):
            kit.create()
        feed.note(WORKSPACE, None)
        clock.work(feed)
        assert sockets.take("all") == [{"room": "workspace", "reset": True}]
        clock.work(feed)
        assert sockets.take("all") == []

    def test_a_full_socket_is_told_to_read_anew(self, kit, feed, sockets, clock) -> None:
        kit.apply({"a": {}})
        sockets.full.add("all")
        feed.note(WORKSPACE, {key(kit.run()): 3})
        clock.work(feed)
        assert len(sockets.take("flow")) == 1
        clock.work(feed, CONGESTED_AGAIN)
        sockets.full.clear()
        clock.work(feed, CONGESTED_AGAIN)
        assert sockets.take("all") == [{"room": "workspace", "reset": True}]

    def test_nobody_there_costs_nothing(self, kit, sockets, clock) -> None:
        feed = ListFeed(lambda *_: pytest.fail("read"), sockets)
        feed.note(WORKSPACE, None)
        feed.look()
        assert feed.work(clock.now) is None


class TestDefinitions:
    @pytest.fixture
    def feed(self, read, sockets, clock) -> DefinitionFeed:
        feed = DefinitionFeed(read, sockets)
        feed.join("all", WORKSPACE, None)
        feed.join("flow", WORKSPACE, "flow")
        clock.work(feed)
        return feed

    @staticmethod
    def change(kit, feed, name: str = "flow", *, tell: bool = True, **nodes) -> None:
        kit.apply(nodes, name)
        if tell:
            feed.changed(WORKSPACE, [name])

    def test_a_change_is_told_as_it_is_now_in_its_rooms(self, kit, feed, sockets, clock) -> None:
        self.change(kit, feed, a={})
        self.change(kit, feed, "other", a={})
        self.change(kit, feed, a={}, b={})
        kit.call(catalog.set_paused, name="flow", paused=True, actor="test")
        clock.work(feed)
        (to_all,), (to_flow,) = sockets.take("all"), sockets.take("flow")
        assert {row["name"]: (row["version"], row["paused"]) for row in to_all["workflows"]} == {
            "flow": (2, True),
            "other": (1, False),
        }
        assert to_flow == {"room": "workflow:flow", "workflows": [to_all["workflows"][0]], "gone": []}
        assert to_flow["workflows"][0]["etag"] == '"2"'
        clock.work(feed)
        feed.look()
        clock.work(feed)
        assert sockets.take("all") == [], "nothing is told twice"

    def test_a_look_finds_what_no_notification_told(self, kit, feed, sockets, clock) -> None:
        self.change(kit, feed, a={}, tell=False)
        self.change(kit, feed, "other", a={}, tell=False)
        feed.look()
        clock.work(feed)
        assert [row["name"] for row in sockets.take("all")[0]["workflows"]] == ["flow", "other"]
        kit.call(catalog.set_tags, name="flow", tags=["x"], actor="test")
        kit.call(catalog.delete_workflow, name="other", actor="test")
        feed.look()
        clock.work(feed)
        (message,) = sockets.take("all")
        assert ([row["tags"] for row in message["workflows"]], message["gone"]) == ([["x"]], ["other"])
        assert [message["gone"] for message in sockets.take("flow")] == [[], []]

    def test_too_many_names_are_looked_for(self, kit, feed, sockets, clock) -> None:
        self.change(kit, feed, a={}, tell=False)
        feed.changed(WORKSPACE, None)
        clock.work(feed)
        assert [row["name"] for row in sockets.take("all")[0]["workflows"]] == ["flow"]

    def test_too_much_is_left_to_be_read(self, kit, feed, sockets, clock, monkeypatch) -> None:
        monkeypatch.setattr(changes, "NAMES_MAX", 1)
        for name in ("flow", "other"):
            self.change(kit, feed, name, a={})
        clock.work(feed)
        assert sockets.take("flow") == [{"room": "workflow:flow", "reset": True}]
        feed.look()
        clock.work(feed)
        assert sockets.take("flow") == []

    def test_a_full_socket_is_told_to_read_anew(self, kit, feed, sockets, clock) -> None:
        sockets.full.add("all")
        self.change(kit, feed, a={})
        clock.work(feed)
        assert len(sockets.take("flow")) == 1
        sockets.full.clear()
        clock.work(feed, CONGESTED_AGAIN)
        assert sockets.take("all") == [{"room": "workspace", "reset": True}]

    def test_a_read_that_fails_is_made_again(self, kit, sockets, clock, read) -> None:
        away = [False]

        def sometimes(workspace, work):
            if away[0]:
                raise OSError("away")
            return read(workspace, work)

        feed = DefinitionFeed(sometimes, sockets)
        feed.join("all", WORKSPACE, None)
        clock.work(feed)
        away[0] = True
        self.change(kit, feed, a={})
        with pytest.raises(OSError, match="away"):
            clock.work(feed)
        away[0] = False
        clock.work(feed)
        assert [row["name"] for row in sockets.take("all")[0]["workflows"]] == ["flow"]

    def test_runs_of_files_alone_and_other_workspaces_are_not_told(self, kit, feed, sockets, clock) -> None:
        self.change(kit, feed, a={}, tell=False)
        kit.sql("UPDATE workflow SET source = 'adhoc'")
        feed.changed(WORKSPACE, ["flow"])
        feed.changed(2, ["flow"])
        clock.work(feed)
        assert sockets.take("all") == [{"room": "workspace", "workflows": [], "gone": ["flow"]}]

    def test_who_left_is_told_nothing(self, kit, feed, sockets, clock) -> None:
        feed.drop("all")
        feed.leave("flow", WORKSPACE, "flow")
        self.change(kit, feed, a={})
        assert clock.work(feed) is None
        assert sockets.got["all"] == sockets.got["flow"] == []


class TestLogs:
    @pytest.fixture
    def feed(self, read, sockets) -> LogFeed:
        return LogFeed(read, sockets)

    @pytest.fixture
    def attempt(self, kit):
        kit.apply({"a": {}})
        run = kit.create()
        kit.starter.work()
        kit.sql(
            "INSERT INTO attempt (run_id, node_no, map_index, attempt, state, token_hash, executor, scheduler_id, queued_at) "
            "VALUES (:run, 0, -1, 1, 'running', '', 'stub', :me, now())",
            run=key(run),
            me=kit.identity.id,
        )
        return (key(run), 0, -1, 1)

    def write(self, kit, attempt, chunk_no: int, first: int, *texts: str) -> None:
        lines = [json.dumps([first + i, 1.5, "stdout", "info", line]) for i, line in enumerate(texts)]
        kit.sql(
            "INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data)"
            " VALUES (:run, :no, :map, :attempt, :chunk, :first, :lines, 0, :data)",
            **dict(zip(("run", "no", "map", "attempt"), attempt, strict=True)),
            chunk=chunk_no,
            first=first,
            lines=len(lines),
            data=zlib.compress("\n".join(lines).encode()),
        )

    def test_lines_come_as_they_are_stored_until_the_attempt_has_ended(
        self, kit, feed, sockets, clock, attempt
    ) -> None:
        feed.join("s", WORKSPACE, "logs:r/a/1", attempt, 0)
        self.write(kit, attempt, 0, 1, "one", "two")
        clock.work(feed)
        (message,) = sockets.take("s")
        assert [(line["seq"], line["text"]) for line in message["lines"]] == [(1, "one"), (2, "two")]
        assert message["lines"][0] | {"seq": 0} == {
            "seq": 0,
            "at": "1970-01-01T00:00:01.500000Z",
            "stream": "stdout",
            "level": "info",
            "text": "one",
        }
        assert (message["room"], message["next"], message["ended"]) == ("logs:r/a/1", 2, False)
        clock.work(feed, POLL)
        assert sockets.take("s") == []
        self.write(kit, attempt, 1, 3, "three")
        feed.note(WORKSPACE, {attempt[0]: 5})  # the run moved: no need to wait for the next look
        clock.work(feed, PACE)
        assert [line["text"] for line in sockets.take("s")[0]["lines"]] == ["three"]
        kit.sql("UPDATE attempt SET state = 'success', finished_at = now()")
        clock.work(feed, POLL)
        self.write(kit, attempt, 2, 4, "late")
        clock.work(feed, POLL)
        assert [line["text"] for line in sockets.take("s")[0]["lines"]] == ["late"]
        clock.work(feed, POLL)
        assert clock.work(feed, LATE) is None
        (last,) = sockets.take("s")
        assert (last["lines"], last["next"], last["ended"]) == ([], 4, True)

    def test_each_hears_of_the_room_by_the_name_it_gave(self, kit, feed, sockets, clock, attempt) -> None:
        """An attempt in a sub-run has an address in its own run and one in each run above."""
        names = ["logs:sub/a/1", "logs:top/loop.sub[0].a/1"]
        for sid, name in zip(("s", "t"), names, strict=True):
            feed.join(sid, WORKSPACE, name, attempt, 0)
            feed.join("both", WORKSPACE, name, attempt, 0)
        self.write(kit, attempt, 0, 1, "one")
        clock.work(feed)
        assert [[message["room"] for message in sockets.take(sid)] for sid in ("s", "t")] == [names[:1], names[1:]]
        assert [message["room"] for message in sockets.take("both")] == names
        feed.leave("both", names[0], attempt)
        self.write(kit, attempt, 1, 2, "two")
        clock.work(feed, POLL)
        assert [message["room"] for message in sockets.take("both")] == names[1:]

    def test_who_comes_back_gets_the_lines_after_its_last_one(self, kit, feed, sockets, clock, attempt) -> None:
        self.write(kit, attempt, 0, 1, "one", "two", "three")
        self.write(kit, attempt, 1, 4, "four")
        for after in range(5):
            feed.join(f"s{after}", WORKSPACE, "r", attempt, after)
        clock.work(feed)
        for after in range(4):
            (message,) = sockets.take(f"s{after}")
            assert [line["seq"] for line in message["lines"]] == list(range(after + 1, 5))
        assert sockets.take("s4") == []

    def test_a_long_log_comes_in_pieces(self, kit, feed, sockets, clock, attempt) -> None:
        for chunk in range(2 * live.CHUNKS_MAX + 1):
            self.write(kit, attempt, chunk, chunk + 1, f"line {chunk + 1}")
        feed.join("s", WORKSPACE, "r", attempt, 0)
        for _ in range(3):
            clock.work(feed, PACE)
        got = [[line["seq"] for line in message["lines"]] for message in sockets.take("s")]
        assert [len(piece) for piece in got] == [live.CHUNKS_MAX, live.CHUNKS_MAX, 1]
        assert [seq for piece in got for seq in piece] == list(range(1, 2 * live.CHUNKS_MAX + 2))

    def test_a_full_socket_waits_for_its_lines(self, kit, feed, sockets, clock, attempt) -> None:
        feed.join("s", WORKSPACE, "r", attempt, 0)
        sockets.full.add("s")
        self.write(kit, attempt, 0, 1, "one")
        clock.work(feed)
        sockets.full.clear()
        clock.work(feed, CONGESTED_AGAIN)
        assert [line["text"] for line in sockets.take("s")[0]["lines"]] == ["one"]

    def test_an_attempt_that_has_not_begun_is_waited_for(self, kit, feed, sockets, clock, attempt) -> None:
        later = (*attempt[:3], 2)
        feed.join("s", WORKSPACE, "r", later, 0)
        for _ in range(10):
            clock.work(feed, POLL)
        assert sockets.take("s") == []
        self.write(kit, later, 0, 1, "at last")
        clock.work(feed, POLL)
        assert [line["text"] for line in sockets.take("s")[0]["lines"]] == ["at last"]


class TestPump:
    class Feed:
        def __init__(self) -> None:
            self.calls: list[str] = []
            self.failures = 0
            self.worked = threading.Event()

        def note(self, workspace, moved) -> None:
            self.calls.append("note")

        def look(self) -> None:
            self.calls.append("look")

        def drop(self, sid) -> None:
            self.calls.append(f"drop {sid}")

        def work(self, now):
            if self.failures:
                self.failures -= 1
                raise ValueError("broken")
            self.worked.set()

    def test_what_is_posted_is_done_in_order_and_a_failure_leads_to_a_look(self, caplog) -> None:
        feed = self.Feed()
        feed.failures = 1
        pump = Pump([feed])
        pump.start()
        pump.post(lambda: feed.drop("a"))
        pump.post(lambda: feed.note(1, None))
        assert feed.worked.wait(10)
        feed.worked.clear()
        pump.post(lambda: 1 / 0)
        assert feed.worked.wait(10)
        pump.stop()
        assert [call for call in feed.calls if call != "look"] == ["drop a", "note"]
        assert "look" in feed.calls
        assert [record.message for record in caplog.records] == ["live_read_failed"] * 2


def test_a_run_that_is_created_is_announced(kit) -> None:
    kit.apply({"a": {}})
    with kit.engine.connect() as listener:
        driver = listener.connection.driver_connection
        driver.autocommit = True
        driver.execute("LISTEN agentflow_live")
        run = kit.create()
        (note,) = driver.notifies(timeout=10, stop_after=1)
        assert json.loads(note.payload) == {"ws": WORKSPACE, "runs": {run: 0}}
        driver.execute("UNLISTEN *")
        driver.autocommit = False
        listener.execute(text("SELECT 1"))


def said(kit, work) -> list[dict]:
    """What a listener hears of it."""
    url = libpq_url(kit.engine.url.render_as_string(hide_password=False))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN agentflow_live")
        work()
        return [json.loads(note.payload) for note in connection.notifies(timeout=0.2)]


def test_what_changes_a_definition_says_so_once(kit) -> None:
    def apply(**keys) -> None:
        spec = parse_document({"name": "flow", "nodes": {"a": {"type": "noop"}}, **keys})
        kit.call(catalog.apply_spec, spec, source="api", actor="test")

    told = [{"ws": WORKSPACE, "runs": {}, "workflows": ["flow"]}]
    assert said(kit, apply) == told
    assert said(kit, apply) == [], "the same again changes nothing"
    assert said(kit, lambda: apply(title="Flow")) == told, "no new version, but lists show it"
    assert said(kit, lambda: apply(concurrency=3)) == told
    assert said(kit, lambda: kit.call(catalog.set_tags, name="flow", tags=["x"], actor="test")) == told
    for paused in (True, False):
        act = partial(kit.call, catalog.set_paused, name="flow", paused=paused, actor="test")
        assert said(kit, act) == told
        assert said(kit, act) == []

    def publish() -> None:
        document = {"name": "flow", "nodes": {"a": {"type": "noop"}, "b": {"type": "noop"}}}
        kit.call(catalog.save_draft, name="flow", document=document, base_version=2, actor="test")
        kit.call(catalog.publish_draft, name="flow", actor="test")

    assert said(kit, publish) == told
    assert said(kit, lambda: kit.call(catalog.delete_workflow, name="flow", actor="test")) == [
        {"ws": WORKSPACE, "runs": "many", "workflows": ["flow"]}
    ]


def test_one_transaction_that_changes_many_names_them_or_not(kit) -> None:
    def change(count: int) -> None:
        kit.call(lambda connection: notify_workflows(connection, WORKSPACE, [f"w{n}" for n in range(count)]))

    assert said(kit, lambda: change(0)) == []
    assert len(said(kit, lambda: change(50))[0]["workflows"]) == 50
    assert said(kit, lambda: change(51)) == [{"ws": WORKSPACE, "runs": {}, "workflows": "many"}]


@pytest.mark.parametrize(
    "payload",
    ["", "x", "[]", "{}", '{"ws": 1}', '{"ws": 1, "runs": 3}', '{"ws": 1, "runs": {"x": 1}}', '{"ws": 1, "runs": {}, "workflows": 3}'],
)  # fmt: skip
def test_words_of_others_are_not_understood(payload) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        read_note(payload)
