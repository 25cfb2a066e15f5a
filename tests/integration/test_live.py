"""The live feed over real sockets: a gunicorn with gevent workers, Socket.IO clients, and what goes wrong between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import uuid
import zlib

import psycopg
import pytest
import socketio
import websocket

from agentflow import catalog
from agentflow.db import migrate
from agentflow.db.engine import make_engine
from agentflow.postgres import EmbeddedPostgres, libpq_url
from agentflow.postgres.config import UNSAFE_FAST
from agentflow.runs import set_note
from executors.stub import fail
from tests.engine_kit import Kit
from tests.live_kit import PATIENCE, Server, Watcher, until
from webserver.live.allowance import BURST
from webserver.live.runs import SHARED_FROM

#: The client library leaves sockets of failed connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

PROBLEM = "urn:agentflow:problem:"


def url_of(engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def server(shared_engine, tmp_path_factory):
    """One server for the tests that do not harm it."""
    server = Server(url_of(shared_engine), tmp_path_factory.mktemp("server"))
    server.ready()
    yield server
    server.close()


@pytest.fixture
def watch():
    """Connects clients, and closes them."""
    made: list[Watcher] = []

    def watch(server: Server, **options) -> Watcher:
        made.append(Watcher(server, **options))
        return made[-1]

    yield watch
    for each in made:
        each.close()


@pytest.fixture
def start(shared_engine, tmp_path):
    """Starts servers, and ends them."""
    made: list[Server] = []

    def start(**options) -> Server:
        made.append(Server(options.pop("url", None) or url_of(shared_engine), tmp_path, **options))
        made[-1].ready()
        return made[-1]

    yield start
    for each in made:
        each.close()


def flow(kit: Kit, width: int = 6) -> None:
    """A workflow with something of everything."""
    middle = {f"n{i}": {"needs": ["root"], "retries": 1} for i in range(width)}
    kit.apply({"root": {}, **middle, "mapped": {"for_each": "{{ [1, 2] }}"}, "end": {"needs": list(middle)}})


def truth(kit: Kit, run: str) -> dict[tuple[str, int | None], str]:
    return {(node["node"], node["map_index"]): node["state"] for node in kit.show(run)["nodes"]}


def agrees(kit: Kit, run: str, *watchers: Watcher) -> bool:
    """Whether they show what is true, as of the newest position."""
    seq = kit.row("SELECT event_seq FROM run WHERE id = :run", run=uuid.UUID(run)).event_seq
    return all(each.seq.get(run) == seq and each.nodes[run] == truth(kit, run) for each in watchers)


def refused(server: Server, **options) -> dict:
    """What a connection is refused with."""
    said: list[dict] = []
    client = socketio.Client(reconnection=False)
    client.on("connect_error", said.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(server.address, transports=["websocket"], wait_timeout=20, **options)
    client.shutdown()
    return said[0]["data"]


def _sockets_of(worker, port: int) -> int:
    """Connections of a worker's clients."""
    found = worker.net_connections(kind="tcp")
    return sum(each.status == "ESTABLISHED" and each.laddr.port == port for each in found)


def _shared(kit: Kit, run: str, server: Server) -> bool:
    """Change much; whether one worker has told what the other one read."""
    kit.clear(run)
    kit.finish(run)
    told = server.get("/metrics")[2].decode().splitlines()
    return any(float(line.split()[-1]) for line in told if 'live_shared_total{result="found"}' in line)


