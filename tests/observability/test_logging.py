"""Logging: one form for every line, no credentials, no forged lines, and no query in the access log."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import structlog
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application, RequestHandler

from eclipse_ws.config.problems import MASK, printable
from eclipse_ws.config.settings import Settings
from eclipse_ws.observability import logging as logs
from eclipse_ws.observability.log_limit import MAX_KINDS, SUMMARY_SECONDS
from eclipse_ws.observability.logging import Masker, configure_logging, log_request

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VySWQiOiJ1In0.c2lnbmF0dXJl"
SECRET = 'o"dd\\sec/ret é😀'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restore the global logging configuration after each test."""
    root, config, configured = logging.getLogger(), structlog.get_config(), structlog.is_configured()
    level, installed = root.level, logs._installed
    asyncio_level = logging.getLogger("asyncio").level
    yield
    if logs._installed is not None and logs._installed is not installed:
        root.removeHandler(logs._installed)
    if installed is not None and installed not in root.handlers:
        root.addHandler(installed)
    logs._installed = installed
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(asyncio_level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    if configured:
        structlog.configure(**config)


class Log:
    """A configured log whose lines can be read."""

    def __init__(self, **settings: Any) -> None:
        self.stream = io.StringIO()
        self.now = 1000.0
        """The seconds that the limit of lines goes by."""
        configure_logging(Settings(**settings), self.stream, lambda: self.now)
        self.ours = structlog.stdlib.get_logger("eclipse_ws.test")

    @property
    def text(self) -> str:
        """All that was written."""
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        """The lines written."""
        return self.text.splitlines()

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The lines, decoded from JSON."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture(params=["console", "json"])
def log(request: pytest.FixtureRequest) -> Log:
    """A log in each of the two forms, with secrets configured, at debug."""
    return Log(
        log_format=request.param,
        log_level="debug",
        jwt_secret=SECRET,
        internal_api_secret="plain-internal-secret",
        redis_url="rediss://default:pass%40word@h:6379",
    )


def test_json_lines_hold_the_event_and_its_fields() -> None:
    """In JSON a line is one object with a UTC timestamp, the level, the logger, the event and its fields."""
    log = Log(log_format="json")
    log.ours.info("Session started", session="s1", chat="c1", count=3, parts=["a"])
    (document,) = log.documents
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", document.pop("timestamp"))
    assert document == {
        "event": "Session started",
        "level": "info",
        "logger": "eclipse_ws.test",
        "session": "s1",
        "chat": "c1",
        "count": 3,
        "parts": ["a"],
    }


def test_console_lines_are_readable() -> None:
    """For people a line is time, level, event and fields, with quotes only where they are needed."""
    log = Log(log_format="console")
    log.ours.info("Session started", session="s1", reason="too big", empty="", n=1.5)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} info    Session started session=s1 reason='too big' empty='' n=1.5",
        log.lines[0],
    )


