"""Signatures of webhook deliveries."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.webhooks.signature import ID_MAX, SignatureRefused, delivery_ids, new_secret, sign, verify

SECRET = "whsec_" + "c2VjcmV0LW9mLTMyLWJ5dGVzLXNlY3JldC1vZi0zMg=="
NOW = 1_800_000_000
BODY = b'{"city": "Berlin"}'


def standard(body=BODY, *, name="msg_1", sent=NOW, secret=SECRET):
    return {
        "webhook-id": name,
        "webhook-timestamp": str(sent),
        "webhook-signature": sign(secret, name, sent, body),
    }


def github(body=BODY, secret=SECRET):
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-github-delivery": "d-1", "x-hub-signature-256": f"sha256={mac}"}


def test_the_example_of_the_standard_is_signed_as_it_says():
    # From the specification of Standard Webhooks: the key is the base64 part of the secret.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    "headers", [standard(), github(), standard() | {"webhook-signature": "v1,eA== " + standard()["webhook-signature"]}]
)
def test_good_deliveries_pass(headers):
    verify(SECRET, headers, BODY, NOW)


BAD = {
    "not signed": {},
    "another body": standard(b"{}"),
    "another secret": standard(secret=new_secret()),
    "another id": standard() | {"webhook-id": "msg_2"},
    "another time": standard() | {"webhook-timestamp": str(NOW + 1)},
    "too old": standard(sent=NOW - 301),
    "from the future": standard(sent=NOW + 301),
    "no id": standard() | {"webhook-id": ""},
    "endless id": standard(name="x" * (ID_MAX + 1)),
    "time is no number": standard() | {"webhook-timestamp": "-5"},
    "time is a strange number": standard() | {"webhook-timestamp": "١٢٣"},
    "no time": {key: value for key, value in standard().items() if key != "webhook-timestamp"},
    "not ASCII": standard() | {"webhook-signature": "v1,é"},
    "github: another body": github(b"{}"),
    "github: another secret": github(secret="x"),
    "github: no delivery": {key: value for key, value in github().items() if key != "x-github-delivery"},
    "github: not ASCII": github() | {"x-hub-signature-256": "sha256=é"},
}


@pytest.mark.parametrize("headers", BAD.values(), ids=BAD)
def test_what_is_not_signed_well_is_refused(headers):
    with pytest.raises(SignatureRefused):
        verify(SECRET, headers, BODY, NOW)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_fits_one_body_only(body, other):
    headers = standard(body)
    verify(SECRET, headers, body, NOW)
    if other != body:
        with pytest.raises(SignatureRefused):
            verify(SECRET, headers, other, NOW)


def test_the_id_of_a_delivery_comes_from_the_first_header_that_has_one():
    def ids(headers):
        return delivery_ids(headers, BODY, signed=False)

    assert ids({}) == []
    assert ids({"idempotency-key": "k", "webhook-id": ""}) == ["k"]
    assert ids({"x-github-delivery": "g", "idempotency-key": "k"}) == ["g"]
    assert len(ids({"webhook-id": "x" * 1000})[0]) == ID_MAX


def test_a_body_is_an_id_where_the_signature_covers_nothing_else():
    body, other = (delivery_ids(github(), one, signed=True)[1] for one in (BODY, b"{}"))
    assert body.startswith("sha256:")
    assert body != other
    assert len(delivery_ids(standard(), BODY, signed=True)) == 1
    assert len(delivery_ids(github(), BODY, signed=False)) == 1  # nobody has checked it: a body may come again
