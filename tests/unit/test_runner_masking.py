from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.runner.errors import MESSAGE_MAX, TRACEBACK_MAX, describe
from agentflow.runner.masking import Masker, mask_output
from agentflow.workload import ErrorInfo

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


@given(st.binary(max_size=20), st.text(st.characters(exclude_categories=["Cs"]), min_size=6), st.binary(max_size=20))
def test_a_secret_is_hidden_inside_of_more_that_is_base64_encoded(before, secret, after):
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + secret.encode() + after).decode()
        masked = Masker([secret])(text)
        assert "***" in masked
        assert len(masked) <= len(text) - len(secret.encode()) * 8 // 6 + 2 + 3  # at most a letter at each end is left


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


NUMBER = "1234567890"


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ({"a": [f"x {SECRET} y", 1]}, {"a": ["x *** y", 1]}),
        ({SECRET: None}, {"***": None}),
        (SECRET, "***"),
        (json.dumps({"inner": SECRET}), '{"inner": "***"}'),
        ({"login": base64.b64encode(f"me:{SECRET}".encode()).decode()}, None),
        ({"url": f"https://h/?k={quote_plus(SECRET)}"}, {"url": "https://h/?k=***"}),
    ],
)
def test_an_output_is_shown_without_the_secret(output, shown):
    text, names = mask_output(json.dumps(output), {"KEY": SECRET, "OTHER": "not in there"})
    assert names == ["KEY"]
    assert "***" in text
    assert shown is None or json.loads(text) == shown


@pytest.mark.parametrize(
    ("output", "secret"),
    [
        ({"count": 1234567890}, NUMBER),  # a number stays one
        ({"a": "abc\n"}, "abc"),  # too short to be hidden anywhere
        ({"line": "-----BEGIN KEY-----"}, "-----BEGIN KEY-----\nMIIE\n-----END KEY-----"),
        (["nothing", None, True, 1.5, {"ü": "\u2028"}], SECRET),
    ],
)
def test_an_output_without_the_secret_is_left_as_it_is(output, secret):
    text = json.dumps(output, ensure_ascii=False, separators=(",", ":"))
    assert mask_output(text, {"KEY": secret}) == (text, [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values, st.text(min_size=4))
def test_a_masked_output_is_json_and_only_the_secret_is_gone(value, secret):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    masked, names = mask_output(text, {"KEY": secret})
    assert mask_output(masked, {"KEY": secret}) == (masked, []) or "*" in secret
    assert (names == []) == (masked == text)
    json.loads(masked)


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


def test_an_error_of_whatever_text_can_be_stored():
    info = ErrorInfo(type="A\0", message="b\ud800", traceback="c\0")
    assert (info.type, info.message, info.traceback) == ("A\ufffd", "b\ufffd", "c\ufffd")
    assert ErrorInfo(type="A", message="ü").message == "ü"


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