def test_colours_are_only_for_terminals() -> None:
    """A terminal gets colours, a file none."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    configure_logging(Settings(log_format="console", log_level="debug"), stream)
    structlog.stdlib.get_logger("a").debug("quiet")
    assert stream.getvalue().endswith("\x1b[2mdebug   quiet\x1b[0m\n")


def test_lines_of_other_packages_have_the_same_form(log: Log) -> None:
    """Tornado's lines, and Python's warnings, have the form and the masks of ours."""
    logging.getLogger("tornado.general").info("GET /?token=%s", JWT)
    record = logging.LogRecord(
        "py.warnings", logging.WARNING, "f", 1, "%s", (f"x.py: careful with {JWT}",), None
    )
    assert logs._installed is not None
    logs._installed.handle(record)
    assert len(log.lines) == 2
    assert JWT not in log.text
    assert f"GET /?token={MASK}" in log.text
    assert f"careful with {MASK}" in log.text


def test_python_warnings_are_logged() -> None:
    """Warnings go to the log instead of a bare stderr."""
    logging.captureWarnings(False)
    Log()
    assert warnings.showwarning.__module__ == "logging"


@pytest.mark.parametrize(
    "line",
    [
        f"GET /?token={JWT}",
        f"GET /ws?a=1&token={JWT}&cursor=2",
        "GET /?token=garbage-but-private",
        "GET /?TOKEN=garbage-but-private&x=1",
        f"Authorization: Bearer {JWT}",
        "authorization: bearer garbage-but-private",
        f"Sec-WebSocket-Protocol: eclipse.v1, bearer.{JWT}",
        f"{{'token': '{JWT}'}}",
        '{"token": "garbage-but-private"}',
        '{\\"token\\": \\"garbage-but-private\\"}',
        "HTTPHeaders: X-Internal-Secret: garbage-but-private",
        "{'X-Internal-Secret': 'garbage-but-private'}",
        "('X-Internal-Secret', b'garbage-but-private')",
        "rediss://default:garbage-but-private@h:6379",
        "redis://:garbage-but-private@h",
        f"somewhere {JWT} alone",
        f"somewhere {JWT.rsplit('.', 1)[0]}. alone",
    ],
)
@pytest.mark.parametrize("form", ["console", "json"])
def test_credentials_are_masked(line: str, form: str) -> None:
    """Tokens and secrets are masked by their position and form, in messages, fields and structures."""
    log = Log(log_format=form)
    log.ours.info(line)
    log.ours.info("Field", value=line, deep={"list": [line]})
    logging.getLogger("other").info("%s", line)
    for private in (JWT, "garbage-but-private", JWT.split(".", maxsplit=1)[0], JWT.split(".")[1]):
        assert private not in log.text
    assert log.text.count(MASK) >= 4
    if form == "json":
        assert len(log.documents) == 3


@pytest.mark.parametrize(
    "line",
    ["Token expired", "Invalid token: missing", "Bearer of news", "http://h:80/p@q", "redis://h:6379/0"],
)
def test_other_text_is_not_masked(line: str) -> None:
    """Ordinary lines are not changed."""
    assert Masker(Settings())(line) == line


def test_a_field_after_the_value_token_keeps_its_name() -> None:
    """A refusal's line has `token` as its limit; the field that follows is not a token."""
    log = Log(log_format="json")
    log.ours.info(
        "session refused", limit="token", client_address="192.0.2.7", pair=("token", "garbage-but-private")
    )
    (document,) = log.documents
    assert (document["limit"], document["client_address"]) == ("token", "192.0.2.7")
    assert "garbage-but-private" not in log.text


def test_configured_secrets_are_masked_in_every_form(log: Log) -> None:
    """The settings' own secrets are masked wherever they appear: plain, quoted, in a URL, a repr, JSON."""
    private = [SECRET, quote(SECRET), quote(SECRET, safe=""), repr(SECRET), json.dumps(SECRET)]
    private += [repr(repr(SECRET)), ascii(SECRET), json.dumps(json.dumps(SECRET)), quote_plus(SECRET)]
    private += ["plain-internal-secret", "pass%40word", "pass@word"]
    for value in private:
        log.ours.info(f"about {value}", value=value, deep=[{"a": value}])
    assert "sec/ret" not in log.text
    assert "sec%2Fret" not in log.text
    assert "internal-secret" not in log.text
    assert "word" not in log.text


def test_a_longer_secret_hides_the_shorter_inside_it() -> None:
    """If one secret begins with another, no tail of the longer one is left over."""
    mask = Masker(Settings(jwt_secret="abcd", internal_api_secret="abcd-and-more"))
    assert mask("abcd-and-more abcd abc") == f"{MASK} {MASK} abc"


def test_very_short_secrets_do_not_hide_the_log() -> None:
    """A secret of one letter can't be masked without masking every such letter."""
    assert Masker(Settings(jwt_secret="a"))("banana") == "banana"


@pytest.mark.parametrize(
    "mark", ["\n", "\r", "\x1b[2J", "\x00", "\x7f", "\x85", "\u2028", "\u202e", "\ud800"]
)
def test_control_characters_are_escaped(log: Log, mark: str) -> None:
    """Content can neither begin its own line, nor control the terminal, in a message, a key or a value."""
    forged = f"x{mark}12:00:00.000 info    Forged"
    log.ours.info(forged, value=forged, **{forged: 1})
    logging.getLogger("other").info("%s", forged)
    assert len(log.lines) == 2
    for line in log.lines:
        assert mark not in line
        assert line.isprintable()


def test_tracebacks_are_logged_without_forging_lines(log: Log) -> None:
    """A traceback is there, masked, and its exception's text can't pass for a line of the log."""
    try:
        raise ValueError(f"x\n12:00:00.000 info \x1b[2JForged token={JWT}")
    except ValueError as error:
        log.ours.info("Failed", exc_info=True)
        log.ours.info("Failed", exc_info=error)
        logging.getLogger("other").info("Failed", exc_info=True)
    log.ours.info("Nothing failed", exc_info=True)
    assert log.text.count("ValueError: x") == 3
    assert JWT not in log.text
    assert "\x1b" not in log.text
    heads = [line for line in log.lines if not line.startswith("    | ")]
    assert len(heads) == 4
    assert all("ailed" in line for line in heads)


def test_stacks_are_logged(log: Log) -> None:
    """`stack_info` shows where a line was logged from."""
    log.ours.info("Here", stack_info=True)
    assert "test_stacks_are_logged" in log.text


