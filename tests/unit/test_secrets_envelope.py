"""Envelope encryption: round trip, tampering, swapped rows, wrong keys, rotation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import SecretUnreadable
from agentflow.keys import KeyRing, SecretKey
from agentflow.secrets.envelope import Place, rewrap, seal, unseal

OLD, NEW, OTHER = (SecretKey(f"{word}-{word * 20}") for word in ("old", "new", "other"))
PLACE = Place("secret", 1, "TOKEN")
RING = KeyRing([OLD])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
places = st.builds(Place, st.sampled_from(["secret", "connection"]), st.integers(1, 2**31 - 1), texts)


@given(texts, places)
def test_what_was_sealed_is_read_again(value, place):
    sealed = seal(RING, place, value)
    assert sealed.key_id == OLD.id
    assert unseal(RING, place, sealed) == value


@given(texts)
def test_the_same_value_never_looks_the_same(value):
    first, second = seal(RING, PLACE, value), seal(RING, PLACE, value)
    assert first.ciphertext != second.ciphertext
    assert first.wrapped_key != second.wrapped_key


@given(st.text("abcdefgh", min_size=8))
def test_the_stored_parts_do_not_hold_the_value(value):
    sealed = seal(RING, PLACE, value)
    assert value.encode() not in sealed.ciphertext + sealed.wrapped_key
    assert value not in repr(sealed)


@given(texts, st.sampled_from(["ciphertext", "wrapped_key"]), st.data())
def test_any_changed_bit_is_noticed(value, part, data):
    sealed = seal(RING, PLACE, value)
    stored = bytearray(getattr(sealed, part))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SecretUnreadable, match="damaged"):
        unseal(RING, PLACE, replace(sealed, **{part: bytes(stored)}))


@given(texts, st.sampled_from(["ciphertext", "wrapped_key"]), st.data())
def test_a_cut_is_noticed(value, part, data):
    sealed = seal(RING, PLACE, value)
    stored = getattr(sealed, part)
    kept = data.draw(st.integers(0, len(stored) - 1))
    with pytest.raises(SecretUnreadable, match="damaged"):
        unseal(RING, PLACE, replace(sealed, **{part: stored[:kept]}))


@given(texts, places, places)
def test_a_row_copied_over_another_one_does_not_decrypt(value, place, other):
    sealed = seal(RING, place, value)
    if place == other:
        return
    with pytest.raises(SecretUnreadable, match="copied from another"):
        unseal(RING, other, sealed)
    with pytest.raises(SecretUnreadable, match="copied from another"):
        rewrap(RING, other, sealed)


@pytest.mark.parametrize("part", ["ciphertext", "wrapped_key"])
def test_a_part_of_another_row_or_an_earlier_value_does_not_fit(part):
    first, second = seal(RING, PLACE, "first"), seal(RING, PLACE, "second")
    with pytest.raises(SecretUnreadable, match="damaged"):
        unseal(RING, PLACE, replace(first, **{part: getattr(second, part)}))


def test_a_wrong_key_is_named_with_those_that_are_here_and_what_to_do():
    sealed = seal(RING, PLACE, "value")
    with pytest.raises(SecretUnreadable) as error:
        unseal(KeyRing([NEW, OTHER]), PLACE, sealed)
    assert error.value.message == (
        f"the secret `TOKEN` was encrypted with the key {OLD.id}, which is not here (here: {NEW.id}, {OTHER.id})"
    )
    assert "AGENTFLOW_SECRET_KEY=NEW,OLD" in error.value.hint


def test_a_key_under_a_false_id_does_not_decrypt():
    sealed = replace(seal(RING, PLACE, "value"), key_id=NEW.id)
    with pytest.raises(SecretUnreadable, match="damaged"):
        unseal(KeyRing([NEW]), PLACE, sealed)


@given(texts)
def test_after_rotation_the_new_key_alone_reads_it_and_the_old_one_does_not(value):
    sealed = seal(RING, PLACE, value)
    moved = rewrap(KeyRing([NEW, OLD]), PLACE, sealed)
    assert moved.key_id == NEW.id
    assert moved.ciphertext == sealed.ciphertext  # only the small key was touched
    assert unseal(KeyRing([NEW]), PLACE, moved) == value
    with pytest.raises(SecretUnreadable, match=NEW.id):
        unseal(RING, PLACE, moved)


def test_rotation_without_the_old_key_is_refused():
    with pytest.raises(SecretUnreadable, match=OLD.id):
        rewrap(KeyRing([NEW]), PLACE, seal(RING, PLACE, "value"))
