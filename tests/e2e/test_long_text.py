"""Long text: what the application accepts passes every limit on its way, with all defaults."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eclipse_ws.config.settings import Settings
from eclipse_ws.server.server import Server
from tests.application import stub
from tests.application.stub import Stub
from tests.client import Client, http, running
from tests.conftest import SECRET
from tests.servers import RedisServer

LONG = 80_000
"""Characters of the longest messages that the application takes."""
LIMITS = ("message_rate", "command_rate")
DEFAULTS = {name: Settings.model_fields[name].default for name in LIMITS}
TEXTS = pytest.mark.parametrize(
    ("letter", "is_escaped"), [(letter, form) for letter in "x\u754c\U0001f600" for form in (False, True)]
)


def quoted(text: str, is_escaped: bool) -> str:
    """A JSON string, as a browser writes it or with every character escaped."""
    if not is_escaped:
        return json.dumps(text, ensure_ascii=False)
    units = text.encode("utf-16-be").hex()
    return '"' + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)) + '"'


@asynccontextmanager
async def deployed(redis: RedisServer | None = None) -> AsyncIterator[Server]:
    """A server with the default limits between the stub of the application and a backend."""
    url = "" if redis is None else redis.url
    application = Stub(SECRET, url)
    await application.start()
    backend = {} if redis is None else {"backend": "redis", "redis_url": url}
    try:
        async with running(api="http", next_api_url=application.url, **backend, **DEFAULTS) as server:
            yield server
    finally:
        await application.stop()


async def say(server: Server, content: str, text: str) -> None:
    """Send a message; its sender and somebody else get it, and once more after a resume."""
    async with (
        await Client.join(server.port, max_size=None) as client,
        await Client.join(server.port, user="u2", max_size=None) as other,
    ):
        await client.raw(f'{{"type":"message","role":"USER","clientMessageId":"k","content":{content}}}')
        answers = {event["type"]: event for event in (await client.receive(), await client.receive())}
        assert answers["ack"]["delivery"] == "published"
        assert answers["message"]["data"]["content"] == text
        message = await other.next("message")
        assert message["data"]["content"] == text
    cursor = other.connected["cursor"]
    async with await Client.join(server.port, user="u2", cursor=cursor, max_size=None) as other:
        assert other.connected["recovered"] is True
        assert await other.next("message") == message
        await other.say(type="message", role="USER", content="and more")
        assert (await other.next("message"))["data"]["content"] == "and more"


@TEXTS
@pytest.mark.gen_test
async def test_a_long_message(letter: str, is_escaped: bool) -> None:
    """A message of 80,000 characters, however it is written, arrives, and can be resumed."""
    text = letter * LONG
    async with deployed() as server:
        await say(server, quoted(text, is_escaped), text)


@pytest.mark.gen_test
async def test_a_long_message_in_the_embedded_store() -> None:
    """The same if this server saves messages itself, which then has it in the history too."""
    text = "\u754c" * LONG
    async with running(**DEFAULTS) as server:
        await say(server, quoted(text, is_escaped=False), text)
        draft = {"content": text, "role": "USER", "userId": "u1"}
        secret = {"X-Internal-Secret": SECRET}
        answer = await http(server.port, "/api/chats/c1/messages/send", "POST", draft, headers=secret)
        assert answer.json["message"]["content"] == text
        messages = (await http(server.port, "/api/chats/c1/messages")).json["messages"]
        assert [message["content"] == text for message in messages] == [True, False, True]


@pytest.mark.gen_test
async def test_a_long_message_over_redis(redis_server: RedisServer) -> None:
    """The same over Redis, where the application publishes it too, with every character escaped."""
    text = "\U0001f600" * LONG
    async with deployed(redis_server) as server:
        await say(server, quoted(text, is_escaped=True), text)


@pytest.mark.gen_test
async def test_the_longest_message_of_a_sender_with_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's echo may carry its sender's picture beside the longest content there can be."""
    picture = "data:image/png;base64," + "A" * 300_000
    monkeypatch.setattr(
        stub, "author", lambda user: {"id": user, "name": "N", "email": None, "avatar": picture}
    )
    async with deployed() as server:
        text = "\U0001f600" * server.settings.max_content
        await say(server, quoted(text, is_escaped=True), text)


def test_the_widget_accepts_the_longest_message() -> None:
    """80,000 characters pasted into the widget are all sent, and the server accepts them."""
    composer = Path(__file__).parents[2] / "web" / "src" / "widget" / "composer.ts"
    (most,) = re.findall(r"MAX_CONTENT = ([\d_]+)", composer.read_text())
    assert LONG <= int(most) <= Settings.model_fields["max_content"].default


@TEXTS
@pytest.mark.gen_test
async def test_a_long_event_of_the_application(letter: str, is_escaped: bool) -> None:
    """An event that the application publishes over HTTP arrives as well."""
    body = f'{{"type":"message","data":{{"id":"m1","content":{quoted(letter * LONG, is_escaped)}}}}}'
    headers = {"X-Internal-Secret": SECRET}
    async with deployed() as server, await Client.join(server.port, max_size=None) as client:
        answer = await http(server.port, "/api/chats/c1/events", "POST", body.encode(), headers=headers)
        assert answer.status == 202
        assert (await client.next("message"))["data"]["content"] == letter * LONG
