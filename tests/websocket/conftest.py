"""What the tests of sockets share."""

import ssl
from collections.abc import Iterator

import pytest
import trustme
from tornado.httpserver import HTTPServer

from tests.websocket import peer


@pytest.fixture(scope="session")
def sides() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's side of TLS, and the client's."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.fixture(params=[HTTPServer, peer.WholeUpgrades], ids=["tornado", "whole"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test twice: with all upgrades read by Tornado, and with those that come whole read by us."""
    before = peer.WholeUpgrades.taken
    peer.ways.append(request.param)
    yield
    peer.ways.pop()
    assert request.param is peer.WholeUpgrades or peer.WholeUpgrades.taken == before
