"""Signatures of deliveries: pure.

Two schemes are read: Standard Webhooks (standardwebhooks.com: `webhook-id`, `webhook-timestamp`, `webhook-signature`), and
GitHub's (`X-Hub-Signature-256`, `X-GitHub-Delivery`), which many systems copy. That one covers the body alone, neither a
time nor the delivery's id: whoever has seen a delivery could send it again under another id. So its body counts as an id,
too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping

from agentflow.errors import AgentFlowError

PREFIX = "whsec_"
TOLERANCE = 300.0  #: Seconds that a delivery's time may be away from ours.
ID_MAX = 200  #: Characters of a delivery's id.
_ID_HEADERS = ("webhook-id", "x-github-delivery", "idempotency-key")


class SignatureRefused(AgentFlowError):
    """The delivery is not signed as this webhook asks."""

    word = "signature-refused"


def new_secret() -> str:
    """A signing secret, as both sides keep it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def delivery_ids(headers: Mapping[str, str], body: bytes, *, signed: bool) -> list[str]:
    """What tells this delivery from others, the same when it is sent again.

    Args:
        headers: Keyed by small letters.
        body: As it came.
        signed: Its signature was verified.
    """
    found = next((headers[name] for name in _ID_HEADERS if headers.get(name)), None)
    ids = [found[:ID_MAX]] if found else []
    if signed and "webhook-signature" not in headers:
        ids.append(f"sha256:{hashlib.sha256(body).hexdigest()}")
    return ids


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Let a signed delivery pass.

    Args:
        secret: Of the webhook.
        headers: Keyed by small letters.
        body: As it came.
        now: Seconds since 1970.

    Raises:
        SignatureRefused: It is not signed, or not by who knows the secret, or too old to be sent only now.
    """
    if "webhook-signature" in headers:
        _verify_standard(secret, headers, body, now)
    elif "x-hub-signature-256" in headers:
        if not headers.get("x-github-delivery"):
            raise SignatureRefused("The header X-GitHub-Delivery is missing.")
        good = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(good.encode(), headers["x-hub-signature-256"].encode()):
            raise SignatureRefused("The signature does not fit body and secret.")
    else:
        raise SignatureRefused(
            "The delivery is not signed.",
            hint="send webhook-id, webhook-timestamp and webhook-signature (Standard Webhooks), or X-Hub-Signature-256",
        )


def _verify_standard(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> None:
    name, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not name or len(name) > ID_MAX or not sent.isascii() or not sent.isdigit() or len(sent) > 12:
        raise SignatureRefused("webhook-id or webhook-timestamp is missing or wrong.")
    if abs(now - int(sent)) > TOLERANCE:
        raise SignatureRefused(
            f"The delivery's time is more than {TOLERANCE / 60:.0f} minutes away.", hint="check the sender's clock"
        )
    good = sign(secret, name, int(sent), body)
    given = headers["webhook-signature"].split(" ")[:10]
    if not any(hmac.compare_digest(good.encode(), one.encode()) for one in given):
        raise SignatureRefused("The signature does not fit id, time, body and secret.")


def sign(secret: str, name: str, sent: int, body: bytes) -> str:
    """The value of `webhook-signature` for a delivery."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = secret.encode()
    mac = hmac.new(key, f"{name}.{sent}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(mac).decode()
