"""What the tests of sockets share."""

import ssl

import pytest
import trustme


@pytest.fixture(scope="session")
def sides() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's side of TLS, and the client's."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client
