"""Which workflow files a DAG folder has, and whether they changed, at the cost of a directory listing."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from agentflow.bundles import MAX_BYTES, BundleEntry, check_size, manifest_hash
from agentflow.documents import kind_of, looks_like_document, looks_like_workflow
from agentflow.errors import BundleTooLarge
from agentflow.folder import FolderFile, walk_folder
from agentflow.loader.process import ImportProblem
from agentflow.loader.sources import SourceFile

#: A file that was written so shortly before it was read may change again within one tick of the file system's clock.
_SETTLED = 2 * 10**9  # nanoseconds


@dataclass(frozen=True, slots=True)
class FolderScan:
    """A folder at one moment."""

    files: tuple[SourceFile, ...] = ()  #: Workflow files, sorted by path.
    bundle_hash: str | None = None  #: What `build_bundle` would give now; None when it would be too large.
    problems: tuple[ImportProblem, ...] = ()  #: Of the folder as a whole, and of files that cannot be read.


@dataclass(frozen=True, slots=True)
class _Facts:
    stamp: tuple[int, ...]
    read_at: int  #: Nanoseconds, wall clock, as file times are.
    sha256: str  #: Empty: not opened.
    is_workflow: bool
    is_document: bool

    @property
    def is_settled(self) -> bool:
        """Whether an equal stamp means an equal content."""
        return self.read_at - max(self.stamp[2:]) > _SETTLED


@dataclass(slots=True)
class FolderReader:
    """Reads a folder again and again; opens only the files that changed since the last time."""

    root: Path
    _known: dict[str, _Facts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self.root.absolute()  # stays the same folder when the working directory changes

    def scan(self) -> FolderScan:
        """Look at the folder. A folder that is missing or unreadable is a scan with a problem."""
        problems: list[ImportProblem] = []
        known: dict[str, _Facts] = {}
        present: list[FolderFile] = []
        total = 0  # bytes of code and data
        try:
            listed = list(walk_folder(self.root))
        except OSError as error:
            return FolderScan(problems=(ImportProblem(str(self.root), f"cannot be read: {error.strerror}"),))
        except BundleTooLarge as error:
            return FolderScan(problems=(ImportProblem(str(self.root), error.message, hint=error.hint),))
        for file in listed:
            try:
                known[file.relative] = facts = self._facts(file, data=total <= MAX_BYTES)
            except FileNotFoundError:  # gone since the listing
                continue
            except OSError as error:
                problems.append(ImportProblem(file.relative, f"cannot be read: {error.strerror}"))
                continue
            present.append(file)
            total += 0 if facts.is_document else file.size
        self._known = known
        try:
            bundle_hash = self._bundle_hash(present)
        except BundleTooLarge as error:
            bundle_hash = None
            problems.append(ImportProblem(".", error.message, hint=error.hint))
        files = tuple(self._source(file, bundle_hash) for file in present if known[file.relative].is_workflow)
        return FolderScan(files, bundle_hash, tuple(problems))

    def _facts(self, file: FolderFile, *, data: bool) -> _Facts:
        """What a file is. Without `data`, files that cannot be workflows are not opened: the folder is too large."""
        facts = self._known.get(file.relative)
        if facts is not None and facts.sha256 and facts.stamp == file.stamp and facts.is_settled:
            return facts
        read_at = time.time_ns()
        kind = kind_of(file.relative)
        if file.size > MAX_BYTES or (kind is None and not data):
            return _Facts(file.stamp, read_at, "", is_workflow=kind in ("yaml", "json"), is_document=False)
        content = file.path.read_bytes()
        return _Facts(
            stamp=file.stamp,
            read_at=read_at,
            sha256=hashlib.sha256(content).hexdigest(),
            is_workflow=looks_like_workflow(file.relative, content),
            is_document=looks_like_document(file.relative, content),
        )

    def _bundle_hash(self, files: list[FolderFile]) -> str:
        code = [file for file in files if not self._known[file.relative].is_document]
        check_size(code)
        return manifest_hash(
            BundleEntry(file.relative, self._known[file.relative].sha256, file.executable) for file in code
        )

    def _source(self, file: FolderFile, bundle_hash: str | None) -> SourceFile:
        facts = self._known[file.relative]
        kind = kind_of(file.relative) or ""
        # What a Python file draws depends on the modules and data that it reads, so on the whole bundle.
        scope = (bundle_hash or "") if kind == "python" else ""
        fingerprint = hashlib.sha256(f"{kind} {facts.sha256} {scope}".encode()).hexdigest()
        return SourceFile(file.path, file.relative, self.root, kind, fingerprint)


def scan_folder(folder: Path) -> list[SourceFile]:
    """The workflow files of a folder, once. A daemon keeps a `FolderReader`, which remembers."""
    return list(FolderReader(folder).scan().files)