def test_the_level_is_set_by_the_settings(log: Log) -> None:
    """Lines below the level are dropped, from every logger."""
    quiet = Log(log_level="error")
    structlog.stdlib.get_logger("a").info("no")
    logging.getLogger("other").info("no")
    assert (quiet.text, log.text) == ("", "")


def test_configuring_twice_replaces_only_its_own_handler() -> None:
    """A second set-up doubles no lines, and leaves handlers of others where they are."""
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    try:
        first, second = Log(), Log()
        second.ours.info("Once")
        assert (len(first.lines), len(second.lines)) == (0, 1)
        assert foreign in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(foreign)


def test_printable_keeps_text() -> None:
    """Letters of every script, and emoji, are not control characters."""
    assert printable("Grüße, 你好, שלום, 👩‍👩‍👧") == "Grüße, 你好, שלום, 👩‍👩‍👧"
    assert printable("a\tb") == "a\\tb"


def flood(log: Log, seconds: int, a_second: int, say: Callable[[int, int], None]) -> list[int]:
    """Log ``a_second`` times each second; the bytes written in each of them."""
    written = []
    for second in range(seconds):
        before = len(log.text)
        for turn in range(a_second):
            log.now += 1 / a_second
            say(second, turn)
        logs.report_suppressed()
        written.append(len(log.text) - before)
    return written


def accounted(documents: list[dict[str, Any]], event: str) -> int:
    """How many lines of a kind the log accounts for: written and suppressed."""
    summed = [document["lines"] for document in documents if document["event"] == "log lines suppressed"]
    told = sum(count for lines in summed for name, count in lines.items() if name.endswith(f": {event}"))
    return told + sum(1 + d.get("suppressed", 0) for d in documents if d["event"] == event)


def test_log_volume_is_bounded(expect_log: Callable[..., None]) -> None:
    """Lines that strangers cause 1,000 times a second stay under 10 KB, and every line is counted."""
    expect_log(
        "message not saved", "agent not found", "malformed event", "an event is lost", "a request from"
    )
    expect_log("Task exception was never")
    log = Log(log_format="json")
    foreign = logging.getLogger("other")

    def say(second: int, turn: int) -> None:
        log.ours.info("session started", session=f"{turn:016x}", chat="c" * 256, user="\U0001f600" * 256)
        log.ours.info("session ended", session=f"{turn:016x}", chat="c" * 256, user="u" * 256, code=1000)
        log.ours.warning("message not saved", session=f"{turn:016x}", why="the circuit is open")
        log.ours.warning("agent not found", user="u" * 256, why="nobody has that id")
        log.ours.warning("malformed event dropped", chat="c", why=f"it has {turn} bytes")
        log.ours.error("an event is lost", chat=f"chat {second} {turn}")
        foreign.warning("a request from %s ended: %s", "192.0.2.7", "x" * 100)
        text = f"Task exception was never retrieved\nfuture: <Task name='Task-{turn}'>"
        foreign.error(text, exc_info=ValueError("x" * 500))

    before = flood(log, 12, 125, say)
    assert sum(before) < 350_000
    after = flood(log, 15, 125, say)
    assert sum(after) / len(after) < 10_000
    log.now += SUMMARY_SECONDS
    logs.report_suppressed()
    for event in (
        "session started",
        "session ended",
        "message not saved",
        "agent not found",
        "an event is lost",
    ):
        assert accounted(log.documents, event) == 27 * 125, event


def test_a_flood_hides_neither_errors_nor_rare_lines(expect_log: Callable[..., None]) -> None:
    """An error is written in the middle of a flood, and so is the first line of a kind that was silent."""
    expect_log("it failed", "Redis connection lost")
    log = Log(log_format="json")
    flood(log, 100, 300, lambda _, turn: log.ours.info(f"kind {turn % 50}", padding="x" * 500))
    try:
        raise ValueError("seen")
    except ValueError:
        log.ours.exception("it failed")
        log.ours.info("it failed too", exc_info=True)
    log.ours.warning("Redis connection lost")
    assert [document["event"] for document in log.documents[-3:]] == [
        "it failed",
        "it failed too",
        "Redis connection lost",
    ]
    assert log.text.count("ValueError: seen") == 2


def test_the_next_line_says_what_was_suppressed() -> None:
    """A kind may write 50 lines at once and 5 a second; the next line counts the suppressed ones."""
    log = Log(log_format="json")
    for number in range(200):
        log.ours.info("refused", number=number)
    log.ours.info("another")
    log.now += 0.2
    log.ours.info("refused", number="next")
    assert len(log.documents) == 52
    assert log.documents[-2] == {**log.documents[-2], "event": "another"}
    assert log.documents[-1]["suppressed"] == 150
    assert not any("suppressed" in document for document in log.documents[:-1])


