"""How many requests somebody may make: by user or key, and by what the request does.

Counted in this process; with `AGENTFLOW_REDIS_URL` for all of them together, and in this process again while Redis is
away. Requests without a login, wrong credentials included, are counted by address.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from flask import Flask, Request, Response, current_app, g, request
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from agentflow.access import Principal, Role
from agentflow.access.throttle import household
from agentflow.errors import NotFound
from webserver.access import Access, Authenticate, access_of
from webserver.errors import TooManyRequests, Unauthenticated
from webserver.shared.link import RedisAwayError
from webserver.state import Web

CLASSES: Final = ("read", "run", "write", "login", "hook", "refused")
_LOGINS = frozenset(
    {
        "auth.login",
        "auth.login_browser",
        "auth.login_by_link",
        "auth.refresh",
        "oidc.begin_oidc_login",
        "oidc.finish_oidc_login",
    }
)
_HOOK = "webhooks.deliver"
EXTENSION = "agentflow.ratelimits"
_PREFIX = "agentflow"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def init_rate_limits(app: Flask, web: Web) -> None:
    """Must come after access is checked: whose request it is decides whose count it goes on."""
    limits = RateLimits(web)

    @app.before_request
    def count() -> None:
        if request.endpoint is not None and request.path.startswith("/api/"):
            access = access_of(app.view_functions[request.endpoint])
            assert access is not None
            name = class_of(request.endpoint, request.method, access)
            if name != "hook":  # `count_delivery` does, once the token is known to be one
                limits.count(name, _whose(g.get("principal")))

    @app.after_request
    def tell(response: Response) -> Response:
        response.headers.extend(g.get("rate_limit_headers", {}))
        return response

    app.extensions[EXTENSION] = limits


def counting_refusals(authenticate: Authenticate) -> Authenticate:
    """The same, with wrong credentials counted by address: guessing keys is as slow as guessing passwords."""

    def counted(asked: Request) -> Principal | None:
        try:
            return authenticate(asked)
        except (Unauthenticated, NotFound):
            count_refusal()
            raise

    return counted


def count_refusal() -> None:
    """Count wrong credentials by the address they come from.

    Raises:
        TooManyRequests: It is one too many.
    """
    current_app.extensions[EXTENSION].count("refused", _whose(None))


def count_delivery(token: str) -> None:
    """Count a delivery to a webhook by its token, which is one: those that are made up would each have a count.

    Raises:
        TooManyRequests: It is one too many.
    """
    current_app.extensions[EXTENSION].count("hook", f"hook:{token}")


def class_of(endpoint: str, method: str, access: Access) -> str:
    """Which count a request goes on."""
    if endpoint in _LOGINS:
        return "login"
    if endpoint == _HOOK:
        return "hook"
    if method in _READS:
        return "read"
    return "run" if access.role is Role.OPERATOR else "write"


class RateLimits:
    """Counts, and the limits they are held against."""

    def __init__(self, web: Web, clock: Callable[[], float] = time.time) -> None:
        settings = web.settings
        self._clock = clock
        self._items = {name: _item(getattr(settings, f"rate_limit_{name}")) for name in CLASSES}
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._redis = web.redis
        self._shared = None
        if self._redis is not None:
            storage = RedisStorage(settings.redis_url, connection_pool=self._redis.pool, key_prefix=_PREFIX)
            self._shared = SlidingWindowCounterRateLimiter(storage)

    def count(self, name: str, whose: str) -> None:
        """Count a request, and note what the answer tells of it.

        Raises:
            TooManyRequests: It is one too many.
        """
        item = self._items[name]
        if item is None:
            return
        key = (name, hashlib.sha256(whose.encode("utf-8", "surrogateescape")).hexdigest()[:32])
        allowed, reset, left = self._hit(item, key)
        wait = str(max(1, math.ceil(reset - self._clock())))
        headers = {"RateLimit-Limit": str(item.amount), "RateLimit-Remaining": str(left), "RateLimit-Reset": wait}
        g.rate_limit_headers = headers
        if not allowed:
            error_ = TooManyRequests(
                f"More than {item.amount} requests of this kind in {item.get_expiry()} s: try again in {wait} s."
            )
            error_.headers = {"Retry-After": wait}
            raise error_

    def _hit(self, item: RateLimitItem, key: tuple[str, str]) -> tuple[bool, float, int]:
        if self._redis is not None and self._shared is not None:
            shared = self._shared
            with suppress(RedisAwayError):
                return self._redis.ask(lambda _: _count(shared, item, key))
        return _count(self._here, item, key)


def _count(
    limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, key: tuple[str, str]
) -> tuple[bool, float, int]:
    allowed = limiter.hit(item, *key)
    reset, left = limiter.get_window_stats(item, *key)
    return allowed, reset, max(0, left)


def _item(text: str) -> RateLimitItem | None:
    return parse(text) if text else None


def _whose(principal: Principal | None) -> str:
    if principal is not None:
        return f"{'key' if principal.kind == 'key' else 'user'}:{principal.id}"
    return f"address:{household(request.remote_addr or '')}"
