"""The secret key: where it comes from, what it refuses, several of them."""

from __future__ import annotations

import threading

import pytest

from agentflow import keys
from agentflow.errors import SettingsError

OLD, NEW = "old-" + "o" * 40, "new-" + "n" * 40


def test_without_any_the_message_says_how_to_make_one(tmp_path):
    with pytest.raises(SettingsError, match="AGENTFLOW_SECRET_KEY is not set") as error:
        keys.key_ring("", tmp_path)
    assert str(tmp_path / "secret_key") in error.value.message
    assert "openssl rand" in error.value.hint


def test_is_made_once_for_us_alone(tmp_path):
    keys.ensure_secret_key("", tmp_path)
    made = keys.key_ring("", tmp_path).ids
    keys.ensure_secret_key("", tmp_path)
    assert keys.key_ring("", tmp_path).ids == made
    assert keys.key_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_of_the_settings_wins_and_none_is_made(tmp_path):
    keys.ensure_secret_key(NEW, tmp_path)
    assert not keys.key_file(tmp_path).exists()
    keys.ensure_secret_key("", tmp_path)
    assert keys.key_ring(NEW, tmp_path).primary.text == NEW


def test_processes_that_make_it_at_once_agree_on_one(tmp_path):
    together = threading.Barrier(8)
    seen = []

    def make():
        together.wait(10)
        keys.ensure_secret_key("", tmp_path)
        seen.append(keys.key_ring("", tmp_path).primary.text)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 8
    assert len(set(seen)) == 1


@pytest.mark.parametrize("text", [f"{NEW},{OLD}", f"{NEW} {OLD}", f" {NEW} ,\n{OLD}\n", f"{NEW},{OLD},{NEW}"])
def test_the_first_of_several_encrypts_and_all_decrypt(text, tmp_path):
    ring = keys.key_ring(text, tmp_path)
    assert ring.primary.text == NEW
    assert ring.ids == [keys.SecretKey(NEW).id, keys.SecretKey(OLD).id]
    assert ring.find(keys.SecretKey(OLD).id) == keys.SecretKey(OLD)
    assert ring.find("nothing") is None


@pytest.mark.parametrize("text", ["short", f"{NEW},short", ",", " \n"])
def test_a_weak_or_empty_one_is_refused_without_being_told(text, tmp_path):
    with pytest.raises(SettingsError, match="AGENTFLOW_SECRET_KEY") as error:
        keys.key_ring(text, tmp_path)
    assert "short" not in error.value.message.replace("shortest", "")
    assert NEW not in error.value.message


def test_an_empty_file_is_refused_by_its_name(tmp_path):
    keys.key_file(tmp_path).write_text("\n")
    with pytest.raises(SettingsError, match="secret_key holds no key"):
        keys.key_ring("", tmp_path)


def test_a_new_one_goes_in_front_of_the_file_and_the_old_ones_stay(tmp_path):
    keys.ensure_secret_key("", tmp_path)
    (first,) = keys.key_ring("", tmp_path).ids
    keys.add_key("", tmp_path)
    second, kept = keys.key_ring("", tmp_path).ids
    assert kept == first != second
    assert keys.key_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_new_one_cannot_be_made_over_the_settings(tmp_path):
    with pytest.raises(SettingsError, match="is set") as error:
        keys.add_key(NEW, tmp_path)
    assert "AGENTFLOW_SECRET_KEY=NEW,OLD" in error.value.hint


def test_its_id_and_what_is_derived_for_each_purpose_tell_nothing_of_each_other():
    key = keys.SecretKey(NEW)
    assert key.id == "".join(f"{byte:02x}" for byte in key.derive("agentflow key id")[:4])
    assert len({key.derive("a"), key.derive("b"), keys.SecretKey(OLD).derive("a")}) == 3
    assert len(key.derive("a")) == 32
    assert NEW not in repr(key)
