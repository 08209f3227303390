"""HTTP handlers: health, metrics, the routes for the application, the widget's files and the demo."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final

import msgspec
import structlog
from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, URLSpec
from tornado.web import Finish, HTTPError, RequestHandler

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.delivery import keys
from eclipse_ws.delivery.marks import Ban
from eclipse_ws.delivery.records import Attempt
from eclipse_ws.observability.histogram import CachedPage
from eclipse_ws.protocol import CloseCode, MalformedEventError, bounded, parse_event, untimed
from eclipse_ws.protocol.schema import Disconnected, DisconnectRequest, ErrorBody, Published
from eclipse_ws.security.jwt import is_name
from eclipse_ws.server import metrics, static_files
from eclipse_ws.server.file_share import FileShare
from eclipse_ws.sessions import health, watchers
from eclipse_ws.sessions.node import Node

log = structlog.get_logger("eclipse_ws.http")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class JsonHandler(RequestHandler):
    """Responds with JSON; errors show only their status and one sentence."""

    internal = False
    """Whether it is served at ``admin_port`` only, if that is set."""
    needs_secret = False
    """Whether requests must carry the shared secret."""
    takes_body = False
    """Whether the body is kept; otherwise it is read and dropped."""

    def initialize(self, node: Node) -> None:
        """Store the node, which every route passes to its handler."""
        self.node = node

    def prepare(self) -> None:
        """Require the secret: 401 without it, 429 after many wrong ones, 503 if none is configured.

        The listener does so before it reads the body; this check is for handlers served without it.
        """
        refusal = self.node.internal_auth.refusal(self.request) if self.needs_secret else None
        if refusal is not None:
            self.set_status(refusal.status)
            if refusal.retry_after:
                self.set_header("Retry-After", refusal.retry_after)
            self.finish(refusal.body.fields())
            raise Finish

    def set_default_headers(self) -> None:
        """Disable content sniffing and caching in browsers."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Respond ``{"error": ...}``."""
        error = kwargs.get("exc_info", (None, None))[1]
        text = error.log_message if isinstance(error, HTTPError) and error.log_message else self._reason
        if status_code == 405:
            known = [name for name in self.SUPPORTED_METHODS if self._knows(name.lower())]
            self.set_header("Allow", ", ".join(known))
        self.finish(ErrorBody(text).fields())

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log a traceback, except for an HTTPError, which is in the access log."""
        if not isinstance(value, HTTPError):
            super().log_exception(typ, value, tb)

    def _knows(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(RequestHandler, method)

    def data_received(self, chunk: bytes) -> None:
        """Not used: bodies are bounded by the server."""


class NotFound(JsonHandler):
    """Every unknown path."""

    def prepare(self) -> None:
        """Respond before any other check."""
        raise HTTPError(404, "Unknown path; WebSockets are at / and /ws, health is at /health")


class Health(JsonHandler):
    """``GET /health`` (section 8)."""

    async def get(self) -> None:
        """Respond with the health document; 503 while draining."""
        await health.answer(self, self.node)

    head = get

    def options(self) -> None:
        """Answer a CORS preflight."""
        health.answer_preflight(self)


class Metrics(JsonHandler):
    """``GET /metrics``: Prometheus' text format."""

    internal = True

    def initialize(self, node: Node, page: CachedPage | None = None) -> None:
        """Store the page that all requests share, and the node."""
        super().initialize(node)
        self.page = page or _metrics_page(node)

    async def get(self) -> None:
        """Respond with all metrics; 503 if a worker can't have its machine's, rather than with its own."""
        machine = self.node.machine
        page = await self.page.fetch() if machine is None else await machine.metrics()
        if page is None:
            raise HTTPError(503, "The workers' supervisor does not respond; try again")
        self.set_header("Content-Type", metrics.CONTENT_TYPE)
        self.finish(page)


class GuardedMetrics(Metrics):
    """The same on a public port: it requires the shared secret."""

    needs_secret = True


class ApplicationHandler(JsonHandler):
    """A route for the application only, with the shared secret (section 7)."""

    internal = True
    needs_secret = True
    takes_body = True