def test_a_silent_kind_is_reported_in_a_summary() -> None:
    """Suppressed lines without a later line are reported after ten seconds, and at the end."""
    log = Log(log_format="json")
    for _ in range(60):
        log.ours.info("refused")
    logs.report_suppressed()
    assert log.documents[-1]["lines"] == {"eclipse_ws.test: refused": 10}
    assert (log.documents[-1]["total"], log.documents[-1]["level"]) == (10, "info")
    for _ in range(3):
        log.ours.info("refused")
    logs.report_suppressed()  # too early
    assert len(log.documents) == 51
    assert logs._installed is not None
    logs._installed.close()
    assert log.documents[-1]["lines"] == {"eclipse_ws.test: refused": 3}
    logs._installed.close()
    assert len(log.documents) == 52


def test_kinds_are_bounded() -> None:
    """Kinds are distinguished up to a bound; further ones share one."""
    log = Log(log_format="console")
    for number in range(3 * MAX_KINDS):
        logging.getLogger("other").info(f"kind {number}")
    assert logs._installed is not None
    assert logs._installed._limit is not None
    assert len(logs._installed._limit._kinds) == MAX_KINDS + 1
    log.now += 1000
    logging.getLogger("other").info("kind 0")
    logs.report_suppressed()
    assert len(logs._installed._limit._kinds) == 1
    assert "'others': " in log.lines[-1]


def test_at_debug_nothing_is_suppressed(expect_log: Callable[..., None]) -> None:
    """At level debug every line is written."""
    expect_log("seen")
    log = Log(log_format="json", log_level="debug")
    for _ in range(500):
        log.ours.debug("seen")
        log.ours.info("seen")
        log.ours.error("seen")
    assert len(log.lines) == 1500


def test_a_suppressed_line_is_not_rendered() -> None:
    """A suppressed line is only counted: its values are never rendered."""
    log = Log(log_format="json")
    rendered = []

    class Value:
        def __str__(self) -> str:
            rendered.append(1)
            return "value"

    assert logs._installed is not None
    for _ in range(500):  # not through the root, where pytest's own handler renders everything
        logs._installed.handle(logging.LogRecord("a", logging.INFO, "f", 1, "refused %s", (Value(),), None))
    assert len(rendered) == len(log.lines) == 50


class Answer(RequestHandler):
    """Answers with the status that the path ends with."""

    def get(self, status: str = "200") -> None:
        """Nothing but the status."""
        self.set_status(int(status))


class Named(RequestHandler):
    """Answers with a status by its name."""

    def get(self) -> None:
        """Nothing but the status."""
        self.set_status(HTTPStatus.NOT_FOUND)


@pytest.fixture
def app() -> Application:
    """An application whose access log is ours."""
    paths = [(r"/s/(\d+)", Answer), (r"/health", Answer), (r"/named", Named)]
    return Application(paths, log_function=lambda handler: log_request(handler, lambda _: "192.0.2.7"))


@pytest.mark.gen_test
async def test_the_access_log_has_no_query(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Refusals are logged at info with method, path, status and time, without the query."""
    log = Log(log_level="info")
    for path in ("/s/200", "/s/404", f"/nowhere/{'x' * 300}", "/health"):
        await http_client.fetch(f"{base_url}{path}?token={JWT}&a=1", raise_error=False)
    found, nowhere = (d for d in log.documents if d["logger"] == "eclipse_ws.access")
    assert (found["method"], found["path"], found["status"]) == ("GET", "/s/404", 404)
    assert found["client_address"] == "192.0.2.7"
    assert found["ms"] >= 0
    assert (nowhere["status"], len(nowhere["path"])) == (404, logs.MAX_PATH)
    assert "a=1" not in log.text
    assert "token" not in log.text


@pytest.mark.gen_test
async def test_the_access_log_has_plain_numbers(http_client: AsyncHTTPClient, base_url: str) -> None:
    """An HTTPStatus is logged as its number."""
    log = Log(log_format="console")
    await http_client.fetch(f"{base_url}/named", raise_error=False)
    assert "status=404" in log.text


@pytest.mark.gen_test
async def test_quiet_paths_are_logged_at_debug(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Health checks are logged only at debug, like every success."""
    log = Log(log_level="debug")
    for path in ("/health", "/s/200"):
        await http_client.fetch(f"{base_url}{path}")
    found = [d for d in log.documents if d["logger"] == "eclipse_ws.access"]
    assert [(d["path"], d["level"]) for d in found] == [("/health", "debug"), ("/s/200", "debug")]
