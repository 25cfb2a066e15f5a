"""One suite for every kind of object store."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from agentflow.cli.checks import check_objects
from agentflow.errors import SettingsError
from agentflow.ids import uuid7
from agentflow.objects.names import month_of, output_name, run_prefix
from agentflow.objects.store import ObjectMissing, ObjectStore, ObjectStoreUnreachable, open_store
from agentflow.settings import Settings, load_settings

LARGE = bytes(range(256)) * 2**16  # 16 MiB


def all_names(store, prefix):
    return sorted(name for batch in store.names(prefix) for name in batch)


def test_what_was_put_is_got_back(store, tmp_path):
    store.put("runs/2026_11/r/0.-1.1.json", LARGE)
    assert store.get("runs/2026_11/r/0.-1.1.json") == LARGE
    store.download("runs/2026_11/r/0.-1.1.json", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE
    store.put("runs/2026_11/r/0.-1.1.json", b"")
    assert store.get("runs/2026_11/r/0.-1.1.json") == b""


def test_a_prefix_is_of_whole_parts_and_is_deleted_as_a_whole(store):
    for name in ("runs/a/1.json", "runs/a/deep/er/2.json", "runs/ab/3.json"):
        store.put(name, b"x")
    assert all_names(store, "runs/a") == ["runs/a/1.json", "runs/a/deep/er/2.json"]
    assert store.delete_below("runs/a") == 2
    assert store.delete_below("runs/a") == 0
    assert all_names(store, "runs") == ["runs/ab/3.json"]


def test_more_objects_than_one_page_are_deleted(store):
    for number in range(1005):
        store.put(f"runs/many/{number}", b"")
    assert store.delete_below("runs/many") == 1005
    assert all_names(store, "runs/many") == []


def test_a_missing_object_is_told_by_name(store):
    with pytest.raises(ObjectMissing, match=r"There is no object runs/none in (file|s3)://"):
        store.get("runs/none")


def test_the_probe_leaves_nothing_behind(store):
    store.probe()
    assert all_names(store, "probes") == []


def test_a_server_that_is_away_is_told_and_may_come_back(s3_server, s3_url):
    store = ObjectStore(s3_url)
    s3_server.stop()
    with pytest.raises(ObjectStoreUnreachable, match=r"object store s3://bucket/.* not reachable: cannot store a"):
        store.put("a", b"1")
    with pytest.raises(ObjectStoreUnreachable):
        store.get("a")
    s3_server.start()
    store.put("a", b"1")
    assert store.get("a") == b"1"


def test_a_bucket_that_does_not_exist_is_a_store_that_is_not_reachable(s3_server):
    with pytest.raises(ObjectStoreUnreachable, match=r"cannot store a: .*no-such-bucket"):
        ObjectStore("s3://no-such-bucket/x").put("a", b"1")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ObjectStoreUnreachable, match=r"not reachable: cannot store a: .*file"):
        ObjectStore((tmp_path / "file" / "store").as_uri()).put("a", b"1")


@pytest.mark.parametrize("url", ["http://x/y", "s3:///x", "file://host/x", "objects"])
def test_other_addresses_are_refused(url):
    with pytest.raises(SettingsError, match="file:///folder or s3://bucket/prefix"):
        load_settings(object_store_url=url) and ObjectStore(url)


def test_by_default_objects_are_files_of_the_home_that_nobody_else_reads(tmp_path):
    store = open_store(Settings(home=tmp_path / "home with space"))
    store.put("runs/x", b"1")
    assert (tmp_path / "home with space" / "objects" / "runs" / "x").read_bytes() == b"1"
    assert Path(tmp_path / "home with space" / "objects").stat().st_mode & 0o777 == 0o700


def test_names_hold_month_run_node_index_and_attempt():
    run_id = uuid.UUID("019ada00-0000-7000-8000-000000000000")
    assert month_of(run_id) == "2025_12"
    assert output_name(run_id, 3, -1, 2) == f"runs/2025_12/{run_id}/3.-1.2.json"
    assert run_prefix(uuid7()).startswith("runs/20")


def test_the_doctor_tries_the_store(store, s3_server, tmp_path):
    settings = Settings(home=tmp_path, object_store_url=store.address)
    assert check_objects(settings).status == "ok"
    if store.address.startswith("s3://"):
        s3_server.stop()
        found = check_objects(settings)
        assert found.status == "failed"
        assert "AWS_*" in found.hint
        s3_server.start()


def test_the_doctor_warns_of_a_folder_that_other_machines_do_not_have(tmp_path):
    settings = Settings(home=tmp_path, database_url="postgresql://x@elsewhere/db")
    found = check_objects(settings)
    assert (found.status, "several need AGENTFLOW_OBJECT_STORE_URL" in found.hint) == ("warning", True)
