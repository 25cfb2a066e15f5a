"""Messages of sockets: counted, read, handled, answered; whatever goes wrong is an answer too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flask_socketio import Namespace
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agentflow.errors import AgentFlowError, Problem, UsageError
from webserver.errors import InvalidRequest, TooManyRequests, Unauthenticated, Unavailable
from webserver.live.allowance import RATE
from webserver.live.clients import NAMESPACE, Client, Clients
from webserver.ops import metrics
from webserver.problems import PREFIX, status_of

Message = TypeVar("Message", bound=BaseModel)
Answer = dict[str, Any]
#: It does not answer, or all our connections to it are in use.
NO_DATABASE = (DBAPIError, PoolTimeout)
log = logging.getLogger(__name__)


class Others(Namespace):  # type: ignore[misc]  # Flask-SocketIO has no types
    """Messages that nobody handles; unlike a handler of `*` it is told the name and the socket apart, whatever they are."""

    def __init__(self, unknown: Callable[[object, str], Answer | None]) -> None:
        super().__init__(NAMESPACE)
        self._unknown = unknown

    def trigger_event(self, event: object, sid: str, *_sent: object) -> Answer | None:
        """A message came."""
        return self._unknown(event, sid)


class Messages:
    """Makes handlers for Flask-SocketIO out of functions that know nothing of it."""

    def __init__(self, clients: Clients, sid: Callable[[], str]) -> None:
        """`sid`: the socket of the message at hand."""
        self._clients = clients
        self._sid = sid

    def answering(
        self, model: type[Message], handler: Callable[[Client, Message], Answer]
    ) -> Callable[..., Answer | None]:
        """A handler of messages that look like `model`."""

        def answer(message: object = None, *_more: object) -> Answer | None:
            return self._answer(self._sid(), lambda client: handler(client, model.model_validate(message)))

        return answer

    def unknown(self, name: object, sid: str) -> Answer | None:
        """Answer a message that nobody handles, of this name and from this socket."""

        def refuse(_client: Client) -> Answer:
            raise UsageError(f"There is no message {name!s:.100}.", hint="`join` and `leave` are those that there are")

        return self._answer(sid, refuse)

    def take(self, client: Client) -> bool:
        """Count a message; False: the socket is being closed, or takes no answers, and is given none.

        Raises:
            TooManyRequests: It is one too many.
        """
        if client.parting or not self._clients.keeps_up(client):
            return False
        verdict = client.allowance.take(time.monotonic())
        if verdict == "taken":
            return True
        wait = client.allowance.wait
        error = TooManyRequests(
            f"A socket may send {RATE} messages a second.", hint=f"send nothing for {wait} s, or it is closed"
        )
        metrics.LIVE_REFUSED.inc()
        if verdict == "refused":
            raise error
        log.warning("live_client_too_loud", extra={"principal": client.principal.name})
        self._clients.close(client, problem_of(error))
        return False

    def _answer(self, sid: str, handle: Callable[[Client], Answer]) -> Answer | None:
        client = self._clients.get(sid)
        try:
            if client is None:
                raise Unauthenticated
            return {"ok": True} | handle(client) if self.take(client) else None
        except ValidationError as error:
            problems = [
                Problem(item["msg"], ".".join(map(str, item["loc"]))) for item in error.errors(include_url=False)
            ]
            return _refusal(InvalidRequest(problems))
        except AgentFlowError as error:
            return _refusal(error)
        except NO_DATABASE as error:
            log.warning("live_join_failed", exc_info=error)
            return _refusal(Unavailable("The database does not answer.", hint="try again in a moment"))


def problem_of(error: AgentFlowError) -> dict[str, Any]:
    """The problem document of an error, as answers of the API have it."""
    document = error.as_document()
    return document | {"type": PREFIX + document["type"], "status": status_of(error)}


def _refusal(error: AgentFlowError) -> Answer:
    return {"ok": False, "error": problem_of(error)}
