from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from agentflow.runner.errors import MESSAGE_MAX, TRACEBACK_MAX, describe
from agentflow.runner.masking import Masker

SECRET = 'pa$$ w"rd/ü&'


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps(SECRET),
        quote(SECRET),
        quote_plus(SECRET),
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_hidden_in_every_usual_form(form):
    masked = Masker([SECRET])(f"before {form} after")
    assert "***" in masked
    assert "w" not in masked.replace("before", "").replace("after", "")


def test_each_line_of_a_long_secret_is_hidden():
    key = "-----BEGIN KEY-----\nMIIEabcdef\nghijklmnop\n-----END KEY-----"
    assert Masker([key])("MIIEabcdef / ghijklmnop") == "*** / ***"


def test_short_secrets_do_not_shred_the_text():
    assert Masker(["abc", "", "1"])("abc 1 2 3") == "abc 1 2 3"


def test_a_secret_inside_a_longer_one_does_not_show_the_rest():
    assert Masker(["token", "token-and-more"])("token-and-more") == "***"


def test_without_secrets_the_text_is_the_same_object():
    text = "hello"
    assert Masker()(text) is text


def _raised(error):
    try:
        raise error  # noqa: TRY301 - a traceback is what the test is about
    except BaseException as caught:  # noqa: BLE001 - SystemExit too
        return describe(caught, Masker([SECRET]))


def test_errors_are_masked_and_bounded():
    info = _raised(RuntimeError(f"x{SECRET}" * 10_000))
    assert SECRET not in info.model_dump_json()
    assert len(info.message) < MESSAGE_MAX + 100
    assert info.traceback is not None
    assert len(info.traceback) < TRACEBACK_MAX + 100


def test_the_text_of_an_error_is_storable():
    assert _raised(RuntimeError("a\0\ud800")).message == "a\ufffd\ufffd"


def test_an_exception_whose_text_cannot_be_made_is_described_all_the_same():
    class Broken(Exception):
        def __str__(self):
            raise ValueError("no")

    assert _raised(Broken()).type == "Broken"


def test_a_deep_recursion_has_a_short_traceback():
    def down():
        down()

    try:
        down()
    except RecursionError as error:
        info = describe(error, Masker())
    assert info.traceback is not None
    assert len(info.traceback) < 5000


@pytest.mark.parametrize(("code", "expected"), [(3, 3), ("message", 1), (True, 1)])
def test_exit_reports_its_code(code, expected):
    assert _raised(SystemExit(code)).exit_code == expected


def test_a_memory_error_is_out_of_memory():
    assert _raised(MemoryError()).type == "OutOfMemory"
