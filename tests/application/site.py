"""The embedded API's routes on a port of their own, without the rest of the server."""

from __future__ import annotations

import json
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from eclipse_ws.application.embedded import EmbeddedApi
from eclipse_ws.application.embedded_routes import routes


class Site:
    """The embedded API's routes, listening."""

    def __init__(self, api: EmbeddedApi) -> None:
        self.api = api
        sockets = bind_sockets(0, "127.0.0.1")
        self.host = f"127.0.0.1:{sockets[0].getsockname()[1]}"
        self.url = f"http://{self.host}"
        self.server = HTTPServer(Application(routes(api), log_function=lambda handler: None), xheaders=True)
        self.server.add_sockets(sockets)

    async def ask(self, path: str, body: Any = None, **headers: str) -> HTTPResponse:
        """GET, or POST if there is a body; any status is an answer."""
        text = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        request = HTTPRequest(
            self.url + path,
            method="GET" if body is None else "POST",
            body=text,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        client = AsyncHTTPClient(force_instance=True)
        try:
            return await client.fetch(request, raise_error=False)
        finally:
            client.close()
