"""The client's address: which header is trusted, and what a peer's address says."""

from __future__ import annotations

import pytest

from eclipse_ws.security.client_address import Sources
from tests.conftest import make_settings


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("93.184.216.34", ("93.184.216.34", False)),
        ("10.1.2.3", ("10.1.2.3", True)),
        ("127.0.0.1", ("127.0.0.1", True)),
        ("2606:2800:220:1:248:1893:25c8:1946", ("2606:2800:220:1::/64", False)),
        ("2606:2800:220:1::", ("2606:2800:220:1::/64", False)),
        ("fdaa:0:1::2", ("fdaa:0:1::/64", True)),
        ("fe80::1%eth0", ("fe80::/64", True)),
        ("::ffff:93.184.216.34", ("93.184.216.34", False)),
        ("", ("unknown", True)),
        ("/run/socket", ("/run/socket", True)),
    ],
)
def test_a_peer_without_a_trusted_header(peer: str, expected: tuple[str, bool]) -> None:
    """IPv4 by address, IPv6 by /64; no header is trusted; a private peer may be a proxy."""
    assert Sources(make_settings()).of(peer, "1.2.3.4") == expected


@pytest.mark.parametrize(
    ("proxies", "header", "expected"),
    [
        (1, "6.6.6.6, 93.184.216.34", "93.184.216.34"),
        (2, "6.6.6.6, 93.184.216.34, 10.0.0.2", "93.184.216.34"),
        (3, "93.184.216.34, 10.0.0.2", "93.184.216.34"),
        (1, "93.184.216.34:1234", "93.184.216.34"),
        (1, "[2606:2800::1]:443", "2606:2800::/64"),
        (1, "2606:2800::1", "2606:2800::/64"),
        (1, "unknown", "10.0.0.9"),
        (1, "1.2.3.4, ", "10.0.0.9"),
        (1, "", "10.0.0.9"),
        (1, None, "10.0.0.9"),
    ],
)
def test_a_forwarded_address_counts_from_the_right(proxies: int, header: str | None, expected: str) -> None:
    """Trusted proxies append addresses on the right; those that a client wrote on the left are ignored."""
    sources = Sources(make_settings(trusted_proxies=proxies))
    assert sources.header == "X-Forwarded-For"
    assert sources.of("10.0.0.9", header) == (expected, False)


def test_a_named_header() -> None:
    """A header that names one address is trusted from its proxy; a client's own, joined before it, is not."""
    sources = Sources(make_settings(client_address_header="Fly-Client-IP"))
    assert sources.header == "Fly-Client-IP"
    assert sources.of("172.16.0.1", "93.184.216.34").address == "93.184.216.34"
    assert sources.of("172.16.0.1", "6.6.6.6,93.184.216.34").address == "93.184.216.34"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\nfly-client-ip:93.184.216.34\r\nHost: x\r\n\r\n", "93.184.216.34"),
        (b"GET / HTTP/1.1\nFly-Client-IP:  93.184.216.34 \nHost: x\n\n", "93.184.216.34"),
        (b"GET / HTTP/1.1\r\nFly-Client-IP: 6.6.6.6\r\nFly-Client-IP: 9.9.9.9\r\n\r\n", "9.9.9.9"),
        (b"GET / HTTP/1.1\r\nFly-Client-IP: 93.184.216.3", "172.16.0.1"),
        (b"GET /?Fly-Client-IP:1.2.3.4 HTTP/1.1\r\nX-Fly-Client-IP: 1.2.3.4\r\n\r\n", "172.16.0.1"),
        (b"GET / HTTP/1.1\r\nFly-Client-IP: \xff\r\n\r\n", "172.16.0.1"),
        (b"", "172.16.0.1"),
    ],
)
def test_the_source_from_the_first_bytes(head: bytes, expected: str) -> None:
    """The first bytes show the source if they contain the whole header line."""
    sources = Sources(make_settings(client_address_header="Fly-Client-IP"))
    assert sources.guess("172.16.0.1", head).address == expected
    assert Sources(make_settings()).guess("172.16.0.1", head).address == "172.16.0.1"
