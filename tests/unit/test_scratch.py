"""Scratch folders of schedulers: used, removed, and swept when their scheduler was killed."""

from __future__ import annotations

import os
import tempfile

import pytest

from scheduler.scratch import Scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def scratch():
    made = []

    def make():
        made.append(Scratch())
        return made[-1]

    yield make
    for one in made:
        one.remove()


def left_behind(folder, age=3600):
    """As a killed scheduler leaves it: with its lock file, and nobody who holds it."""
    (folder / "local").mkdir(parents=True)
    (folder / "alive").touch()
    stamp = folder.stat().st_mtime - age
    os.utime(folder, (stamp, stamp))
    return folder


def test_everybody_may_pass_through_but_not_look(scratch):
    assert scratch().path.stat().st_mode & 0o777 == 0o711


def test_removing_takes_everything_with_it(scratch, temporary):
    one = scratch()
    (one.path / "local").mkdir()
    one.remove()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_scheduler_left_is_removed_at_the_next_start(scratch, temporary):
    left = left_behind(temporary / "agentflow-scheduler-dead")
    assert scratch().path.is_dir()
    assert not left.exists()


def test_the_folder_of_a_living_scheduler_stays(scratch):
    living = scratch()
    os.utime(living.path, (0, 0))
    scratch()
    assert living.path.is_dir()


@pytest.mark.parametrize("name", ["agentflow-tests-x", "other"])
def test_other_folders_stay(scratch, temporary, name):
    left_behind(temporary / name)
    scratch()
    assert (temporary / name).is_dir()


def test_a_folder_that_is_just_being_made_stays(scratch, temporary):
    new = left_behind(temporary / "agentflow-scheduler-new", age=0)
    scratch()
    assert new.is_dir()


def test_a_link_is_not_followed(scratch, temporary):
    target = left_behind(temporary / "target")
    (temporary / "agentflow-scheduler-link").symlink_to(target)
    scratch()
    assert (target / "local").is_dir()
