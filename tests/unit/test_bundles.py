from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow import bundles
from agentflow.bundles import build_bundle, extract_bundle
from agentflow.errors import BundleDamaged, BundleTooLarge
from agentflow.folder import walk_folder
from agentflow.ignore import parse_ignore


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def names_in(folder: Path) -> list[str]:
    return [file.relative for file in walk_folder(folder)]


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """Each test checks extracts as a process that has seen none."""
    monkeypatch.setattr(bundles, "_checked", set())


@pytest.fixture
def dags(tmp_path):
    return write(
        tmp_path / "dags",
        {
            "etl.py": "print(1)\n",
            "lib/tools.py": "x = 1\n",
            "data/cities.csv": "a,b\n",
            "data/rows.json": '{"rows": []}',
            "report.yaml": "name: report\nnodes: {}\n",
            "flow.json": '{"name": "x", "nodes": {}}',
            ".secret": "no",
            ".git/config": "no",
            "__pycache__/etl.cpython-311.pyc": b"\0",
        },
    )


def test_a_bundle_holds_code_and_data_but_no_workflow_documents_and_nothing_hidden(dags, tmp_path):
    bundle = build_bundle(dags)
    folder = extract_bundle(bundle.data, bundle.hash, tmp_path / "bundles")
    assert folder == tmp_path / "bundles" / bundle.hash
    assert names_in(folder) == ["data/cities.csv", "data/rows.json", "etl.py", "lib/tools.py"]
    assert (folder / "etl.py").read_text() == "print(1)\n"


def test_the_same_files_give_the_same_bytes_wherever_and_whenever_they_were_written(dags, tmp_path):
    first = build_bundle(dags)
    again = tmp_path / "elsewhere"
    for path in reversed([path for path in sorted(dags.rglob("*")) if path.is_file()]):
        write(again, {path.relative_to(dags).as_posix(): path.read_bytes()})
    os.utime(again / "etl.py", (1, 1))
    (again / "etl.py").chmod(0o600)
    assert build_bundle(again) == first


@pytest.mark.parametrize(
    ("change", "changes_hash"),
    [
        (lambda root: (root / "etl.py").write_text("print(2)\n"), True),
        (lambda root: (root / "data/cities.csv").write_text("a,c\n"), True),
        (lambda root: (root / "etl.py").rename(root / "etl2.py"), True),
        (lambda root: (root / "etl.py").chmod(0o755), True),
        (lambda root: (root / "new.py").write_text(""), True),
        (lambda root: (root / "report.yaml").write_text("name: other\nnodes: {}\n"), False),
        (lambda root: (root / ".secret").write_text("changed"), False),
    ],
)
def test_the_hash_changes_exactly_when_the_code_does(dags, change, changes_hash):
    before = build_bundle(dags).hash
    change(dags)
    assert (build_bundle(dags).hash != before) is changes_hash


