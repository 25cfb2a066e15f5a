"""Webhooks: addresses that start runs, for systems that cannot sign in.

The token in the address is the permission; it is stored hashed and shown once. A signed webhook also asks for a
signature over time and body, so that nobody who sees an address can use it.
"""

from agentflow.webhooks.delivery import Delivered, Hook, deliver, find_hook
from agentflow.webhooks.manage import list_webhooks, revoke_webhook, rotate_webhook
from agentflow.webhooks.signature import SignatureRefused, delivery_ids, verify

__all__ = [
    "Delivered",
    "Hook",
    "SignatureRefused",
    "deliver",
    "delivery_ids",
    "find_hook",
    "list_webhooks",
    "revoke_webhook",
    "rotate_webhook",
    "verify",
]
