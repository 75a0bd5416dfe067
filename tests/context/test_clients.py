"""Test the client's address: for permissions, only an address that can't be forged."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis.strategies import SearchStrategy, booleans, builds, integers, ip_addresses

from django_tracing.conf.loading import load
from django_tracing.context.clients import Network, client_address, is_trusted, is_within, vouched_address
from django_tracing.sampling.server import _is_allowed


def networks() -> SearchStrategy[IPv4Network]:
    return builds(
        lambda address, length: IPv4Network((int(address), length), strict=False),
        ip_addresses(v=4),
        integers(0, 32),
    )


PROXIES: tuple[Network, ...] = (ip_network("10.0.0.0/8"), ip_network("127.0.0.1"))


@pytest.mark.parametrize(
    ("headers", "trusted", "address"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, (), "127.0.0.1"),
        ({"REMOTE_ADDR": "203.0.113.7"}, PROXIES, "203.0.113.7"),
        # Through a proxy that isn't listed: all clients would be 127.0.0.1.
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}, (), ""),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": "203.0.113.7"}, (), ""),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=203.0.113.7"}, (), ""),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_VIA": "1.1 nginx"}, (), ""),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_PROTO": "https"}, (), ""),
        ({"REMOTE_ADDR": "192.0.2.1", "HTTP_X_FORWARDED_FOR": "10.1.1.1"}, PROXIES, ""),
        # Through a listed proxy.
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}, PROXIES, "203.0.113.7"),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1, 203.0.113.7"}, PROXIES, "203.0.113.7"),
        (
            {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "1.1.1.1, 203.0.113.7, 10.2.3.4"},
            PROXIES,
            "203.0.113.7",
        ),
        ({"REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}, PROXIES, "203.0.113.7"),
        # With ports, which some load balancers add, and in the notation of dual-stack sockets.
        ({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.7:4711"}, PROXIES, "203.0.113.7"),
        ({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "[2001:db8::7]:4711"}, PROXIES, "2001:db8::7"),
        ({"REMOTE_ADDR": "::ffff:10.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}, PROXIES, "203.0.113.7"),
        # The zone of an IPv6 address may be any text, and is of use on its own machine only.
        ({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "2001:db8::7%\x1b[31m\n"}, PROXIES, "2001:db8::7"),
        # If the header of a listed proxy can't be parsed, no address is used, not even the proxy's.
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "unknown"}, PROXIES, ""),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": ""}, PROXIES, ""),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_VIA": "1.1 nginx"}, PROXIES, ""),
        ({"REMOTE_ADDR": ""}, PROXIES, ""),
        ({}, (), ""),
    ],
)
def test_an_address_for_permissions(headers: dict[str, str], trusted: tuple[Network, ...], address: str) -> None:
    assert vouched_address(headers, trusted) == address


def test_a_client_cannot_forge_another_address() -> None:
    """Whatever header it sends, the client has the address that the proxy appended."""
    numbers = random.Random(5)
    words = [
        "127.0.0.1",
        "10.0.0.9",
        "::1",
        "unknown",
        "",
        " ",
        ",",
        "[::1]",
        "1.2.3.4:80",
        "x" * 40,
        "\t",
        "10.0.0.1:",
    ]
    for _ in range(3000):
        forged = ",".join(numbers.choice(words) for _ in range(numbers.randrange(0, 200)))
        headers = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": f"{forged}, 203.0.113.7, 10.0.0.2"}
        assert vouched_address(headers, PROXIES) == client_address(headers, PROXIES) == "203.0.113.7"


def test_a_truncated_address_is_ignored() -> None:
    """Only the nearest hops of a long header are read; the rest of an address that was cut is ignored."""
    for padding in range(20):
        hops = ", ".join(["203.0.113.110.0.0.1"[:19]] + ["10.0.0.1"] * 120)
        headers = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "9" * padding + hops}
        assert vouched_address(headers, PROXIES) in ("", "10.0.0.1")


def test_networks() -> None:
    assert is_within("::ffff:10.1.2.3", PROXIES)
    for wrong in ("", "nonsense", "10.0.0.0/8", "11.0.0.1", "::1", "10.0.0.1x"):
        assert not is_within(wrong, PROXIES)


@given(
    network=networks(),
    address=ip_addresses(v=4),
    mapped_network=booleans(),
    mapped_address=booleans(),
    inside=booleans(),
)
def test_an_ipv4_address_matches_in_every_notation(
    network: IPv4Network, address: IPv4Address, mapped_network: bool, mapped_address: bool, inside: bool
) -> None:
    """TRUSTED_PROXIES, TRUST_PARENT and SAMPLING_CLIENTS accept addresses and networks in both notations."""
    if inside:
        address = network[int(address) % network.num_addresses]
    listed = f"::ffff:{network.network_address}/{96 + network.prefixlen}" if mapped_network else str(network)
    remote = f"::ffff:{address}" if mapped_address else str(address)
    settings = load(
        {"EXPORTER": "none", "TRUSTED_PROXIES": [listed], "TRUST_PARENT": [listed], "SAMPLING_CLIENTS": [listed]}, {}
    )
    assert settings.problems == ()
    expected = address in network
    direct = RequestFactory().get("/", REMOTE_ADDR=remote)
    assert is_trusted(direct.META, settings.trust_parent, settings.trusted_proxies) is expected
    assert _is_allowed(direct, settings) is expected
    assert client_address(direct.META, settings.trusted_proxies) == str(address)
    # "198.51.100.7" may be in the network: then the proxy itself made the request.
    forwarded = {**direct.META, "HTTP_X_FORWARDED_FOR": "198.51.100.7"}
    client = "198.51.100.7" if expected else str(address)
    assert client_address(forwarded, settings.trusted_proxies) == client
    assert vouched_address(forwarded, settings.trusted_proxies) == ("198.51.100.7" if expected else "")


def test_an_ipv6_network_is_not_converted() -> None:
    assert is_within("2001:db8::7", (ip_network("2001:db8::/32"),))
    assert not is_within("::ffff:10.0.0.1", (ip_network("2001:db8::/32"),))
    # Larger than the range of IPv4 addresses: it remains an IPv6 network.
    assert is_within("::1", (ip_network("::/0"),))
