"""What is gone leaves no memory: no object of the server holds its address, user or chat any more."""

from __future__ import annotations

import asyncio
import gc
import time
import types
from typing import Any

import pytest

from eclipse_ws.server.server import Server
from tests.client import UPGRADE, Client, http, running, subscriptions, token, until

FLY = {"client_address_header": "Fly-Client-IP"}
_NO_STATE = (
    type,
    types.ModuleType,
    types.FrameType,
    types.CoroutineType,
    types.GeneratorType,
    asyncio.Future,
)


def remembered(root: object, text: str) -> list[str]:
    """The strings with this text that can be reached from an object, not counting the code's own."""
    seen: dict[int, object] = {}
    found, left = [], [root]
    while left:
        each = left.pop()
        if isinstance(each, str):
            if text in each:
                found.append(each)
            continue
        if id(each) in seen or isinstance(each, _NO_STATE):
            continue
        seen[id(each)] = each
        if isinstance(each, dict):
            left.extend(each)  # the collector looks at no text
        if isinstance(each, types.FunctionType):
            left.extend(each.__closure__ or ())  # its globals are the module's
        else:
            left.extend(gc.get_referents(each))
    return found


async def forget(server: Server, text: str) -> None:
    """Check that the server forgets the text once everything that may wait, or lasts for a while, is over."""
    await until(lambda: not server.node.sessions and not subscriptions(server))
    await server._sweeper.sweep(time.time(), time.monotonic() + 10_000)
    await until(lambda: not remembered(server, text), f"forgetting {text}")


@pytest.mark.gen_test
async def test_an_address_is_forgotten() -> None:
    """An address leaves nothing after it closed its connections, whether answered, refused or upgraded."""
    async with running(**FLY, **{"server.sweeper.INTERVAL": 3600}) as server:
        address = "93.184.216.34"
        ours = {"Fly-Client-IP": address}
        assert (await http(server.port, "/health", headers=ours)).status == 200
        assert (
            await http(server.port, "/ws", headers={**ours, **UPGRADE, "Origin": "http://x"})
        ).status == 403
        wrong = {**ours, "X-Internal-Secret": "wrong"}
        assert (await http(server.port, "/api/chats/c/events", "POST", {}, headers=wrong)).status == 401
        bad = await Client.open(server.port, "token=bad", additional_headers=ours)
        await bad.ended()
        client = await Client.open(server.port, f"token={token()}", greet=True, additional_headers=ours)
        await client.quiet()
        assert remembered(server, address)
        await client.close()
        await forget(server, address)


@pytest.mark.gen_test
@pytest.mark.parametrize("known", [True, False])
async def test_a_session_is_forgotten(known: bool) -> None:
    """A session that joined, typed, wrote, flooded and was closed is forgotten, and so is its chat."""
    given: dict[str, Any] = {
        "message_rate": 10,
        "command_rate": 0.01,
        "security.limits.BURST_SECONDS": 200,
        "security.limits.RATE_PATIENCE": 1,
    }
    async with running(**{"server.sweeper.INTERVAL": 3600}, history_seconds=1, **given) as server:
        chat, user = "chat-of-the-test", "user-of-the-test"
        query = f"token={token(chat, user, isAuthenticated=known)}"
        client = await Client.open(server.port, query, greet=True)
        await client.say(type="message", content="x", role="USER")
        await client.next("message")
        assert remembered(server, user)
        for _ in range(4):
            await client.say(type="typing", isTyping=True)
        await until(lambda: client.socket.close_code)
        assert client.socket.close_code == 4009
        await forget(server, user)
        await forget(server, chat)


@pytest.mark.gen_test
async def test_an_interrupted_chat_is_forgotten() -> None:
    """A chat whose sessions were told to resume, and never came back, is forgotten."""
    async with running(**{"server.sweeper.INTERVAL": 3600}, history_seconds=1) as server:
        client = await Client.join(server.port, "chat-of-the-test")
        assert remembered(server, "chat-of-the-test")
        server.hub.interrupt("chat-of-the-test")
        assert (await client.ended())[0] == 4010
        await forget(server, "chat-of-the-test")
