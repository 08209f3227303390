"""The server: wiring, listening, draining."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import structlog
from tornado.routing import URLSpec

from eclipse_ws import backends
from eclipse_ws.application.base import ApiError, ChatApi
from eclipse_ws.application.reporter import Reporter
from eclipse_ws.application.reports_client import ReportsClient, reports_url
from eclipse_ws.config.key_material import KeyMaterialError, load_certificate, tls_context
from eclipse_ws.config.loading import Loaded
from eclipse_ws.config.settings import RELOADED, Settings, variable
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.observability.logging import log_request, mask_also
from eclipse_ws.protocol import CloseCode, parse_event
from eclipse_ws.security.hosts import HostApplication
from eclipse_ws.security.jwt import Verifier
from eclipse_ws.server import file_descriptors, http_handlers
from eclipse_ws.server.garbage import collector
from eclipse_ws.server.listener import Listener
from eclipse_ws.server.ports import Sockets, StartError, close, listen_at_all
from eclipse_ws.server.reloading import read
from eclipse_ws.server.sweeper import Sweeper
from eclipse_ws.server.turnstile import Turnstile
from eclipse_ws.server.upgrades import Upgrades
from eclipse_ws.sessions.commands import Commands
from eclipse_ws.sessions.hub import Hub
from eclipse_ws.sessions.node import Node
from eclipse_ws.sessions.session import ChatSession

log = structlog.get_logger("eclipse_ws.server")

Publish = Callable[[str, bytes], Awaitable[object]]
CLOSE_TIMEOUT = 5.0
"""Seconds that a peer has to answer a close frame."""
LAST_CLOSES = 1.0
"""Seconds that the last sessions have to respond to their close frames."""
SPREAD = 0.95
"""Fraction of ``drain_seconds`` over which sessions are closed; the rest is for the last ones' closes."""
CATCH_UP, CATCH_UP_AT_ONCE = 1.1, 0.015
"""After a stall: how much faster than planned sessions are closed, and the largest fraction at once."""
STOP_CLOSES = 0.5
"""The same on a stop without a drain; then their sockets are aborted."""


