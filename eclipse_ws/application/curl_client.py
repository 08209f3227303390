"""Tornado's curl client, cut down to what calls to one JSON API need."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient, CurlError
from tornado.httpclient import HTTPRequest, HTTPResponse

from eclipse_ws.application.curl_handle import ApiRequest, CurlHandle
from eclipse_ws.websocket.readiness import BROKEN, READ, WRITE, is_closed_by_peer, watch

_EVENTS: Final = {
    pycurl.POLL_IN: READ,
    pycurl.POLL_OUT: WRITE,
    pycurl.POLL_INOUT: READ | WRITE,
}
_PER_TURN: Final = 64
"""Sockets that are served in one turn of the loop."""


class ApiClient(CurlAsyncHTTPClient):
    """Tornado's client with a faster path for ApiRequests, at a fraction of the time per call.

    Tornado's supports every option of HTTPRequest and sets all of them for each request, adds a file
    descriptor to the event loop and removes it again for each response, moves a timer three times meanwhile,
    parses every header, measures eight durations, and at level debug logs requests unmasked, secrets
    included. This one watches libcurl's sockets with a `Readiness`, which costs the loop one callback a turn;
    lets a timer fire early rather than move it; and sets constant options once, in its handles.
    It follows no redirect (see `Call`), and ignores proxies in the environment. ``max_idle`` is how many
    seconds an unused connection is kept, ``ca`` the file of the trusted authorities.

    When a persistent connection is lost, libcurl sends the request again, which is wrong for a POST: the peer
    may have handled the request before. Here a ``once`` request that was begun is never sent again. But a
    connection that the peer had already closed is detected before anything is sent (libcurl itself checks
    only after a second of idleness), and the request goes over a new one.

    It overrides methods with a leading underscore: this is a reason for the package's narrow range of Tornado
    versions, and the tests of HttpApi cover them.
    """

    def initialize(  # type: ignore[override]
        self, max_idle: float = 4, ca: str = "", **kwargs: Any
    ) -> None:
        """Set up as Tornado does."""
        self._ca = ca
        # Whole seconds is what libcurl takes. Servers close idle connections, Node's after 5 s.
        self._max_idle = max(1, int(max_idle))
        self._idle: dict[int, int] = {}  # idle connections: local port -> file descriptor
        self._handles: dict[pycurl.Curl, CurlHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._readiness = watch(self._loop, self._ready)
        self._timer: asyncio.TimerHandle | None = None
        self._due: asyncio.Handle | None = None
        super().initialize(**kwargs)
        self._max_idle_connections = 4 * len(self._curls)

    def close(self) -> None:
        """Close the handles and their connections. Wait for calls in progress first: they would never end."""
        for handle in (self._timer, self._due):
            if handle is not None:
                handle.cancel()
        super().close()
        self._handles.clear()
        self._readiness.close()

    def fetch(  # type: ignore[override]
        self, request: HTTPRequest, raise_error: bool = False
    ) -> asyncio.Future[HTTPResponse]:
        """The response to an ApiRequest, whatever its status; the future raises CurlError if there is none.

        At most ``max_clients`` requests may be in progress. For a request that can't be sent, the future
        raises the reason.
        """
        assert isinstance(request, ApiRequest)
        assert not raise_error
        future: asyncio.Future[HTTPResponse] = self._loop.create_future()
        curl = self._free_list.pop()
        try:
            self._handles[curl].prepare(request, future)
        except Exception as error:
            self._free_list.append(curl)
            future.set_exception(error)
        else:
            self._multi.add_handle(curl)
        return future

    def _curl_create(self) -> pycurl.Curl:
        handle = CurlHandle(self.max_body_size, self._max_idle, self._closed_by_peer, self._ca)
        self._handles[handle.curl] = handle
        return handle.curl

    def _finish(
        self, curl: pycurl.Curl, curl_error: int | None = None, curl_message: str | None = None
    ) -> None:
        handle = self._handles[curl]
        if not curl_error:
            self._keep(curl.getinfo(pycurl.LOCAL_PORT), curl.getinfo(pycurl.ACTIVESOCKET))
        self._multi.remove_handle(curl)
        if handle.transfer.stale and not handle.transfer.fresh:
            handle.retry()
            self._multi.add_handle(curl)
            return
        future, message = handle.future, curl_message or ""
        if handle.too_large:
            message = f"the response is larger than {self.max_body_size} bytes"
        response = None if curl_error else handle.response()
        handle.release()
        self._free_list.append(curl)
        if future.done():
            return  # the caller was cancelled
        if response is None:
            future.set_exception(CurlError(curl_error or 0, message))
        else:
            future.set_result(response)

    # Callbacks of libcurl

    def _handle_socket(self, event: int, fd: int, multi: pycurl.CurlMulti, data: Any) -> None:
        if event == pycurl.POLL_REMOVE:
            with contextlib.suppress(OSError):  # the kernel forgets a descriptor that is closed
                self._readiness.unregister(fd)
            return
        try:
            self._readiness.register(fd, _EVENTS[event])
        except FileExistsError:
            self._readiness.modify(fd, _EVENTS[event])

    def _set_timeout(self, msecs: int) -> None:
        if msecs == 0:
            if self._due is None:
                # Once for all calls that begin in this turn.
                self._due = self._loop.call_soon(self._handle_timeout)
        elif msecs > 0:
            when = self._loop.time() + msecs / 1000
            if self._timer is None or when < self._timer.when():
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._loop.call_at(when, self._handle_timeout)

    # Callbacks of the event loop

    def _handle_timeout(self) -> None:
        now = self._loop.time()
        if self._timer is not None and self._timer.when() <= now:
            self._timer = None
        self._due = None
        self._act(pycurl.SOCKET_TIMEOUT, 0)
        self._finish_pending_requests()
        if self._timer is None:
            # libcurl's clock may be behind, or it may have set a later timeout meanwhile.
            left = self._multi.timeout()
            if left >= 0:
                self._set_timeout(max(1, left))

    def _ready(self) -> None:
        for fd, event in self._readiness.poll(0, _PER_TURN):
            action = pycurl.CSELECT_IN if event & READ else 0
            if event & WRITE:
                action |= pycurl.CSELECT_OUT
            if event & BROKEN:
                action |= pycurl.CSELECT_ERR
            self._act(fd, action)
        self._finish_pending_requests()

    def _act(self, fd: int, action: int) -> None:
        with contextlib.suppress(pycurl.error):  # concerns one socket, whose call reports it
            self._multi.socket_action(fd, action)

    def _process_queue(self) -> None:
        """Do nothing: no request waits here for a handle."""

    # Idle connections

    def _keep(self, local_port: int, fd: int) -> None:
        if len(self._idle) >= self._max_idle_connections:
            self._idle.clear()  # libcurl does not report the ones that it closed itself
        self._idle[local_port] = fd

    def _closed_by_peer(self, local_port: int) -> bool:
        fd = self._idle.pop(local_port, -1)
        if fd < 0:
            return False
        return is_closed_by_peer(fd)
