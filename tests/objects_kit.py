"""Object stores for tests: a folder, and an S3 server of this process that can be taken away and brought back."""

from __future__ import annotations

import socket
import warnings
from functools import cache
from typing import Any

BUCKET = "bucket"


@cache
def _moto() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's packages, at their import
        import moto.server
    return moto.server


class S3Server:
    """Answers on one port; its objects outlive a `stop`."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._server: Any = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        if self._server is None:
            self._server = _moto().ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
            self._server.start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def make_bucket(self) -> None:
        import urllib.request

        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