def test_an_extract_is_read_only(dags, tmp_path):
    (dags / "etl.py").chmod(0o755)
    bundle = build_bundle(dags)
    folder = extract_bundle(bundle.data, bundle.hash, tmp_path / "bundles")
    modes = {path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert modes["etl.py"] == 0o555
    assert modes["lib/tools.py"] == 0o444
    assert modes["lib"] == folder.stat().st_mode & 0o777 == 0o555


def test_many_extractions_at_once_give_one_whole_folder(dags, tmp_path):
    bundle = build_bundle(dags)
    target = tmp_path / "bundles"
    start = threading.Barrier(8)
    results: list[Path | Exception] = []

    def extract():
        start.wait(10)
        try:
            results.append(extract_bundle(bundle.data, bundle.hash, target))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            results.append(error)

    threads = [threading.Thread(target=extract) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [target / bundle.hash] * 8
    assert [path.name for path in target.iterdir()] == [bundle.hash]


def test_a_damaged_extract_is_made_again(dags, tmp_path, monkeypatch):
    bundle = build_bundle(dags)
    folder = extract_bundle(bundle.data, bundle.hash, tmp_path / "bundles")
    (folder / "etl.py").chmod(0o644)
    (folder / "etl.py").write_text("")
    monkeypatch.setattr(bundles, "_checked", set())
    assert extract_bundle(bundle.data, bundle.hash, tmp_path / "bundles") == folder
    assert (folder / "etl.py").read_text() == "print(1)\n"


def archive_of(*members: tuple[str, str, bytes]) -> bytes:
    """A gzipped tar with members (kind, name, content or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind, name, content in members:
            member = tarfile.TarInfo(name)
            member.type = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}.get(
                kind, tarfile.FIFOTYPE
            )
            if kind == "file":
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content.decode()
                archive.addfile(member)
    return gzip.compress(buffer.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        archive_of(("file", "../evil.py", b"x")),
        archive_of(("file", "/evil.py", b"x")),
        archive_of(("file", "a/../../evil.py", b"x")),
        archive_of(("link", "evil", b"/etc/passwd")),
        archive_of(("hard", "evil", b"../../x")),
        archive_of(("fifo", "evil", b"")),
        archive_of(("file", "other.py", b"x")),
        b"not a gzip",
        gzip.compress(b"not a tar"),
        gzip.compress(b"x")[:-4],
        b"",
    ],
    # The bytes hold the time of their making, so they cannot name the cases: xdist's workers must agree on the names.
    ids=[
        "parent folder",
        "absolute path",
        "parent folder within",
        "link",
        "hard link",
        "fifo",
        "other content",
        "not a gzip",
        "not a tar",
        "cut off",
        "empty",
    ],
)
def test_what_is_not_the_bundle_of_the_hash_writes_nothing(data, tmp_path):
    with pytest.raises(BundleDamaged):
        extract_bundle(data, "0" * 64, tmp_path / "bundles")
    assert list(tmp_path.rglob("*")) == []


def test_a_compression_bomb_is_refused_without_being_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_BYTES", 1000)
    monkeypatch.setattr(bundles, "MAX_FILES", 1)
    with pytest.raises(BundleDamaged, match="more than a bundle may hold"):
        extract_bundle(archive_of(("file", "a", b"0" * 100_000)), "0" * 64, tmp_path)


@pytest.mark.parametrize("text", ["", "../x", "A" * 64, "g" * 64, "0" * 63])
def test_a_hash_that_is_none_never_becomes_a_path(text, tmp_path):
    with pytest.raises(BundleDamaged, match="not the hash"):
        extract_bundle(b"", text, tmp_path)


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(dags, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_BYTES", 2000)
    write(dags, {"data/big.bin": b"0" * 3000})
    with pytest.raises(BundleTooLarge, match=r"Largest: data/big\.bin"):
        build_bundle(dags)
    (dags / ".agentflowignore").write_text("*.bin\n")
    assert build_bundle(dags).hash


def test_a_folder_with_too_many_files_stops_the_walk(dags, monkeypatch):
    monkeypatch.setattr("agentflow.folder.MAX_FILES", 3)
    with pytest.raises(BundleTooLarge, match="more than 3 files"):
        build_bundle(dags)
    monkeypatch.undo()
    monkeypatch.setattr(bundles, "MAX_FILES", 2)
    with pytest.raises(BundleTooLarge, match="4 files"):
        build_bundle(dags)


def test_links_are_followed_and_loops_end(tmp_path):
    outside = write(tmp_path / "outside", {"shared.py": "x = 1\n"})
    root = write(tmp_path / "dags", {"a/one.py": ""})
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "shared").symlink_to(outside)
    (root / "file.py").symlink_to(outside / "shared.py")
    (root / "0_link_to_a").symlink_to(root / "a")
    (root / "broken.py").symlink_to(root / "missing.py")
    os.mkfifo(root / "pipe.py")
    assert names_in(root) == ["a/one.py", "file.py", "shared/shared.py"]


@pytest.mark.parametrize(
    ("lines", "path", "folder", "ignored"),
    [
        (["*.csv"], "data/a.csv", False, True),
        (["*.csv"], "a.csv.py", False, False),
        (["data/"], "data", True, True),
        (["data/"], "data", False, False),
        (["data/"], "lib/data", True, True),
        (["/data"], "lib/data", True, False),
        (["lib/*.py"], "lib/a.py", False, True),
        (["lib/*.py"], "lib/sub/a.py", False, False),
        (["lib/**/*.py"], "lib/sub/sub/a.py", False, True),
        (["lib/**/*.py"], "lib/a.py", False, True),
        (["**/tmp"], "a/b/tmp", True, True),
        (["logs/**"], "logs/a/b", False, True),
        (["a?c"], "abc", False, True),
        (["a?c"], "a/c", False, False),
        (["[ab].py"], "b.py", False, True),
        (["[!ab].py"], "b.py", False, False),
        (["[!ab].py"], "c.py", False, True),
        (["*.py", "!keep.py"], "keep.py", False, False),
        (["!keep.py", "*.py"], "keep.py", False, True),
        (["# a.py", "", "  "], "a.py", False, False),
        (["a.py  "], "a.py", False, True),
        (["\\#a"], "#a", False, True),
        (["a+b(1).py"], "a+b(1).py", False, True),
        (["[z-a]"], "x", False, False),
    ],
)
def test_ignore_patterns_are_gitignores(lines, path, folder, ignored):
    assert parse_ignore(lines).ignores(path, folder=folder) is ignored


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_ignore_line_breaks_the_walk(line, path):
    assert parse_ignore([line]).ignores(path, folder=False) in (True, False)


def test_an_ignored_folder_is_not_looked_into(dags):
    (dags / ".agentflowignore").write_text("lib/\n!lib/tools.py\n")
    assert "lib/tools.py" not in names_in(dags)
