"""Logging: structlog over the standard library, one format for all lines, tokens and secrets masked."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote, urlsplit

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from eclipse_ws.config import application_headers
from eclipse_ws.config.key_material import previous_secrets
from eclipse_ws.config.problems import MASK, printable
from eclipse_ws.config.settings import Settings
from eclipse_ws.observability.log_limit import LogLimit

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest
    from tornado.web import RequestHandler

LOGGER = "eclipse_ws.log"
MAX_PATH = 200  # characters of a path in an access line
QUIET_PATHS = frozenset({"/", "/health", "/metrics"})
COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}
SHORTEST_SECRET = 4  # characters; masking every "a" would hide the log, not the secret
SHORTEST_HEADER = 8  # characters of a value in ECLIPSE_API_HEADERS: `true` may be one, and is not a secret

# Each alternative keeps its group and masks the rest. Quotes and backslashes end a value: JSON stays JSON.
# After `"limit": "token", ` comes the next field's name, which is not a token.
CREDENTIAL = re.compile(
    r"""(?ix)
      (\b(?:access_|refresh_|id_)?token=) [^\s&"'\\#]+
    | (\btoken["'\\]+\s*:\s*[b"'\\]+) [^\s"'\\]+
    | (\btoken["'\\]+\s*,\s*[b"'\\]+) [^\s"'\\]++ (?!["'\\]+\s*:)
    | (\bbearer[\s.]+) [\w.~+/=-]{8,}
    | (\bx-internal-secret["'\\]*\s*[:=,]\s*[b"'\\]*) [^\s"'\\]+
    | (\b[a-z][a-z0-9+.-]*://[^\s/:@"'\\]*:) [^\s/@"'\\]+ (?=@)
    | (\b)eyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?
    """,
    re.ASCII,
)

_access = logging.getLogger("eclipse_ws.access")
_installed: _Handler | None = None


class Masker:
    """Masks credentials in text: anything that looks like one, and the configured secrets' values."""

    def __init__(self, settings: Settings) -> None:
        self._known: set[str] = set()
        self._values: re.Pattern[str] | None = None
        self.learn(settings)

    def learn(self, settings: Settings) -> None:
        """Mask these settings' secrets too."""
        self._known.update(_secret_values(settings))
        # Longest first: a secret may begin with another one.
        values = sorted(self._known, key=len, reverse=True)
        if values:
            self._values = re.compile("|".join("".join(map(_form, value)) for value in values))

    def __call__(self, text: str) -> str:
        """The text without credentials."""
        if self._values is not None:
            text = self._values.sub(MASK, text)
        return CREDENTIAL.sub(_keep_name, text)


def configure_logging(
    settings: Settings,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    worker: int | None = None,
) -> None:
    """Send every log line, ours and other packages', to `stream` (default: stderr) as the settings say.

    Above the level debug, `LogLimit` bounds the volume; ``clock`` (seconds) is its clock. Another call
    replaces the handler of the previous one, and leaves other handlers alone. ``worker`` is in every line.
    """
    global _installed  # noqa: PLW0603 - the root logger is as global
    target = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    readable = settings.log_format == "console"
    stamp = structlog.processors.TimeStamper(
        fmt="%H:%M:%S.%f" if readable else "iso", utc=not readable, key="timestamp"
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        stamp,
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    render: Processor = _Console(target.isatty()) if readable else _json
    formatter = _MaskingFormatter(
        Masker(settings),
        foreign_pre_chain=shared,
        processors=[
            _add_fields,
            *_worker_field(worker),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            render,
        ],
    )
    # At level debug, all lines are wanted.
    handler = _Handler(target, LogLimit(clock) if level > logging.DEBUG else None)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    if _installed is not None:
        root.removeHandler(_installed)
        _installed.close()
    root.addHandler(handler)
    root.setLevel(level)
    _installed = handler
    logging.captureWarnings(True)
    # It logs its selector at debug, at every start of a loop.
    logging.getLogger("asyncio").setLevel(max(level, logging.INFO))


def mask_also(settings: Settings) -> None:
    """Mask these settings' secrets as well, in the handler that `configure_logging` installed."""
    formatter = None if _installed is None else _installed.formatter
    if isinstance(formatter, _MaskingFormatter):
        formatter.masker.learn(settings)


def log_request(handler: RequestHandler, address_of: Callable[[HTTPServerRequest], str]) -> None:
    """For Tornado's `Application(log_function=...)`: one line per request, without the query and its token.

    Refusals and errors (400 and above) are `info`; the rest, and the quiet paths, `debug`. ``address_of``
    tells the client's address of a request.
    """
    request, status = handler.request, int(handler.get_status())  # an HTTPStatus would be written as such
    level = logging.INFO if status >= 400 and request.path not in QUIET_PATHS else logging.DEBUG
    if not _access.isEnabledFor(level):
        return
    structlog.stdlib.get_logger(_access.name).log(
        level,
        "Request",
        method=request.method,
        path=request.path[:MAX_PATH],
        status=status,
        ms=round(request.request_time() * 1000, 1),
        client_address=address_of(request),
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes the lines that `LogLimit` lets pass to a stream; at debug all of them."""

    def __init__(self, stream: TextIO, limit: LogLimit | None) -> None:
        super().__init__(stream)
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or count it as suppressed; called with the handler's lock held."""
        if self._limit is None or self._limit.passes(record):
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Render the line, and charge its bytes to the limit."""
        line = super().format(record)
        if self._limit is not None:
            self._limit.charge(record, len(line))
        return line

    def report_suppressed(self, *, last: bool = False) -> None:
        """Write one line about suppressed lines, if there are any and it is time to."""
        if self._limit is None:
            return
        self.acquire()
        try:
            lines = self._limit.summary(last=last)
            if lines:
                record = logging.LogRecord(LOGGER, logging.INFO, "", 0, "log lines suppressed", None, None)
                record.fields = {"lines": lines, "total": sum(lines.values())}
                super().emit(record)  # bypasses the limit, which must not suppress it
        finally:
            self.release()

    def close(self) -> None:
        """Report the last suppressed lines; `logging` calls this when the process ends."""
        self.report_suppressed(last=True)
        super().close()


def report_suppressed() -> None:
    """Report the lines that were suppressed since the last report; at most every 10 s."""
    if _installed is not None:
        _installed.report_suppressed()


class _MaskingFormatter(structlog.stdlib.ProcessorFormatter):
    """Masks the rendered line: every value, message and traceback passes through here."""

    def __init__(self, masker: Masker, **options: Any) -> None:
        super().__init__(**options)
        self.masker = masker

    def format(self, record: logging.LogRecord) -> str:
        return self.masker(super().format(record))


class _Console:
    """A readable line: time, level, event, fields; tracebacks are indented, so they can't forge a line."""

    def __init__(self, colours: bool) -> None:
        self._colours = COLOURS if colours else {}

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> str:
        details = [str(event.pop(key)) for key in ("stack", "exception") if event.get(key)]
        details += _traceback(event)
        stamp, level = str(event.pop("timestamp"))[:12], str(event.pop("level"))
        event.pop("logger", None)
        text = printable(str(event.pop("event", "")))
        fields = "".join(f" {printable(str(key))}={_value(value)}" for key, value in event.items())
        colour = self._colours.get(level, "")
        line = f"{stamp} {colour}{level:<8}{text}{fields}" + ("\x1b[0m" if colour else "")
        for detail in details:
            line += "".join(f"\n    | {printable(row)}" for row in detail.splitlines())
        return line


def _json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    """One JSON object in ASCII: json escapes everything that could end the line."""
    details = _traceback(event)
    if details:
        event["exception"] = details[0]
    return json.dumps(event, default=str, skipkeys=True)


def _add_fields(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Add the handler's fields to a line."""
    event.update(getattr(event["_record"], "fields", {}))
    return event


def _worker_field(worker: int | None) -> list[Processor]:
    def add(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    return [] if worker is None else [add]


def _traceback(event: EventDict) -> list[str]:
    """The event's traceback, removed from it; without local variables, which contain messages."""
    found = event.pop("exc_info", None)
    if not found:
        return []
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    elif not isinstance(found, tuple):
        found = sys.exc_info()
    return [logging.Formatter().formatException(found)] if found[0] is not None else []


def _value(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return printable(text) if text and not re.search(r"[\s=\"']", text) else printable(repr(text))


def _keep_name(found: re.Match[str]) -> str:
    return next((group for group in found.groups() if group), "") + MASK


def _secret_values(settings: Settings) -> Iterator[str]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            if name.endswith("_url"):
                # Already validated; a URL's host and port are not secret, and help in a log.
                text = unquote(urlsplit(text).password or "")
            for part in (text, *(previous_secrets(text) if name.endswith("_secrets") else ())):
                if len(part) >= SHORTEST_SECRET:
                    yield part
    with suppress(application_headers.HeadersError):
        for value in application_headers.parse(settings.api_headers.get_secret_value()).values():
            if len(value) >= SHORTEST_HEADER:
                yield value


def _form(char: str) -> str:
    """A pattern for one character of a secret: plain, escaped any number of times, or URL-encoded."""
    if char.isascii() and char.isalnum():
        return char
    forms = [re.escape(char), "".join(f"(?i:%{byte:02x})" for byte in char.encode("utf-8", "surrogatepass"))]
    if char == "\\":
        forms.insert(0, r"\\+")
    elif char in "\"'":
        forms.insert(0, rf"\\+{char}")
    elif char == " ":
        forms.append(r"\+")
    elif not (char.isascii() and char.isprintable()):
        units = re.findall("....", char.encode("utf-16-be", "surrogatepass").hex())
        forms += [rf"\\+x{ord(char):02x}", rf"\\+U{ord(char):08x}", "".join(rf"\\+u{unit}" for unit in units)]
    return f"(?:{'|'.join(forms)})"
