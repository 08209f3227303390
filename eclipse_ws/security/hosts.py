"""Host names: in development only requests to this machine's own names are answered (RFC 9110, 7.2).

There every client that reaches the server gets tokens. A web page may make its own name resolve to 127.0.0.1
once it is loaded (DNS rebinding), and its requests then have the same origin; but they carry that name.
"""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from typing import Any

import structlog
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler

from eclipse_ws.config.problems import printable
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol.schema import ErrorBody

log = structlog.get_logger("eclipse_ws.hosts")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{0,5})?")


class Hosts:
    """The allowed values of ``Host``. In production, and without the embedded API, every value is allowed.

    Allowed are addresses, localhost and its subdomains, the machine's own name, and the setting
    ``allowed_hosts``: exact names, and ``*.example.com`` for all subdomains of one.
    """

    def __init__(self, settings: Settings) -> None:
        self._checked = not settings.production and settings.api == "embedded"
        machine = socket.gethostname().lower()
        own = {"localhost", machine, f"{machine.partition('.')[0]}.local"}
        self._exact = own.union(name for name in settings.allowed_hosts if "*" not in name)
        self._below = (".localhost", *(name[1:] for name in settings.allowed_hosts if "*" in name))

    def allows(self, host: str) -> bool:
        """Whether a request with this ``Host``, with or without a port, is answered."""
        if not self._checked:
            return True
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].rstrip(".")
        return name in self._exact or name.endswith(self._below) or _is_address(name)


class HostApplication(Application):
    """Tornado's application; it checks ``Host`` first, on every route."""

    def __init__(self, routes: Any, hosts: Hosts, **settings: Any) -> None:
        super().__init__(routes, **settings)
        self._hosts = hosts

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """The route's handler, or one that responds 403."""
        # Browsers always send one; a client without one is not a browser.
        if self._hosts.allows(request.headers.get("Host") or "localhost"):
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, _WrongHost)


class _WrongHost(RequestHandler):
    def set_default_headers(self) -> None:
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")

    def prepare(self) -> None:
        """Respond 403 to every method."""
        name = printable(self.request.host)[:100]
        # A browser does not show the response to an upgrade.
        log.info("request refused", limit="allowed_hosts", host=name)
        self.set_status(403)
        text = (
            f"This server does not answer as {name!r} in development: add that name to ECLIPSE_ALLOWED_HOSTS"
        )
        self.finish(ErrorBody(text).fields())


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