class Server:
    """One node: everything made of its settings, started, drained and stopped."""

    def __init__(self, settings: Settings, http_connections: int | None = None) -> None:
        """``http_connections``: how many at once on the public port, if files are too few for all."""
        self.settings = settings
        self.backend = backends.create(settings.backend, settings)
        self.api, api_routes = _application(settings, self._publish)
        self.delivery = Delivery(settings, self.backend)
        self.hub = Hub(self.delivery)
        self.node = Node(
            settings=settings,
            backend=self.backend,
            delivery=self.delivery,
            api=self.api,
            hub=self.hub,
            commands=Commands(settings, self.delivery, self.api),
            verifier=Verifier(settings),
        )
        self._tls = tls_context(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        routes = http_handlers.routes(self.node)
        sockets = URLSpec(r"/(?:ws)?", ChatSession, {"node": self.node})
        apart, scraped = settings.admin_port is not None, settings.metrics_port is not None
        health = [route for route in routes if route.name == "health"]
        page = [route for route in routes if route.name == "metrics"]
        internal = [route for route in routes if http_handlers.is_internal(route)]
        public = [route for route in routes if not (apart and route in internal)]
        if scraped:
            public, internal = ([r for r in some if r not in page] for some in (public, internal))
        if http_connections is None:
            http_connections = file_descriptors.HTTP_CONNECTIONS
        inside = file_descriptors.INTERNAL_CONNECTIONS
        self._http = self._listener([*public, *api_routes, sockets], http_connections, self._tls)
        if self._tls is None and not settings.compression:
            self._http.upgrade = Upgrades(self._http.application, self.node)
        # Without TLS: these addresses are for the application and a monitor, not for the world.
        self._admin = self._listener([*internal, *health], inside) if apart else None
        self._metrics = self._listener([*page, *health], inside) if scraped else None
        self._listeners = [each for each in (self._http, self._admin, self._metrics) if each is not None]
        self.node.http_connections = lambda: sum(len(each.connections) for each in self._listeners)
        self._sweeper = Sweeper(self.node, self._sessions, self._listeners)
        self._started = self._stopped = False
        self._alone = asyncio.Event()  # set if no other node takes over this one's chats
        self.generated: frozenset[str] | None = None
        """Settings that were generated at the start; None if unknown: then those of a reload count."""
        self.port = settings.port
        self.admin_port = settings.admin_port
        self.metrics_port = settings.metrics_port

    def _listener(self, routes: list[URLSpec], most: int, tls: ssl.SSLContext | None = None) -> Listener:
        settings, node = self.settings, self.node
        application = HostApplication(
            routes,
            node.hosts,
            default_handler_class=http_handlers.NotFound,
            default_handler_args={"node": node},
            log_function=lambda handler: log_request(
                handler, lambda request: node.sources.of_request(request).address
            ),
            origins=node.origins,
            internal_auth=node.internal_auth,
            wire_max_message=settings.max_frame,
            wire_queue_bytes=settings.queue_bytes,
            wire_ping_interval=settings.ping_interval,
            wire_ping_timeout=settings.ping_timeout,
            wire_close_timeout=CLOSE_TIMEOUT,
            wire_stats=node.wire_stats,
        )
        return Listener(application, settings, node.internal_auth, tls, most)

    def share(self, turnstile: Turnstile) -> None:
        """Accept in turn with other workers, who have the same listening sockets."""
        for listener in self._listeners:
            listener.turnstile = turnstile

    @property
    def connections(self) -> int:
        """Connections of all kinds: sessions, HTTP, and accepted sockets that are not yet served."""
        listeners = sum(len(each.connections) + each.waiting for each in self._listeners)
        return self.node.wire_stats.sockets + listeners

    async def start(self, inherited: Sockets | None = None) -> None:
        """Listen, start the API client and the backend, then accept. Raises StartError, BackendError.

        ``inherited`` are sockets that listen already.
        """
        sockets = listen_at_all(self.settings) if inherited is None else inherited
        for name, each in sockets.items():
            setattr(self, name, each[0].getsockname()[1])
        try:
            await self.api.start()
            await self.delivery.start(self.hub)
        except BaseException as error:
            close(*sockets.values())
            await self.api.close()
            await self.delivery.close()
            if isinstance(error, ApiError):
                fix = "set ECLIPSE_EMBEDDED_DB to a file that can be written, or to :memory:"
                raise StartError(f"the embedded API can't start: {error}. Fix: {fix}") from error
            raise
        listeners = {"port": self._http, "admin_port": self._admin, "metrics_port": self._metrics}
        for name, listener in listeners.items():
            if listener is not None:
                listener.add_sockets(sockets[name])
        if url := reports_url(self.settings, self.port):
            client = ReportsClient(self.settings, url)
            self.node.reporter = Reporter(self.backend, self.delivery, client)
            await self.node.reporter.start()
        self._sweeper.start()
        self.node.lag.start()
        collector.start()
        self._started = True
        log.info(
            "server started",
            host=self.settings.host,
            port=self.port,
            backend=self.backend.name,
            api=self.settings.api,
        )

    async def drain(self) -> None:
        """Refuse upgrades, finish commands in progress, and close the sessions over ``drain_seconds``.

        Meanwhile the other nodes take the chats over, so that clients can resume on any node. Where none
        does, the sessions are closed at once: no node serves them until this one is started again.
        """
        if self.node.draining:
            return
        self.node.draining = True
        clock = asyncio.get_running_loop().time
        sessions = self._sessions()
        self.node.drain_sessions = len(sessions)
        log.info("drain started", sessions=len(sessions), seconds=self.settings.drain_seconds)
        handing = asyncio.create_task(self._hand_over())
        await self._close_evenly(sessions)
        # Waiting commands have api_timeout to begin, and the last one has it to end: a command that is
        # aborted may be saved without any client knowing.
        deadline = clock() + LAST_CLOSES
        command_deadline = deadline + 2 * self.settings.api_timeout
        while self.node.sessions or self.node.under_way:
            if clock() > (command_deadline if self.node.under_way else deadline):
                break
            for session in self._sessions():
                if not session.retiring:  # it was joining when the others were closed
                    session.retire()
            await asyncio.sleep(0.02)
        await handing
        if not self._alone.is_set():
            await self._hand_over()  # chats that were joined meanwhile

    async def _close_evenly(self, sessions: Sequence[ChatSession]) -> None:
        """Retire the sessions evenly, so that they don't reach the other nodes all at once.

        After a stall the remaining ones are paced too. Without another node there is nothing to pace.
        """
        spread, count = SPREAD * self.settings.drain_seconds, max(1, len(sessions))
        clock = asyncio.get_running_loop().time
        began = last = clock()
        most, rate = max(1.0, CATCH_UP_AT_ONCE * count), CATCH_UP * count / max(spread, 0.001)
        allowed = most
        for number, session in enumerate(sessions):
            while spread and not self._alone.is_set():
                # By the clock rather than by sleeping: a thousand short sleeps would take twice as long.
                now = clock()
                allowed, last = min(most, allowed + (now - last) * rate), now
                ahead = max(began + number * spread / count - now, (1 - allowed) / rate)
                if ahead <= 0 or now - began > self.settings.drain_seconds:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ahead):
                        await self._alone.wait()
            allowed -= 1
            session.retire()

    async def _hand_over(self) -> None:
        try:
            taken = await self.delivery.hand_over()
            if taken is None:
                self._alone.set()
            self.node.handed_over = taken or 0
        except Exception:
            # The sessions have to be closed all the same.
            log.exception("handover failed")

    def reload(self, loaded: Loaded) -> None:
        """Apply new secrets, keys, origins, limits and certificates; sessions stay open.

        Generated settings stay unchanged, and settings that need a restart are logged. A setting that was
        removed since the start is gone: a removed secret must not stay valid. An invalid certificate leaves
        the current one in place.
        """
        before = self.node.settings
        generated = loaded.generated if self.generated is None else self.generated & loaded.generated
        kept = {name: getattr(before, name) for name in generated}
        self.generated = loaded.generated
        fresh = loaded.settings.model_copy(update=kept)
        changed = [name for name in RELOADED if getattr(fresh, name) != getattr(before, name)]
        mask_also(fresh)
        self.node.reload(fresh)
        if self._tls is not None and fresh.tls_cert:
            try:
                load_certificate(self._tls, fresh.tls_cert, fresh.tls_key)
            except KeyMaterialError as error:
                log.error("certificate reload failed", why=f"ECLIPSE_TLS_CERT {error}")
        fixed = [
            variable(name)
            for name in type(before).model_fields
            if name not in RELOADED and getattr(fresh, name) != getattr(self.settings, name)
        ]
        log.info("settings reloaded", changed=[variable(name) for name in changed], needs_restart=fixed)

    def stop_listening(self) -> None:
        """Give the ports up; open connections continue. Idempotent."""
        for listener in self._listeners:
            listener.stop()

    async def _publish(self, chat_id: str, event: bytes) -> None:
        """Publish what the embedded API has for a chat, like an event from the real application."""
        if not self._stopped:
            await self.delivery.publish(chat_id, parse_event(event))

    def _sessions(self) -> list[ChatSession]:
        return [session for session in self.hub.members() if isinstance(session, ChatSession)]

    async def stop(self) -> None:
        """Stop listening, close remaining sessions, and release everything. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self.node.draining = True
        self._sweeper.stop()
        self.node.lag.stop()
        self.stop_listening()
        if self.node.reporter is not None:
            await self.node.reporter.close()
        for session in self._sessions():
            session.end(CloseCode.RESTARTING)
        deadline = asyncio.get_running_loop().time() + STOP_CLOSES
        while self.hub.sessions:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.01)
        for session in self._sessions():
            session.wire.abort()
        for listener in self._listeners:
            await listener.close_all_connections()
        await self.node.commands.readers.close()
        await self.delivery.close()
        await self.api.close()
        if self._started:
            collector.stop()
        log.info("server stopped")


async def serve(
    settings: Settings,
    notes: Sequence[str] = (),
    started: Callable[[Server], None] | None = None,
    load: Callable[[], Loaded] | None = None,
    generated: frozenset[str] = frozenset(),
) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal stops at once.

    Raises StartError, BackendError.

    On SIGHUP ``load`` is called, and its reloadable settings are applied (`Server.reload`); ``generated``
    names the settings that no source sets.
    """
    for note in notes:
        log.warning(note)
    settings, http_connections, warning = file_descriptors.fit(settings)
    if warning:
        log.warning(warning)
    server = Server(settings, http_connections)
    server.generated = generated
    loop = asyncio.get_running_loop()
    stopping, aborting = asyncio.Event(), asyncio.Event()

    def on_signal(name: str) -> None:
        (aborting if stopping.is_set() else stopping).set()
        log.info("signal received", name=name)

    def on_hangup() -> None:
        loaded = None if load is None else read(load)
        if loaded is not None:
            server.reload(replace(loaded, settings=file_descriptors.fit(loaded.settings)[0]))

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    try:
        # A signal during the start cancels it: there is nothing to drain yet.
        if await unless(stopping, server.start()):
            if started is not None:
                started(server)
            await stopping.wait()
            await unless(aborting, server.drain())
    finally:
        await server.stop()


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, or cancel it if the event comes first. Returns whether it was done; raises its errors."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    done = working.done()
    if not done:
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return done


def _application(settings: Settings, publish: Publish) -> tuple[ChatApi, list[URLSpec]]:
    """The application client that the settings name, and the routes that it serves itself.

    ``publish`` publishes an event, given as JSON, to a chat.
    """
    if settings.api == "embedded":
        from eclipse_ws.application.embedded import EmbeddedApi
        from eclipse_ws.application.embedded_routes import routes

        embedded = EmbeddedApi(settings, publish)
        return embedded, routes(embedded)
    from eclipse_ws.application.http import HttpApi

    return HttpApi(settings), []
