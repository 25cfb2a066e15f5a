"""Fixtures of this folder: the engine run by hand, and a web server that answers well and badly."""

from __future__ import annotations

import gzip
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Handler(BaseHTTPRequestHandler):
    """Answers by path; records what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers), body, self.client_address[1]))
        name = self.path.partition("?")[0].strip("/").partition("/")[0]
        getattr(self, f"answer_{name.replace('-', '_')}")()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET  # noqa: N815 - http.server looks for these names

    def send(self, body=b"", status=200, **headers):
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        if status >= 200:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self):
        self.send(b'{"city": "Berlin"}', Content_Type="application/json", X_Test="a")

    def answer_gzip(self):
        self.send(gzip.compress(b"unpacked"), Content_Type="text/plain", Content_Encoding="gzip")

    def answer_text(self):
        self.send(b"hello", Content_Type="text/plain")

    def answer_cookie(self):
        self.send(b"", Set_Cookie="session=1; Path=/")

    def answer_error(self):
        self.send(b"the   database\nis down " + b"x" * 100_000, status=503)

    def answer_redirect(self):
        location = self.path.partition("?to=")[2]
        self.send(b"moved", status=302, Location=location)

    def answer_loop(self):
        self.send(b"", status=302, Location="/loop")

    def answer_no_location(self):
        self.send(b"", status=304)

    def answer_bad_json(self):
        self.send(b"<html>", Content_Type="application/json")

    def answer_endless(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.flood(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def answer_drip_body(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.drip()

    def answer_drip_headers(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.drip()

    def answer_silence(self):
        self.server.silent.set()
        self.server.gate.wait(20)
        self.close_connection = True

    def answer_short(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"only this")
        self.close_connection = True

    def answer_garbage(self):
        self.wfile.write(b"this is not HTTP\r\n\r\n")
        self.close_connection = True

    def drip(self):
        """One byte every 20 ms, until the client has gone or the test is over."""
        self.close_connection = True
        try:
            while not self.server.gate.wait(0.02):
                self.wfile.write(b"x")
                self.server.dripped += 1
        except OSError:
            pass

    def flood(self, piece):
        self.close_connection = True
        try:
            while not self.server.gate.is_set():
                self.wfile.write(piece)
        except OSError:
            pass

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, host="127.0.0.1"):
        super().__init__((host, 0), Handler)
        self.asked = []
        self.dripped = 0
        self.gate = threading.Event()  # set at the end of the test
        self.silent = threading.Event()  # set once somebody waits for an answer that does not come

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.server_port}/{path}"

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


@pytest.fixture
def start_web_server():
    """Call it to get a running `Server`; all end with the test."""
    running = []

    def start():
        server = Server()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def s3_process():
    """One S3 server a test process, with an empty bucket at first."""
    from tests.objects_kit import S3Server

    server = S3Server()
    server.start()
    server.make_bucket()
    yield server
    server.stop()


@pytest.fixture
def s3_server(s3_process, monkeypatch):
    """The S3 server, answering; the environment says where it is."""
    s3_process.start()
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_process
    s3_process.start()


@pytest.fixture
def s3_url(s3_server):
    """A place of the test's own on the S3 server."""
    return f"s3://bucket/{uuid.uuid4()}"


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    """An object store of each kind."""
    from agentflow.objects.store import ObjectStore

    if request.param == "s3":
        return ObjectStore(request.getfixturevalue("s3_url"))
    return ObjectStore((tmp_path / "objects").as_uri())


@pytest.fixture
def kit(shared_engine, tmp_path):
    """The engine, run by hand; after each test its books must be right, without a repair."""
    from tests.engine_kit import Kit

    kit = Kit(shared_engine, tmp_path)
    yield kit
    kit.close()
    kit.check_books()
    kit.forget()
