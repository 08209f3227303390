"""How a request to the application ends: with a response, or an error if there is none."""

from __future__ import annotations

from typing import Final, Literal

Reason = Literal[
    "unresolved", "refused", "untrusted", "no_tls", "timeout", "lost", "bad_response", "stopping"
]
"""Why there is no response.

- ``unresolved``: the host has no address;
- ``refused``: no connection to it;
- ``untrusted``: its certificate is not trusted;
- ``no_tls``: the TLS handshake failed;
- ``timeout``: there was no connection within the connect timeout, or no response by the deadline;
- ``lost``: the connection was closed or reset before the response was complete;
- ``bad_response``: the response is not HTTP, or too large;
- ``stopping``: the client was closed.
"""


class TransportError(Exception):
    """There is no response; ``str()`` says what happened."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Final = reason


class Headers(dict[str, str]):
    """A response's headers, those that are read, by their usual names; the values of one are its lines."""

    def get_list(self, name: str) -> list[str]:
        """All values of a header, as Tornado's HTTPHeaders returns them."""
        return self[name].split("\n") if name in self else []


class ApiResponse:
    """A response: its status ``code``, ``headers`` and decoded ``body``."""

    __slots__ = ("body", "code", "headers")

    def __init__(self, code: int, headers: Headers, body: bytes) -> None:
        self.code = code
        self.headers = headers
        self.body = body


Result = ApiResponse | TransportError
"""How a request ends."""