class TestStates:
    def test_two_clients_end_with_the_same_states_and_neither_ever_goes_back(self, kit, server, watch) -> None:
        flow(kit)
        run = kit.create()
        early = watch(server)
        early.join(f"run:{run}")
        kit.stub.script("n1", *[fail()] * 3)
        for _ in range(4):
            kit.starter.work()
            kit.tick()
        late = watch(server)
        late.join(f"run:{run}")
        kit.finish(run)
        kit.clear(run, "n1", downstream=True)
        kit.mark(run, "n2", "failed")
        kit.finish(run)
        until(lambda: agrees(kit, run, early, late), "agreement")
        assert early.nodes[run] == late.nodes[run]
        assert early.older == late.older == []

    def test_who_left_for_a_while_asks_from_its_position(self, kit, server, watch) -> None:
        flow(kit)
        run = kit.create()
        watcher = watch(server)
        watcher.join(f"run:{run}")
        until(lambda: run in watcher.seq, "the first message")
        watcher.sio.disconnect()
        kit.finish(run)
        watcher.sio.connect(server.address, auth={"token": "viewer ada"}, transports=["websocket"])
        until(lambda: agrees(kit, run, watcher), "what was missed")
        assert watcher.older == []
        first, second = (message for kind, message in watcher.messages if kind == "run")
        assert second["from"] == first["seq"]

    def test_lists_follow_and_come_back(self, kit, server, watch) -> None:
        flow(kit)
        watcher = watch(server)
        assert watcher.join("workspace")["ok"]
        assert watcher.join("workflow:flow")["ok"]
        one = kit.create()
        until(lambda: one in watcher.lists, "a new run")
        both = {"workspace", "workflow:flow"}
        until(lambda: both <= {message.get("room") for _, message in list(watcher.messages)}, "both rooms' messages")
        watcher.sio.disconnect()
        two = kit.create()
        kit.finish(one)
        watcher.sio.connect(server.address, auth={"token": "viewer ada"}, transports=["websocket"])
        until(lambda: watcher.lists.get(one, {}).get("state") == "success", "the end of the run it knew")
        until(lambda: watcher.lists.get(two, {}).get("state") == "success", "the run that was new")

    def test_changes_of_definitions_and_notes_arrive(self, kit, server, watch) -> None:
        kit.apply({"a": {}, "b": {}}, "told")
        run = kit.run("told")
        watcher, page = watch(server), watch(server)
        watcher.join("workspace")
        page.join("workflow:told")
        page.join(f"run:{run}")
        kit.call(catalog.set_paused, name="told", paused=True, actor="test")
        for each in (watcher, page):
            until(lambda each=each: each.workflows.get("told", {}).get("paused"), "the pause")
        kit.apply({"a": {}}, "told")
        for each in (watcher, page):
            until(lambda each=each: each.workflows["told"]["version"] > 1, "the new version")
        assert page.workflows["told"]["etag"] == f'"{page.workflows["told"]["version"]}"'
        kit.call(set_note, run, "seen", actor="test")
        until(lambda: page.run.get(run, {}).get("note") == "seen", "the note")
        until(lambda: watcher.lists.get(run, {}).get("note") == "seen", "the note in lists")
        assert page.older == []
        kit.call(catalog.delete_workflow, name="told", actor="test")
        for each in (watcher, page):
            until(lambda each=each: "told" not in each.workflows, "the end of the workflow")
        until(lambda: run not in page.run, "the end of its run")

    def test_a_crowd_hears_of_a_change(self, kit, server, bench) -> None:
        live = bench("live")  # its client is small enough to be many; the benchmark has 1,000 and looks at the time
        kit.apply({"a": {}, "b": {"needs": ["a"]}})
        run = kit.create()
        crowd = [live.Socket(server, f"run:{run}") for _ in range(100)]
        kit.starter.work()
        assert len(live.times_to(crowd, 0.0)) == len(crowd)
        for each in crowd:
            each.connection.close()
        kit.finish(run)

    def test_logs_arrive(self, kit, server, watch) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        watcher = watch(server)
        assert watcher.join(f"logs:{run}/a/1", after=0)["ok"]
        kit.sql(
            "INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data)"
            " VALUES (:run, 0, -1, 1, 0, 1, 1, 0, :data)",
            run=uuid.UUID(run),
            data=_packed([1, 0.5, "stdout", "info", "<script>"]),
        )
        until(lambda: watcher.ended, "the end of the log")
        assert [line["text"] for line in watcher.lines] == ["<script>"]


