"""Code bundles: the files that a version's nodes run with, addressed by their content (SEMANTICS 6).

A bundle holds every file of the DAG folder that `walk_folder` gives, except workflow files in YAML and JSON: data and
templates travel with the code, and editing one YAML workflow makes no new version of the Python ones. Its hash covers
names, contents and executable bits, not the compressed bytes, so every machine computes the same one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agentflow.documents import looks_like_document
from agentflow.errors import BundleDamaged, BundleTooLarge
from agentflow.folder import FolderFile, walk_folder
from agentflow.ignore import IGNORE_FILE

MAX_BYTES = 20 * 2**20  #: All files of a bundle together, uncompressed.
MAX_FILES = 20_000
_HASH_LENGTH = 64  # hex digits

#: Extracts that this process has checked: a power loss may leave a folder with empty files behind.
_checked: set[Path] = set()


@dataclass(frozen=True, slots=True)
class Bundle:
    """The code of a folder at one moment."""

    hash: str  #: SHA-256 in hex, over names and contents.
    data: bytes  #: A gzipped tar.


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """What the hash knows of a file."""

    relative: str
    sha256: str
    executable: bool


def build_bundle(folder: Path) -> Bundle:
    """Read a folder into a bundle.

    Raises:
        BundleTooLarge: More than MAX_BYTES or MAX_FILES; the message names the largest files.
        OSError: A file cannot be read.
    """
    contents: dict[str, tuple[bytes, bool]] = {}
    files: list[FolderFile] = []
    total = 0  # bytes
    for file in walk_folder(folder):
        # Beyond the limit only names and sizes are needed, to say which files are the largest.
        content = file.path.read_bytes() if total + file.size <= MAX_BYTES else b""
        if not looks_like_document(file.relative, content):
            files.append(file)
            total += file.size
            contents[file.relative] = (content, file.executable)
    check_size(files)
    return Bundle(_hash_contents(contents), _pack(contents))


def check_bundle(data: bytes, bundle_hash: str) -> Bundle:
    """A bundle that came from elsewhere, as what it says it is.

    Raises:
        BundleDamaged: The data is not what the hash says, or names files outside its folder.
        BundleTooLarge: It unpacks to more than a bundle may hold.
    """
    contents = _unpack(data)
    files = [
        FolderFile(name, Path(name), len(content), executable, ()) for name, (content, executable) in contents.items()
    ]
    check_size(files)
    if _hash_contents(contents) != bundle_hash:
        raise BundleDamaged(f"bundle {bundle_hash[:12]!r} holds other files than its hash says")
    return Bundle(bundle_hash, data)


def manifest_hash(entries: Iterable[BundleEntry]) -> str:
    """The hash of a bundle with these files, in any order."""
    digest = hashlib.sha256(b"agentflow-bundle-1\n")
    for entry in sorted(entries, key=lambda item: item.relative):
        mode = b"x" if entry.executable else b"-"
        name = entry.relative.encode()
        digest.update(b"%s %s %d " % (mode, entry.sha256.encode(), len(name)) + name + b"\n")
    return digest.hexdigest()


def check_size(files: Iterable[FolderFile]) -> None:
    """Refuse files that are too many or too large for a bundle.

    Raises:
        BundleTooLarge: With the largest files.
    """
    listed = list(files)
    total = sum(file.size for file in listed)
    if total <= MAX_BYTES and len(listed) <= MAX_FILES:
        return
    largest = sorted(listed, key=lambda file: -file.size)[:3]
    names = ", ".join(f"{file.relative} ({file.size / 2**20:.1f} MB)" for file in largest)
    raise BundleTooLarge(
        f"the code folder has {len(listed)} files of {total / 2**20:.1f} MB together; "
        f"a bundle holds {MAX_FILES} files and {MAX_BYTES // 2**20} MB. Largest: {names}",
        hint=f"name what the nodes do not need in {IGNORE_FILE}, and keep large data elsewhere",
    )


def extract_bundle(data: bytes, bundle_hash: str, bundles_dir: Path) -> Path:
    """The read-only folder of a bundle, made if it is not there yet.

    Any number of processes may do this at once: each unpacks beside the target and renames, and the first rename wins.

    Raises:
        BundleDamaged: The data is not what the hash says, or names files outside its folder.
        OSError: `bundles_dir` cannot be written.
    """
    if len(bundle_hash) != _HASH_LENGTH or not set(bundle_hash) <= set("0123456789abcdef"):
        raise BundleDamaged(f"{bundle_hash[:80]!r} is not the hash of a bundle")
    target = bundles_dir / bundle_hash
    if _is_sound(target, bundle_hash):
        return target
    contents = _unpack(data)
    if _hash_contents(contents) != bundle_hash:
        raise BundleDamaged(
            f"bundle {bundle_hash[:12]} holds other files than its hash says", hint="apply the workflow again"
        )
    bundles_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{bundle_hash[:12]}-", dir=bundles_dir))
    try:
        _write(contents, temporary)
        _put_in_place(temporary, target, bundle_hash)
    finally:
        _remove(temporary)
    _checked.add(target)
    return target


def _put_in_place(temporary: Path, target: Path, bundle_hash: str) -> None:
    try:
        temporary.rename(target)
    except OSError:
        # Somebody was faster, or a damaged extract is in the way.
        if _is_sound(target, bundle_hash):
            return
        _remove(target)
        temporary.rename(target)
    target.chmod(0o555)


def _is_sound(target: Path, bundle_hash: str) -> bool:
    if not target.is_dir():
        return False
    if target not in _checked:
        if _hash_contents(_read_extract(target)) != bundle_hash:
            return False
        _checked.add(target)
    return True


def _read_extract(target: Path) -> dict[str, tuple[bytes, bool]]:
    contents: dict[str, tuple[bytes, bool]] = {}
    for folder, names, files in os.walk(target):
        names[:] = [name for name in names if name != "__pycache__"]
        for name in files:
            path = Path(folder, name)
            executable = bool(path.stat().st_mode & 0o100)
            contents[path.relative_to(target).as_posix()] = (path.read_bytes(), executable)
    return contents


def _hash_contents(contents: Mapping[str, tuple[bytes, bool]]) -> str:
    return manifest_hash(
        BundleEntry(name, hashlib.sha256(content).hexdigest(), executable)
        for name, (content, executable) in contents.items()
    )


def _pack(contents: Mapping[str, tuple[bytes, bool]]) -> bytes:
    """A tar whose bytes depend on the contents alone: sorted, no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(contents):
            content, executable = contents[name]
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o555 if executable else 0o444
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _unpack(data: bytes) -> dict[str, tuple[bytes, bool]]:
    """The files of an archive, nothing written yet. Bounded, whatever the archive claims."""
    contents: dict[str, tuple[bytes, bool]] = {}
    limit = MAX_BYTES + MAX_FILES * 2048  # contents, headers and padding
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise BundleDamaged("the bundle unpacks to more than a bundle may hold")
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for member in archive:
                plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
                stream_of_member = archive.extractfile(member) if plain else None
                if stream_of_member is None:
                    raise BundleDamaged(f"the bundle holds {member.name!r}, which is not a regular file")
                contents[_safe_name(member.name)] = (stream_of_member.read(), bool(member.mode & 0o100))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        raise BundleDamaged(f"the bundle cannot be unpacked: {error}") from error
    return contents


def _safe_name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or path.as_posix() != name:
        raise BundleDamaged(f"the bundle names {name!r}, which may lie outside its folder")
    return name


def _write(contents: Mapping[str, tuple[bytes, bool]], folder: Path) -> None:
    for name, (content, executable) in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o555 if executable else 0o444)
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o555)


def _remove(folder: Path) -> None:
    """Remove a read-only tree, if it is there."""
    if not folder.is_dir():
        return
    for path in [folder, *(item for item in folder.rglob("*") if item.is_dir() and not item.is_symlink())]:
        path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
