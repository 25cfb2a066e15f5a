"""Settings of executors: how they are named, found, checked and carried to a new process."""

from __future__ import annotations

import json
import os

import pytest

from agentflow.errors import SettingsError
from agentflow.settings import load_settings
from executors.processes.confinement import Confinement
from executors.processes.nursery import remove_tree
from executors.subprocess.options import Options


def test_options_are_the_settings_of_an_executor_without_their_prefix(monkeypatch):
    monkeypatch.setenv("AGENTFLOW_SUBPROCESS_NICE", "5")
    monkeypatch.setenv("AGENTFLOW_SUBPROCESS_UNKNOWN", "text")
    options = load_settings().executor_options("subprocess")
    assert (options["nice"], options["max_processes"], options["unknown"]) == (5, 1024, "text")
    assert "executor" not in options


def test_an_executor_that_agentflow_does_not_know_gets_its_variables_as_text(monkeypatch):
    monkeypatch.setenv("AGENTFLOW_ACME_QUEUE_WIDTH", "3")
    monkeypatch.setenv("AGENTFLOW_ACME_OTHER", "not of acme-queue")
    assert load_settings().executor_options("acme-queue") == {"width": "3"}


@pytest.mark.parametrize(
    ("name", "value"), [("NICE", "20"), ("NICE", "-1"), ("MAX_OPEN_FILES", "many"), ("MEMORY", "-5")]
)
def test_a_wrong_number_names_its_setting(monkeypatch, name, value):
    monkeypatch.setenv(f"AGENTFLOW_SUBPROCESS_{name}", value)
    with pytest.raises(SettingsError, match=f"AGENTFLOW_SUBPROCESS_{name}"):
        load_settings()


def test_without_options_nothing_is_limited_but_core_files():
    assert Options.read({}).confinement(4) == Confinement(core_files=False, private_folders=True)


def test_only_root_can_run_nodes_as_another_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SettingsError, match="only root"):
        Options.read({"user": "daemon"})


@pytest.mark.parametrize("confinement", [Confinement(), Confinement(uid=7, gid=8, groups=(8, 9), nice=3, processes=5)])
def test_a_confinement_survives_its_way_to_the_zygote(confinement):
    assert Confinement.from_document(json.loads(json.dumps(confinement.as_document()))) == confinement


def test_what_nobody_may_enter_is_removed_and_links_are_not_followed(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o755)
    (kept / "file").touch()
    folder = tmp_path / "folder"
    (folder / "locked" / "inside").mkdir(parents=True)
    (folder / "locked" / "inside" / "file").touch()
    (folder / "link").symlink_to(kept)
    (folder / "locked" / "inside").chmod(0)
    (folder / "locked").chmod(0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # the way of everybody but root
    remove_tree(folder)
    assert not folder.exists()
    assert (kept / "file").exists()
    assert kept.stat().st_mode & 0o777 == 0o755
