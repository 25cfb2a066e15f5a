"""Files or S3, over obstore."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import LocalStore, S3Store

from agentflow.errors import AgentFlowError, SettingsError

if TYPE_CHECKING:
    from agentflow.settings import Settings

_PROBES: Final = "probes"
_CONNECT: Final = timedelta(seconds=5)
_REQUEST: Final = timedelta(seconds=60)
_FIRST_PAUSE: Final = timedelta(milliseconds=100)
_BATCH: Final = 1000  # objects listed and deleted at once


class ObjectStoreUnreachable(AgentFlowError):
    """The object store cannot be reached."""

    word = "object-store-unreachable"
    exit_code = 3


class ObjectMissing(AgentFlowError):
    """An object is not in the store."""

    word = "object-missing"


class ObjectStore:
    """Objects by name. Threads may share it; every call blocks, and releases the interpreter while it waits."""

    def __init__(self, url: str) -> None:
        """Make nothing and ask nobody yet.

        Args:
            url: `file:///folder`, or `s3://bucket/prefix` with endpoint and credentials in `AWS_*`.

        Raises:
            SettingsError: It is neither.
        """
        self.address: Final = url
        self._folder = _folder(url)
        self._store = LocalStore() if self._folder is not None else _s3(url)
        self._opened = False

    def put(self, name: str, data: bytes) -> None:
        """Store an object, whole or not at all; on disk when it returns.

        Raises:
            ObjectStoreUnreachable: It could not be stored.
        """
        with self._told("store", name, missing_is_unreachable=True):
            obstore.put(self._open(), name, data)
            if self._folder is not None:
                _to_disk(self._folder / name)

    def get(self, name: str) -> bytes:
        """An object's content.

        Raises:
            ObjectMissing: There is none of this name.
            ObjectStoreUnreachable: Nobody can say.
        """
        with self._told("read", name):
            return bytes(obstore.get(self._open(), name).bytes())

    def download(self, name: str, path: Path) -> None:
        """Write an object's content to a file. Raises as `get`."""
        with self._told("read", name), path.open("wb") as file:
            for part in obstore.get(self._open(), name).stream():
                file.write(part)

    def names(self, prefix: str) -> Iterator[list[str]]:
        """All names below a prefix of whole parts, some at a time.

        Raises:
            ObjectStoreUnreachable: They cannot be listed.
        """
        with self._told("list", prefix):
            for batch in obstore.list(self._open(), prefix, chunk_size=_BATCH):
                yield [item["path"] for item in batch]

    def delete_below(self, prefix: str) -> int:
        """Delete all objects below a prefix; how many there were.

        Raises:
            ObjectStoreUnreachable: Some may be left; doing it again is safe.
        """
        if self._folder is not None:
            return self._delete_folder(self._folder / prefix)
        count = 0
        for batch in self.names(prefix):
            with self._told("delete", prefix):
                obstore.delete(self._open(), batch)
            count += len(batch)
        return count

    def probe(self) -> None:
        """Write, read and delete an object.

        Raises:
            ObjectStoreUnreachable, ObjectMissing: One of that failed.
        """
        prefix = f"{_PROBES}/{uuid.uuid4()}"
        self.put(f"{prefix}/probe", b"agentflow")
        if self.get(f"{prefix}/probe") != b"agentflow":
            raise ObjectStoreUnreachable(f"{self.address} gives back other bytes than it was given.")
        self.delete_below(prefix)

    def _open(self) -> LocalStore | S3Store:
        if not self._opened and self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store = LocalStore(self._folder, automatic_cleanup=True)
        self._opened = True
        return self._store

    def _delete_folder(self, folder: Path) -> int:
        with self._told("delete", str(folder)):
            count = sum(path.is_file() for path in folder.rglob("*"))
            shutil.rmtree(folder, ignore_errors=not folder.exists())
        return count

    @contextmanager
    def _told(self, what: str, name: str, *, missing_is_unreachable: bool = False) -> Iterator[None]:
        try:
            yield
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            if missing_is_unreachable:
                raise self._unreachable(what, name, error) from error
            hint = "several machines need one store: AGENTFLOW_OBJECT_STORE_URL" if self._folder is not None else None
            raise ObjectMissing(f"There is no object {name} in {self.address}.", hint=hint) from error
        except (exceptions.BaseError, OSError) as error:
            raise self._unreachable(what, name, error) from error

    def _unreachable(self, what: str, name: str, error: Exception) -> ObjectStoreUnreachable:
        return ObjectStoreUnreachable(
            f"object store {self.address} not reachable: cannot {what} {name}: {_reason(error)}",
            hint="`agentflow doctor` tries the store; see AGENTFLOW_OBJECT_STORE_URL and AWS_*",
        )


def open_store(settings: Settings) -> ObjectStore:
    """The store of the settings; nothing is asked of it yet."""
    return ObjectStore(settings.object_store)


def _folder(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Path(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        return None
    raise SettingsError(f"AGENTFLOW_OBJECT_STORE_URL: {url!r} must be file:///folder or s3://bucket/prefix")


def _s3(url: str) -> S3Store:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    try:
        return S3Store.from_url(
            url,
            # Our callers wait and try again by themselves, with a word in the log.
            retry_config={
                "max_retries": 2,
                "retry_timeout": _CONNECT,
                "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": timedelta(seconds=1), "base": 2},
            },
            client_options={
                "connect_timeout": _CONNECT,
                "timeout": _REQUEST,
                "allow_http": endpoint.startswith("http://"),
            },
            config={"endpoint": endpoint} if endpoint else {},
        )
    except exceptions.BaseError as error:
        raise SettingsError(f"AGENTFLOW_OBJECT_STORE_URL: {_reason(error)}") from error


def _to_disk(path: Path) -> None:
    """Make a file and its place in the folder survive a power cut: the row that names it will."""
    for each in (path, path.parent, path.parent.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: Exception) -> str:
    """The first lines of an error of the store: the rest is its debug form."""
    return " ".join(str(error).split("\n\nDebug source:")[0].split())[:500]