class TestRights:
    def test_nobody_and_no_member_are_refused_with_a_reason(self, server) -> None:
        assert refused(server)["type"] == PROBLEM + "unauthenticated"
        assert refused(server, auth={"token": "emperor ada"}, headers={"Cookie": "x=y"})["status"] == 401
        assert refused(server, auth={"token": "none ada"})["status"] == 403
        assert refused(server, auth={"token": "viewer ada\r\nX: y"})["status"] == 401
        assert refused(server, auth=["token"])["status"] == 401

    @pytest.mark.parametrize(
        ("origin", "allowed"),
        [(None, True), ("own", True), ("https://evil.example", False), ("null", False)],
    )
    def test_pages_of_other_sites_are_refused(self, server, origin, allowed) -> None:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
        headers |= {"Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        if origin is not None:
            headers["Origin"] = server.address if origin == "own" else origin
        status, _, _ = server.get("/socket.io/?EIO=4&transport=websocket", **headers)
        assert status == (101 if allowed else 400)

    def test_polling_is_not_offered(self, server) -> None:
        assert server.get("/socket.io/?EIO=4&transport=polling")[0] == 400

    def test_rooms_of_another_workspace_do_not_exist(self, kit, server, watch) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        stranger = watch(server, auth={"workspace": "other"})
        rooms = [f"run:{run}", f"logs:{run}/a/1", "workflow:flow", f"run:{uuid.uuid4()}", "run:x"]
        answers = [stranger.join(room) for room in rooms]
        assert [(answer["ok"], answer["error"]["status"]) for answer in answers] == [(False, 404)] * len(rooms)

    @pytest.mark.parametrize(
        ("message", "status"),
        [
            (None, 422),
            ("run:x", 422),
            ({}, 422),
            ({"room": "nowhere"}, 422),
            ({"room": "workspace", "more": 1}, 422),
            ({"room": "workspace", "after": -1}, 422),
            ({"room": "workspace", "after": "1"}, 422),
            ({"room": "workspace", "known": {"x": 1}}, 422),
            ({"room": "workspace", "known": {str(i): 1 for i in range(501)}}, 422),
            ({"room": "workflow:' OR 1=1 --"}, 404),
            ({"room": "logs:../../x/1"}, 422),
        ],
    )
    def test_what_cannot_be_read_is_answered_with_a_problem(self, server, watch, message, status) -> None:
        answer = watch(server).sio.call("join", message, timeout=20)
        assert (answer["ok"], answer["error"]["status"]) == (False, status)
        assert answer["error"]["type"].startswith(PROBLEM)

    def test_a_message_that_is_too_large_ends_the_socket(self, server, watch) -> None:
        watcher = watch(server)
        gone = threading.Event()
        watcher.sio.on("disconnect", gone.set)
        watcher.sio.emit("join", {"room": "x" * 100_000})
        assert gone.wait(PATIENCE)

    def test_a_socket_that_never_says_who_it_is_is_closed(self, server) -> None:
        url = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
        connection = websocket.create_connection(url, timeout=40)
        assert connection.recv().startswith("0{")
        with contextlib.suppress(websocket.WebSocketException):
            assert connection.recv() in {"1", ""}  # engine.io's word for the end, or the end itself
        connection.close()

    def test_rooms_are_counted(self, kit, server, watch) -> None:
        kit.apply({"a": {}})
        run = kit.run()
        watcher = watch(server)
        rooms = [f"logs:{run}/a/{number}" for number in range(1, 102)]
        answers = [watcher.sio.call("join", {"room": room}, timeout=20) for room in rooms]
        assert [answer["ok"] for answer in answers] == [True] * 100 + [False]
        assert answers[-1]["error"]["status"] == 429
        assert watcher.sio.call("leave", {"room": rooms[0]}, timeout=20)["ok"]
        assert watcher.sio.call("join", {"room": rooms[-1]}, timeout=20)["ok"]

    @pytest.mark.parametrize("event", ["leave", "nothing", "connect", "disconnect", "*"])
    def test_who_sends_too_much_is_told_then_closed_and_nobody_else_is(self, server, watch, event) -> None:
        loud, ada = watch(server, name="loud"), watch(server)
        answers: list[dict] = []
        for _ in range(BURST + 100):
            loud.sio.emit(event, {"room": "workspace"}, callback=lambda *answer: answers.extend(answer))
        loud.sio.emit("leave", {"room": "workspace"}, callback=answers.append)
        until(lambda: answers and answers[-1].get("error", {}).get("status") == 429, "a refusal")
        assert "send nothing for" in answers[-1]["error"]["hint"]
        assert not loud.closed

        def more() -> bool:
            with contextlib.suppress(socketio.exceptions.SocketIOError):
                for _ in range(50):
                    loud.sio.emit(event, {"room": "workspace"})
            return bool(loud.closed)

        until(more, "the end of the socket")
        assert loud.closed[0]["type"] == PROBLEM + "rate-limited"
        assert ada.sio.call("leave", {"room": "workspace"}, timeout=20)["ok"]

    def test_a_revoked_session_ends_its_sockets_and_no_others(self, kit, server, watch) -> None:
        kit.apply({"a": {}})
        run = kit.create()
        mallory, ada = watch(server, name="mallory"), watch(server)
        for each in (mallory, ada):
            each.join(f"run:{run}")
        server.revoked.write_text("mallory\n")
        until(lambda: mallory.closed, "the end of the socket")
        assert mallory.closed[0]["type"] == PROBLEM + "unauthenticated"
        until(lambda: not mallory.sio.connected, "the disconnect")
        kit.finish(run)
        until(lambda: ada.sees(run) == "success", "the end of the run")
        assert mallory.sees(run) == "queued"


class TestFailures:
    def test_without_its_listening_connection_nothing_is_missed(self, kit, server, watch) -> None:
        flow(kit)
        run = kit.create()
        watcher = watch(server)
        watcher.join(f"run:{run}")
        watcher.join("workspace")
        until(lambda: run in watcher.seq, "the first message")
        kit.call(catalog.set_tags, name="flow", tags=["before"], actor="test")
        until(lambda: "flow" in watcher.workflows, "a change of the workflow")
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentflow-live'"
        before = len(server.lines("listen_lost"))
        assert kit.rows(ended + " AND datname = current_database()")
        kit.call(catalog.set_tags, name="flow", tags=["after"], actor="test")
        kit.finish(run)
        until(lambda: agrees(kit, run, watcher), "agreement")
        until(lambda: len(server.lines("listen_lost")) > before, "the loss being noticed")
        until(lambda: watcher.workflows["flow"]["tags"] == ["after"], "the change of the workflow")
        assert watcher.older == []

    def test_a_killed_worker_is_replaced_and_clients_miss_nothing(self, kit, start, watch) -> None:
        flow(kit)
        server = start()
        run = kit.create()
        watchers = [watch(server) for _ in range(3)]
        for each in watchers:
            each.join(f"run:{run}")
        until(lambda: all(run in each.seq for each in watchers), "the first messages")
        (worker,) = server.workers()
        worker.kill()
        kit.finish(run)
        until(lambda: agrees(kit, run, *watchers), "agreement")
        assert [each.older for each in watchers] == [[], [], []]
        assert all(each.resumed for each in watchers)

    def test_two_workers_and_two_replicas_need_nothing_but_the_database(self, kit, start, watch) -> None:
        flow(kit)
        one, other = start(workers=2), start(workers=2)
        run = kit.create()
        watchers = [watch(server) for server in (one, other) for _ in range(6)]
        for each in watchers:
            assert each.join(f"run:{run}")["ok"]
        kit.finish(run)
        until(lambda: agrees(kit, run, *watchers), "agreement")
        assert [each.older for each in watchers] == [[]] * len(watchers)
        text = one.get("/metrics")[2].decode()  # of both workers together, whoever answers
        assert "agentflow_web_sockets 6.0" in text

    def test_two_workers_read_for_each_other_and_lose_nothing_with_redis(self, kit, start, watch, redis_server) -> None:
        server = start(workers=2, AGENTFLOW_REDIS_URL=redis_server.url)
        flow(kit, SHARED_FROM)
        run = kit.run()
        watchers: list[Watcher] = []

        def on_both() -> bool:
            if all(_sockets_of(worker, server.port) for worker in server.workers()):
                return True
            watchers.append(watch(server))
            return False

        until(on_both, "sockets on both workers")
        for each in watchers:
            each.join(f"run:{run}")
        until(lambda: all(run in each.seq for each in watchers), "the first messages")
        until(lambda: _shared(kit, run, server), "a change that one worker read for both")
        kit.clear(run)
        redis_server.freeze()
        kit.settle()
        redis_server.kill()
        kit.finish(run)
        until(lambda: agrees(kit, run, *watchers), "agreement without Redis")
        assert {line["logger"] for line in server.lines("redis_away")} == {"webserver.shared.link"}
        redis_server.start()
        kit.clear(run, "n1", downstream=True)
        kit.finish(run)
        until(lambda: agrees(kit, run, *watchers), "agreement with Redis")
        until(lambda: len(server.lines("redis_back")) == len(server.lines("redis_away")), "Redis is found again")
        assert 'agentflow_web_redis_up{use="shared"} 1.0' in server.get("/metrics")[2].decode()
        assert [each.older for each in watchers] == [[]] * len(watchers)

    def test_shutdown_does_not_wait_for_sockets(self, kit, start, watch) -> None:
        server = start()
        watchers = [watch(server) for _ in range(50)]
        for each in watchers:
            each.sio.eio.reconnection = False
        connection = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket", timeout=10
        )  # and one that says nothing
        seconds = server.stop()
        assert server.process.returncode == 0
        assert seconds < 9  # gunicorn would wait 10; 3 on a quiet machine: tests/benchmarks
        assert not server.lines("live_client_too_slow")
        with contextlib.suppress(OSError, websocket.WebSocketException):
            connection.close()

    def test_a_restart_of_postgres_is_survived(self, open_home, start, watch) -> None:
        postgres = EmbeddedPostgres(open_home, settings=UNSAFE_FAST)
        postgres.attach()
        try:
            migrate.upgrade(postgres.url)
            engine = make_engine(postgres.url)
            kit = Kit(engine, open_home)
            flow(kit)
            run = kit.create()
            server = start(url=postgres.url)
            watcher = watch(server)
            watcher.join(f"run:{run}")
            watcher.join("workspace")
            until(lambda: run in watcher.seq, "the first message")
            _restart(postgres)
            engine.dispose()
            kit.close()
            kit = Kit(engine, open_home)
            kit.finish(run)
            until(lambda: agrees(kit, run, watcher), "agreement", 30)
            until(lambda: watcher.lists.get(run, {}).get("state") == "success", "the list")
            assert watcher.older == []
            assert watcher.resumed == 0  # the socket lived on
            kit.close()
            engine.dispose()
        finally:
            postgres.detach()


def _restart(postgres: EmbeddedPostgres) -> None:
    """Kill the server, start it again, and wait until it answers."""
    pid = int((postgres.home / "postgres/data/postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    until(lambda: not _answers(postgres.url), "the end of the server")
    postgres.ensure_running()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(libpq_url(url), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _packed(*lines) -> bytes:
    return zlib.compress("\n".join(map(json.dumps, lines)).encode())
