"""Tornado's curl client, cut down to what calls to one JSON API need."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient, CurlError
from tornado.httpclient import HTTPRequest, HTTPResponse

from eclipse_ws.application.curl_handle import ApiRequest, Handle
from eclipse_ws.websocket.readiness import BROKEN, READ, WRITE, is_closed_by_peer, watch

_EVENTS: Final = {
    pycurl.POLL_IN: READ,
    pycurl.POLL_OUT: WRITE,
    pycurl.POLL_INOUT: READ | WRITE,
}
_PER_TURN: Final = 64
"""Sockets that are served before everything else on the loop has its turn again."""


class ApiClient(CurlAsyncHTTPClient):
    """The same client with a path of its own for ApiRequests, at a fraction of the time per call.

    Tornado's covers every option of HTTPRequest, sets all of them anew for each, puts a file descriptor into
    the event loop and takes it out again for each answer, moves a timer three times meanwhile, reads every
    header, measures eight durations, and at level debug writes requests to the log as they are, secrets
    included. This one watches libcurl's sockets with a `Readiness`, which costs the loop one callback a turn;
    lets a timer fire in vain rather than move it; and leaves to its handles what is set once.
    It follows no redirect (see `Call`), and takes no proxy from the environment. ``max_idle`` is how many
    seconds a connection is kept unused, ``ca`` the file of the authorities that are trusted.

    A kept connection can be lost, and libcurl has an answer to that which a POST can't live with: it sends
    again, though the other side may have handled the request before it died. Here a ``once`` request that
    was begun is never begun again. But a connection that the other side had closed before is found out
    before anything is sent (libcurl itself looks only after a second of idleness), and the request goes
    over a new one.

    It overrides what Tornado calls by a leading underscore: the package's range of Tornado versions is
    narrow for this too, and the tests of HttpApi run against it.
    """

    def initialize(  # type: ignore[override]
        self, max_idle: float = 4, ca: str = "", **kwargs: Any
    ) -> None:
        """Set up as Tornado does."""
        self._ca = ca
        # Whole seconds is what libcurl takes. Servers close idle connections, Node's after 5 s.
        self._max_idle = max(1, int(max_idle))
        self._kept: dict[int, int] = {}  # idle connections: local port -> file descriptor
        self._handles: dict[pycurl.Curl, Handle] = {}
        self._loop = asyncio.get_running_loop()
        self._readiness = watch(self._loop, self._ready)
        self._timer: asyncio.TimerHandle | None = None
        self._due: asyncio.Handle | None = None
        super().initialize(**kwargs)
        self._max_kept = 4 * len(self._curls)

    def close(self) -> None:
        """Close the handles and their connections. Calls under way would never end: let them end first."""
        for handle in (self._timer, self._due):
            if handle is not None:
                handle.cancel()
        super().close()
        self._handles.clear()
        self._readiness.close()

    def fetch(  # type: ignore[override]
        self, request: HTTPRequest, raise_error: bool = False
    ) -> asyncio.Future[HTTPResponse]:
        """Answer an ApiRequest's response, whatever its status; the future raises CurlError if there is none.

        At most ``max_clients`` may be under way. A request that can't be sent makes it raise what was wrong.
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
        handle = Handle(self.max_body_size, self._max_idle, self._closed_by_peer, self._ca)
        self._handles[handle.curl] = handle
        return handle.curl

    def _finish(
        self, curl: pycurl.Curl, curl_error: int | None = None, curl_message: str | None = None
    ) -> None:
        handle = self._handles[curl]
        if not curl_error:
            self._keep(curl.getinfo(pycurl.LOCAL_PORT), curl.getinfo(pycurl.ACTIVESOCKET))
        self._multi.remove_handle(curl)
        if handle.sending.stale and not handle.sending.fresh:
            handle.again()
            self._multi.add_handle(curl)
            return
        future, answer = handle.future, curl_message or ""
        if handle.too_large:
            answer = f"the answer is larger than {self.max_body_size} bytes"
        response = None if curl_error else handle.response()
        handle.release()
        self._free_list.append(curl)
        if future.done():
            return  # nobody waits any more
        if response is None:
            future.set_exception(CurlError(curl_error or 0, answer))
        else:
            future.set_result(response)

    # What libcurl asks for

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
                # Once for all the calls that begin in this turn.
                self._due = self._loop.call_soon(self._handle_timeout)
        elif msecs > 0:
            when = self._loop.time() + msecs / 1000
            if self._timer is None or when < self._timer.when():
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._loop.call_at(when, self._handle_timeout)

    # What the event loop calls

    def _handle_timeout(self) -> None:
        now = self._loop.time()
        if self._timer is not None and self._timer.when() <= now:
            self._timer = None
        self._due = None
        self._act(pycurl.SOCKET_TIMEOUT, 0)
        self._finish_pending_requests()
        if self._timer is None:
            # libcurl's clock may be behind, or it has asked for a later time in vain: what is left?
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
        with contextlib.suppress(pycurl.error):  # of one socket; what it means for its call is said there
            self._multi.socket_action(fd, action)

    def _process_queue(self) -> None:
        """Nothing: nobody waits here for a handle."""

    # Idle connections

    def _keep(self, local_port: int, fd: int) -> None:
        if len(self._kept) >= self._max_kept:
            self._kept.clear()  # of those that libcurl has closed by itself nobody tells
        self._kept[local_port] = fd

    def _closed_by_peer(self, local_port: int) -> bool:
        fd = self._kept.pop(local_port, -1)
        if fd < 0:
            return False
        return is_closed_by_peer(fd)
