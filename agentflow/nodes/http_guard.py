"""Which addresses an `http` node may reach: everything public, nothing that only the inside of a network should see.

Names are looked up once, every address found is checked, and the connection goes to the checked address itself; so
neither odd spellings (`0x7f.1`, `2130706433`), nor redirects, nor a name server that changes its answer (DNS
rebinding) lead inside.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from agentflow.nodes.base import NodeFailed

HINT: Final = "set AGENTFLOW_ALLOW_PRIVATE_HTTP=true to let http nodes reach private addresses"

_V4: Final = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private network"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),  # Azure's, a public address
        ("169.254.0.0/16", "link-local and cloud metadata"),
        ("172.16.0.0/12", "private network"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private network"),
        ("198.18.0.0/15", "benchmark network"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_V6: Final = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "this host"),
        ("::1/128", "loopback"),
        ("2001::/23", "reserved"),  # Teredo, ORCHID, benchmarks
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("fc00::/7", "private network"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private network"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Address:
    """One answer of the resolver."""

    family: socket.AddressFamily
    sockaddr: tuple[str | int, ...]  #: As `socket.connect` takes it.


def why_refused(text: str) -> str | None:
    """What is wrong with an IP address; None for one that is public."""
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _V4 if address in network), None)
    inner = _embedded(address)
    if inner is not None:
        return why_refused(str(inner))
    plain = IPv6Address(int(address))  # without a scope such as %eth0, which networks do not match
    reason = next((reason for network, reason in _V6 if plain in network), None)
    return reason or (None if plain in _GLOBAL_V6 else "reserved")


async def resolve(host: str, port: int, *, allow_private: bool, patience: float) -> list[Address]:
    """Look a name up and check all that it leads to; one refused address refuses the name.

    Raises:
        NodeFailed: The name is not known, leads to a refused address, or the resolver takes longer than `patience`
            seconds.
    """
    found = await _look_up(host, port, patience)
    if not found:
        raise NodeFailed(f"{host} has no address", kind="NameNotResolved")
    for address in () if allow_private else found:
        ip = str(address.sockaddr[0])
        reason = why_refused(ip)
        if reason:
            where = ip if ip == host else f"{host} leads to {ip}"
            raise NodeFailed(f"{where} ({reason}), which http nodes may not reach; {HINT}", kind="AddressRefused")
    return found


async def _look_up(host: str, port: int, patience: float) -> list[Address]:
    """`getaddrinfo` blocks and knows no timeout, so it runs in a thread that is left behind when it takes too long."""
    try:
        if _is_address(host):
            return _addresses(host, port)
        async with asyncio.timeout(max(patience, 0)):
            return await _in_thread(lambda: _addresses(host, port))
    except TimeoutError as error:
        raise NodeFailed(f"looking up {host} took longer than the timeout", kind="Timeout") from error
    except (OSError, UnicodeError) as error:
        raise NodeFailed(f"{host} cannot be resolved: {error}", kind="NameNotResolved") from error


def _is_address(host: str) -> bool:
    """Whether nobody has to be asked."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _in_thread(function: Callable[[], list[Address]]) -> list[Address]:
    """Not in asyncio's own threads: those are few, and a loop waits for them at its end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(found: list[Address] | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found or [])

    def ask() -> None:
        found, problem = None, None
        try:
            found = function()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            problem = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found, problem)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await answer


def _addresses(host: str, port: int) -> list[Address]:
    answers: list[Any] = list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    # A Python without IPv6 answers with raw bytes in place of text; such an address is of no use to it.
    return [Address(answer[0], answer[4]) for answer in answers if isinstance(answer[4][0], str)]


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside an IPv4-mapped or NAT64 one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if IPv6Address(int(address)) in _NAT64 else None
