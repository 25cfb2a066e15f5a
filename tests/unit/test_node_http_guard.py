from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.nodes import http_guard
from agentflow.nodes.base import NodeFailed
from agentflow.nodes.http_guard import why_refused


def resolve(host, port, *, allow_private, patience=10):
    return asyncio.run(http_guard.resolve(host, port, allow_private=allow_private, patience=patience))


REFUSED = [
    ("0.0.0.0", "this host"),
    ("0.1.2.3", "this host"),
    ("10.0.0.1", "private network"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("100.100.100.200", "carrier-grade NAT"),  # Alibaba's metadata
    ("100.127.255.255", "carrier-grade NAT"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "cloud metadata"),
    ("169.254.169.254", "link-local and cloud metadata"),
    ("172.16.0.1", "private network"),
    ("172.31.255.255", "private network"),
    ("192.0.0.192", "reserved"),  # Oracle's metadata
    ("192.168.1.1", "private network"),
    ("198.18.0.1", "benchmark network"),
    ("203.0.113.7", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "this host"),
    ("::1", "loopback"),
    ("::127.0.0.1", "reserved"),  # IPv4-compatible
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:a9fe:a9fe", "link-local and cloud metadata"),
    ("64:ff9b::10.0.0.1", "private network"),
    ("64:ff9b:1::1", "reserved"),
    ("100::1", "reserved"),
    ("2001::1", "reserved"),  # Teredo
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("3fff::1", "documentation"),
    ("5f00::1", "reserved"),
    ("fc00::1", "private network"),
    ("fd00:ec2::254", "private network"),  # AWS's metadata
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "private network"),
    ("ff02::1", "multicast"),
]


@pytest.mark.parametrize(("address", "reason"), REFUSED)
def test_an_address_of_the_inside_is_refused_with_its_reason(address, reason):
    assert why_refused(address) == reason


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1", "168.63.129.17",
     "223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)  # fmt: skip
def test_a_public_address_is_allowed(address):
    assert why_refused(address) is None


@given(st.ip_addresses())
def test_nothing_that_python_calls_not_global_is_allowed(address):
    if why_refused(str(address)) is None:
        inner = getattr(address, "ipv4_mapped", None)
        nat64 = address in ipaddress.ip_network("64:ff9b::/96") if address.version == 6 else False
        assert nat64 or (inner or address).is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
     "::1", "::ffff:127.0.0.1", "0:0:0:0:0:ffff:7f00:1", "localhost"],
)  # fmt: skip
def test_every_spelling_of_this_host_is_refused(host):
    with pytest.raises(NodeFailed, match="AGENTFLOW_ALLOW_PRIVATE_HTTP=true") as caught:
        resolve(host, 80, allow_private=False)
    assert caught.value.kind == "AddressRefused"


@pytest.fixture
def answers(monkeypatch):
    """Let the resolver answer with these addresses."""

    def install(*addresses):
        def getaddrinfo(host, port, *args, **kwargs):
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (text, port, 0, 0))
                if ":" in text
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
                for text in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return install


def test_one_private_address_among_public_ones_refuses_the_name(answers):
    answers("93.184.216.34", "10.0.0.5")
    with pytest.raises(NodeFailed, match=r"intra\.example leads to 10\.0\.0\.5 \(private network\)"):
        resolve("intra.example", 443, allow_private=False)


def test_private_addresses_are_allowed_by_the_setting(answers):
    answers("10.0.0.5", "fd00::1")
    found = resolve("intra.example", 443, allow_private=True)
    assert [address.sockaddr for address in found] == [("10.0.0.5", 443), ("fd00::1", 443, 0, 0)]


def test_a_name_without_addresses_is_told(answers):
    answers()
    with pytest.raises(NodeFailed, match="nowhere has no address"):
        resolve("nowhere", 80, allow_private=False)


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a" * 64 + ".example", "a..b"])
def test_a_name_that_does_not_resolve_is_told(host, monkeypatch):
    real = socket.getaddrinfo

    def offline(name, *args, **kwargs):
        if name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(NodeFailed, match="cannot be resolved") as caught:
        resolve(host, 80, allow_private=False)
    assert caught.value.kind == "NameNotResolved"


def test_a_resolver_that_hangs_is_left_behind_at_the_timeout(monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hang.wait(20) and [])
    try:
        with pytest.raises(NodeFailed, match=r"looking up slow\.example took longer") as caught:
            resolve("slow.example", 80, allow_private=False, patience=0.05)
    finally:
        hang.set()
    assert caught.value.kind == "Timeout"