class Events(ApplicationHandler):
    """``POST /api/chats/{chatId}/events``."""

    async def post(self, chat: str) -> None:
        """Sequence and publish the event in the body: 202 ``{cursor}``; ``Idempotency-Key`` is honoured."""
        most = self.node.settings.max_event
        if len(self.request.body) > most:
            raise HTTPError(413, f"The event must have at most {most} bytes")
        try:
            event = parse_event(self.request.body)
        except MalformedEventError as error:
            raise HTTPError(
                400, f"The body must be an event, a JSON object with a string type: {error}"
            ) from None
        if event.cursor is not None:
            raise HTTPError(400, "The event must not have a cursor: the server assigns one")
        chat_id = _chat_id(chat)
        if not event.kept:
            self.node.delivery.broadcast(chat_id, event)
            self.set_status(202)
            self.finish(Published(None).fields())
            return
        key = self.request.headers.get("Idempotency-Key")
        attempt: Attempt | None = None
        if key is not None:
            if not 1 <= len(key) <= 128:
                raise HTTPError(400, "Idempotency-Key must have 1 to 128 characters")
            # Publishing is idempotent (by an event's identity), so an unknown outcome may be repeated.
            attempt = await self.node.delivery.attempt(
                chat_id,
                keys.application_key(chat_id, key),
                fingerprint=keys.fingerprint(untimed(event)),
                retry_unknown=True,
            )
            if attempt.state == "reused":
                self.set_status(422)
                text = "The Idempotency-Key was used for another event"
                self.finish(ErrorBody(text, code="key_reused").fields())
                return
        if attempt is not None and attempt.receipt is not None:
            receipt = attempt.receipt
        else:
            receipt = await self.node.delivery.publish(chat_id, event, attempt)
        self.set_status(202)
        self.finish(Published(receipt.cursor, receipt.delivery).fields())


MAX_BAN: Final = 366 * 86400
"""Seconds that a ban may last; the application gives no token to a user whom it refuses forever."""
_decode_disconnect = bounded(msgspec.json.Decoder(DisconnectRequest).decode)


class Disconnect(ApplicationHandler):
    """``POST /api/chats/{chatId}/disconnect``."""

    async def post(self, chat: str) -> None:
        """End the chat's sessions (of one user) on all nodes with 4003: ``{disconnected}``."""
        try:
            body = _decode_disconnect(self.request.body or b"{}")
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise HTTPError(400, f"The body must be {{userId?, reason?, until?}}: {error}") from None
        reason = body.reason or CloseCode.KICKED.reason
        if len(reason.encode()) > 123:
            raise HTTPError(
                400, "reason must have at most 123 bytes of UTF-8: it becomes a close frame's reason"
            )
        chat_id = _chat_id(chat)
        if body.until is not None:
            await self._ban(chat_id, body.user_id, body.until, reason)
        question = {"disconnect": {"chatId": chat_id, "userId": body.user_id, "reason": reason}}
        answers = await self.node.delivery.ask(question)
        count = sum(answer for answer in answers.values if isinstance(answer, int))
        self.finish(Disconnected(count).fields())

    async def _ban(self, chat_id: str, user_id: str | None, until: float, reason: str) -> None:
        """Have every node refuse a user from now on; if that can't be done, nobody is disconnected."""
        if not is_name(user_id):
            raise HTTPError(400, "until needs the userId of the user to refuse")
        if until > time.time() + MAX_BAN:
            raise HTTPError(400, f"until must be in seconds since 1970, at most {MAX_BAN} seconds from now")
        try:
            banned = await self.node.delivery.marks.ban(chat_id, Ban(user_id, until, reason))
        except Unavailable:
            self.set_status(503)
            self.set_header("Retry-After", "1")
            self.finish(ErrorBody("The backend is unavailable; nobody was disconnected: try again").fields())
            raise Finish from None
        if not banned:
            raise HTTPError(409, "The chat has too many bans; nobody was disconnected")


class Presence(ApplicationHandler):
    """``GET /api/chats/{chatId}/presence``."""

    takes_body = False

    async def get(self, chat: str) -> None:
        """Respond with the users who are in the chat, on all nodes: ``{users, count}``."""
        answers = await self.node.delivery.ask({"presence": _chat_id(chat)})
        self.finish(watchers.merged(answers.values).fields())


