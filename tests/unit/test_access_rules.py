"""Passwords, tokens, lock-out and roles: the rules by themselves."""

from __future__ import annotations

import runpy
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.access import Role, api_keys, passwords, throttle
from agentflow.access.accounts import read_email, read_name
from agentflow.access.rights import Standing, role_of
from agentflow.access.sessions import GRACE, judge
from agentflow.access.tokens import is_ours, new_salt, random_token, read_token, token_hash, write_token
from agentflow.db.models import accounts
from agentflow.errors import UsageError
from agentflow.keys import KeyRing, SecretKey

NEW, OLD = SecretKey("n" * 40), SecretKey("o" * 40)
RING = KeyRing([NEW, OLD])
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SESSION, SALT = uuid.uuid4(), new_salt()


# -- passwords ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "12 to 1024"),
        ("x" * 1025, "12 to 1024"),
        ("aaaaaaaaaaaab", "repeats"),
        ("ada.lovelace@example.org", "email address"),
        ("Ada.Lovelace", "email address"),
    ],
)
def test_passwords_that_are_easily_guessed_are_refused(password, reason):
    with pytest.raises(UsageError, match=reason):
        passwords.check_password(password, email="ada.lovelace@example.org")


@pytest.mark.parametrize("password", ["correct horse battery", "пароль из слов", "🐎🔋🧷🍎 and more!", "x y z 1 2 3 4"])
def test_long_passwords_of_any_characters_are_taken(password):
    passwords.check_password(password, email="ada@example.org")
    stored = passwords.hash_password(password)
    assert stored.startswith("$argon2id$")
    assert passwords.verify_password(stored, password)
    assert not passwords.verify_password(stored, password + " ")


def test_one_spelling_of_what_keyboards_spell_differently():
    assert passwords.verify_password(passwords.hash_password("\u00c5ngstr\u00f6m units"), "A\u030angstro\u0308m units")


def test_nobody_and_a_user_without_a_password_cost_one_check_as_everybody_does(monkeypatch):
    hasher = passwords._hasher(passwords.COST)
    checks = []
    verify = type(hasher).verify
    monkeypatch.setattr(type(hasher), "verify", lambda self, *given: checks.append(1) or verify(self, *given))
    stored = passwords.hash_password("correct horse battery")
    for given_hash, right in ((stored, True), (stored, False), (None, False), ("not a hash", False)):
        checks.clear()
        word = "correct horse battery" if right else "the password of nobody"
        assert passwords.verify_password(given_hash, word) is right
        assert checks == [1]


def test_hashes_of_another_cost_are_renewed(monkeypatch):
    stored = passwords.hash_password("correct horse battery")
    assert not passwords.is_outdated(stored)
    monkeypatch.setattr(passwords, "COST", passwords.Cost(memory_kib=16, passes=1, lanes=1))
    assert passwords.is_outdated(stored)
    assert passwords.verify_password(stored, "correct horse battery"), "until then they are still good"


def test_outside_of_tests_a_guess_costs_what_owasp_asks_for():
    real = runpy.run_path(passwords.__file__)["COST"]
    assert real.memory_kib >= 46 * 1024
    assert real.passes >= 1


# -- names -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given_", "stored"), [(" Ada@Example.ORG ", "ada@example.org"), ("x+y@localhost", "x+y@localhost")]
)
def test_addresses_have_one_spelling(given_, stored):
    assert read_email(given_) == stored


@pytest.mark.parametrize(
    "given_",
    ["", "ada", "@b", "a@", "a b@c", "a@b c", "a\r\nBcc: x@y", "a@b\x00", "<a@b>", f"{'a' * 65}@b", f"a@{'b' * 190}"],
)
def test_what_is_no_address_is_refused(given_):
    with pytest.raises(UsageError):
        read_email(given_)


def test_names_cannot_steer_a_terminal():
    assert read_name("  Ada Lovelace ") == "Ada Lovelace"
    for bad in ("a\x1b[2J", "a\nb", "x" * 201):
        with pytest.raises(UsageError):
            read_name(bad)


# -- tokens ------------------------------------------------------------------------------------------------------------
def test_a_token_is_ours_for_its_purpose_session_number_and_salt_only():
    token = read_token(write_token(RING, "refresh", SESSION, SALT, 7))
    assert (token.session, token.generation) == (SESSION, 7)
    assert is_ours(RING, "refresh", token, SALT)
    assert not is_ours(RING, "cookie", token, SALT)
    assert not is_ours(RING, "refresh", token, new_salt())
    for other in ({"generation": 8}, {"session": uuid.uuid4()}, {"code": b"x" * 32}, {"key_id": "00000000"}):
        changed = type(token)(**({name: getattr(token, name) for name in token.__slots__} | other))
        assert not is_ours(RING, "refresh", changed, SALT), other


def test_tokens_outlive_a_rotation_of_the_key_but_not_its_removal():
    token = read_token(write_token(KeyRing([OLD]), "cookie", SESSION, SALT))
    assert is_ours(RING, "cookie", token, SALT)
    assert not is_ours(KeyRing([NEW]), "cookie", token, SALT)


@given(st.text(max_size=250))
def test_any_text_may_come_in_a_token_s_place(text):
    token = read_token(text)
    assert token is None or not is_ours(RING, "cookie", token, SALT)


def test_random_tokens_are_long_and_stored_as_hashes():
    one, other = random_token("af"), random_token("af")
    assert one != other
    assert len(one) == len("af_") + 43
    assert token_hash(one) != token_hash(other)
    assert len(token_hash(one)) == 32


@pytest.mark.parametrize(
    ("used", "current", "ago", "outcome"),
    [
        (3, 3, None, "rotated"),
        (2, 3, timedelta(0), "repeated"),
        (2, 3, GRACE, "repeated"),
        (2, 3, GRACE + timedelta(seconds=1), "reused"),
        (2, 3, None, "reused"),
        (1, 3, timedelta(0), "reused"),
        (4, 3, timedelta(0), "reused"),
    ],
)
def test_what_the_use_of_a_refresh_token_means(used, current, ago, outcome):
    token = read_token(write_token(RING, "refresh", SESSION, SALT, used))
    assert judge(token, current, None if ago is None else NOW - ago, NOW) == outcome


# -- lock-out ----------------------------------------------------------------------------------------------------------
def test_each_failure_makes_the_wait_longer():
    waits = [throttle.wait_after(failures, throttle.ACCOUNT).total_seconds() for failures in range(1, 14)]
    assert waits == [0, 0, 0, 0, 30, 60, 120, 240, 480, 900, 900, 900, 900]
    assert throttle.wait_after(10**9, throttle.ADDRESS) == throttle.LONGEST


# -- roles -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("role", "admin", "scopes", "expected"),
    [
        (None, False, None, None),
        (Role.VIEWER, False, None, Role.VIEWER),
        (None, True, None, Role.ADMIN),
        (Role.EDITOR, False, ["read"], Role.VIEWER),
        (Role.EDITOR, False, ["read", "run"], Role.OPERATOR),
        (Role.VIEWER, False, ["admin"], Role.VIEWER),
        (None, False, ["admin"], None),
        (Role.ADMIN, False, [], None),
        (Role.ADMIN, False, ["of a later version"], None),
    ],
)
def test_scopes_lower_a_role_and_never_raise_it(role, admin, scopes, expected):
    assert role_of(Standing(role, admin), scopes) == expected


def test_the_words_of_the_database_are_those_of_the_code():
    assert tuple(role.value for role in Role) == accounts.ROLES
    assert tuple(api_keys.SCOPES.values()) == tuple(Role)
