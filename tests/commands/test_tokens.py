"""Where the command line gets its tokens."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from tornado.web import Application, RequestHandler

from eclipse_ws.commands import tokens
from eclipse_ws.commands.tokens import FixedUrl, MintedUrl, RequestedUrl
from eclipse_ws.security.jwt import required
from tests.nested import TOO_DEEP, nested

SECRET = "k3Jd8-sQ0zLxV7bNm2Wc5RtYp9Ga1Hf4Ue6Io"


class Tokens(RequestHandler):
    """The server's token route, answering what the chat's name asks for."""

    def get(self) -> None:
        """A token that repeats the request, or an error."""
        chat_id = self.get_query_argument("chatId")
        match chat_id:
            case "missing":
                self.set_status(404)
            case "html":
                self.write("<html>")
            case "list":
                self.write("[]")
            case "deep":
                self.write(nested(TOO_DEEP[1]))
            case "elsewhere":
                self.redirect("http://127.0.0.1:1/")
            case _:
                self.write({"token": self.request.query})


@pytest.fixture
def app() -> Application:
    """A server that has only the token route."""
    return Application([(r"/api/ws/token", Tokens)], log_function=lambda handler: None)


@pytest.mark.gen_test
async def test_a_given_url_stays() -> None:
    """--url is taken as it is, every time."""
    assert await FixedUrl("ws://h/ws?token=t").url() == "ws://h/ws?token=t"


@pytest.mark.gen_test
async def test_each_attempt_has_a_fresh_token() -> None:
    """A token is made for each attempt, with the requested chat and user."""
    url = urlsplit(await MintedUrl(SECRET, "127.0.0.1:1", "c1", "u1", True).url())
    claims = jwt.decode(parse_qs(url.query)["token"][0], SECRET, algorithms=["HS256"])
    assert (claims["userId"], claims["chatId"], claims["isAuthenticated"]) == ("u1", "c1", True)
    assert claims["exp"] - claims["iat"] == 7200


@pytest.mark.gen_test
async def test_a_token_names_what_the_settings_require() -> None:
    """If the server requires an issuer and an audience, a token has both."""
    assert required("", "") == {}
    more = required("https://app.example.com", "chat")
    url = urlsplit(await MintedUrl(SECRET, "127.0.0.1:1", "c1", "u1", True, more=more).url())
    token = parse_qs(url.query)["token"][0]
    given = {"issuer": "https://app.example.com", "audience": "chat"}
    assert jwt.decode(token, SECRET, algorithms=["HS256"], **given)["userId"] == "u1"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("user", "agent", "asked"),
    [
        (None, None, {"chatId": ["c 1"]}),
        ("u", None, {"chatId": ["c 1"], "userId": ["u"]}),
        (None, "a", {"chatId": ["c 1"], "agent": ["a"]}),
    ],
)
@pytest.mark.usefixtures("http_server")
@pytest.mark.gen_test
async def test_the_servers_token_route(
    http_port: int, user: str | None, agent: str | None, asked: Any
) -> None:
    """The server's own route gives the token for the chat, the user or the agent."""
    url = urlsplit(await RequestedUrl(f"127.0.0.1:{http_port}", "c 1", user, agent).url())
    assert (url.scheme, url.path) == ("ws", "/ws")
    assert parse_qs(parse_qs(url.query)["token"][0]) == asked


@pytest.mark.parametrize(
    ("chat_id", "says"),
    [
        ("missing", r"the server issues no token \(HTTP 404\)"),
        ("elsewhere", r"the server issues no token \(HTTP 302\)"),
        ("html", "no token in the server's response"),
        ("list", "no token in the server's response"),
        ("deep", "no token in the server's response"),
    ],
)
@pytest.mark.usefixtures("http_server")
@pytest.mark.gen_test
async def test_a_missing_token_route_is_reported(http_port: int, chat_id: str, says: str) -> None:
    """A server without a token route is reported, with alternatives."""
    with pytest.raises(OSError, match=f"{says}; set JWT_SECRET, or use --url"):
        await RequestedUrl(f"127.0.0.1:{http_port}", chat_id, None, None).url()


@pytest.mark.gen_test
async def test_an_unreachable_server() -> None:
    """A closed port is an OSError, as in every other attempt that may be repeated."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            await RequestedUrl(f"127.0.0.1:{free.getsockname()[1]}", "c", None, None).url()


@pytest.mark.gen_test
async def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and is silent is given up after a while."""
    monkeypatch.setattr(tokens, "TIMEOUT", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(OSError, match="no answer"):
            await RequestedUrl(f"127.0.0.1:{silent.getsockname()[1]}", "c", None, None).url()