class File(JsonHandler):
    """The widget's files and the demo's pages."""

    def initialize(self, node: Node, share: FileShare | None = None) -> None:
        """Store what all files may take of the time, and the node."""
        super().initialize(node)
        self.share = share or _file_share(node)

    async def get(self, name: str) -> None:
        """Respond with a file, compressed if accepted; 304 if unchanged. A range gets the whole file."""
        await self.share.turn()
        file = static_files.find(name)
        if file is None:
            raise HTTPError(404)
        # Revalidated each time, which costs a 304: the widget must not load a client of another version.
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Type", file.kind)
        self.set_header("Last-Modified", file.modified)
        # Only here: a response that contains a secret would leak it by its compressed length.
        compressed = takes_gzip(self.request.headers.get("Accept-Encoding", ""))
        self.set_header("Etag", file.compressed_etag if compressed else file.etag)
        self.set_header("Vary", "Accept-Encoding")
        if name.endswith(".html"):
            self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            self.set_header("Referrer-Policy", "no-referrer")
            self.set_header("X-Frame-Options", "DENY")
        else:
            self.set_header("Access-Control-Allow-Origin", "*")
            self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        if self._is_known(file):
            self.set_status(304)
            self.finish()
            return
        body = file.compressed if compressed else file.plain
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        self.set_header("Content-Length", len(body))
        self.flush()  # the headers only: so the body is not copied for each slow peer
        if self.request.method != "HEAD":
            self.write(body)
        self.finish()

    head = get

    def _is_known(self, file: static_files.Asset) -> bool:
        if "If-None-Match" in self.request.headers:
            return self.check_etag_header()
        try:
            since = parsedate_to_datetime(self.request.headers.get("If-Modified-Since", ""))
        except (ValueError, OverflowError):
            return False
        return (since if since.tzinfo else since.replace(tzinfo=UTC)) >= file.modified


def _chat_id(chat_id: str) -> str:
    """The path's decoded segment if it is a valid chat id; raises a 400 otherwise."""
    if not 1 <= len(chat_id) <= 256 or any(char < " " or char == "\x7f" for char in chat_id):
        raise HTTPError(400, "The chat id must have 1 to 256 characters and no control characters")
    return chat_id


def routes(node: Node) -> list[URLSpec]:
    """All routes except the WebSockets'."""
    static_files.read_all()
    settings = node.settings
    arguments: dict[str, Any] = {"node": node}
    files = {**arguments, "share": _file_share(node)}
    guarded = settings.production and settings.admin_port is None and settings.metrics_port is None
    found = [
        URLSpec(r"/health", Health, arguments, name="health"),
        URLSpec(
            r"/metrics",
            GuardedMetrics if guarded else Metrics,
            {**arguments, "page": _metrics_page(node)},
            name="metrics",
        ),
        URLSpec(r"/api/chats/([^/]+)/events", Events, arguments),
        URLSpec(r"/api/chats/([^/]+)/disconnect", Disconnect, arguments),
        URLSpec(r"/api/chats/([^/]+)/presence", Presence, arguments),
        URLSpec(r"/((?:widget|eclipse-chat)(?:\.(?:panel|[a-z]{2}))?\.(?:js|d\.ts))", File, files),
    ]
    if settings.has_demo:
        front = URLSpec(r"/", _RedirectToDemo, arguments)
        front.matcher = _PrefersHtml(r"/")
        found += [
            front,
            URLSpec(r"/(demo)", _DemoPage, files),
            URLSpec(r"/(demo/agent)", _DemoPage, files),
            URLSpec(r"/static/([a-z0-9.-]+)", File, files),
        ]
    return found


def _file_share(node: Node) -> FileShare:
    stats = node.wire_stats
    return FileShare(lambda: stats.frames_in + stats.frames_out)


def _metrics_page(node: Node) -> CachedPage:
    return CachedPage(lambda: metrics.exposition(node))


def is_internal(route: URLSpec) -> bool:
    """Whether a route moves to ``admin_port`` if that is set."""
    return bool(getattr(route.handler_class, "internal", False))


class _DemoPage(File):
    """A page of the demo: ``/demo/agent`` is ``demo-agent.html``."""

    async def get(self, name: str) -> None:
        await super().get(name.replace("/", "-") + ".html")

    head = get


class _PrefersHtml(PathMatches):
    """Matches the path when a browser requests a page."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        headers = request.headers
        page = "Upgrade" not in headers and prefers_html(headers.get("Accept", ""))
        return super().match(request) if page and request.method == "GET" else None


class _RedirectToDemo(JsonHandler):
    """``GET /`` of a browser, if the demo is served."""

    def get(self) -> None:
        self.set_header("Vary", "Accept")
        self.redirect("/demo")


def takes_gzip(accepted: str) -> bool:
    """Whether a header ``Accept-Encoding`` names gzip, with another weight than 0."""
    for part in accepted.lower().split(","):
        name, _, weight = part.replace(" ", "").partition(";q=")
        if name == "gzip":
            return not weight or weight.strip("0.") != ""
    return False


def prefers_html(accept: str) -> bool:
    """Whether a header ``Accept`` prefers HTML to JSON, as a browser's does."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        given = [piece.removeprefix("q=") for piece in parameters if piece.startswith("q=")]
        try:
            weights[kind] = float(given[0]) if given else 1
        except ValueError:
            weights[kind] = 0
    json = next(
        (weights[kind] for kind in ("application/json", "application/*", "*/*") if kind in weights), 0
    )
    return weights.get("text/html", 0) > json
