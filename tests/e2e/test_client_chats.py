"""The client with several chats on one socket of a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.client import WAIT, Client, http, running, token
from tests.conftest import SECRET

AGENT = Path(__file__).parents[1] / "js" / "agent.mjs"
WITH_SECRET = {"X-Internal-Secret": SECRET}


def opening(*chats: str) -> str:
    """An agent's token that opens these chats, and begins in none."""
    return token(user="agent", chatId=None, chatIds=list(chats))


class Agent:
    """The client in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[list[Any]] = []

    async def hear(self, *expected: tuple[object, ...]) -> None:
        """Read what it tells, until each of these was told; the number of sockets follows each."""
        missing = [list(each) for each in expected]
        while missing:
            assert self.process.stdout
            line = await asyncio.wait_for(self.process.stdout.readline(), WAIT)
            assert line, (missing, self.told)
            self.told.append(json.loads(line))
            *event, _ = self.told[-1]
            if event in missing:
                missing.remove(event)

    def say(self, chat: str) -> None:
        """Have it send a message to a chat; "": close the connection."""
        assert self.process.stdin
        self.process.stdin.write(f"{chat}\n".encode())


@asynccontextmanager
async def agent(port: int, tokens: Mapping[str, str]) -> AsyncIterator[Agent]:
    """A client that has joined all chats that there are tokens for; "" is the connection's own."""
    command = [needs.node(), "--experimental-websocket", str(AGENT), f"ws://127.0.0.1:{port}/ws"]
    process = await asyncio.create_subprocess_exec(*command, json.dumps(tokens), stdin=-1, stdout=-1)
    try:
        yield Agent(process)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.gen_test
async def test_an_agents_chats_share_a_socket() -> None:
    """Chats are joined with the session's token or their own, and one that is ended ends nothing else."""
    tokens = {"": opening("a", "b"), "a": "", "b": "", "c": token("c", "agent")}
    async with running() as server, agent(server.port, tokens) as desk:
        await desk.hear(("", "open", 0), ("a", "reload"), ("b", "reload"), ("c", "reload"))
        desk.say("a")
        desk.say("c")
        await desk.hear(
            ("a", "message", "hello a", True), ("c", "message", "hello c", True), ("a", "sent"), ("c", "sent")
        )
        answer = await http(
            server.port, "/api/chats/a/disconnect", "POST", {"userId": "agent"}, headers=WITH_SECRET
        )
        assert answer.status == 200, answer
        await desk.hear(("a", "closed", 4003))
        desk.say("b")
        await desk.hear(("b", "sent"))
        assert [kind for _, kind, *_ in desk.told if kind == "error"] == []
        assert desk.told[-1][-1] == 1, "sockets"
        desk.say("")
        await desk.hear(("", "closed", 1000), ("b", "closed", 1000), ("c", "closed", 1000))


@pytest.mark.gen_test
async def test_an_agent_knows_who_is_there() -> None:
    """Each joined chat has its own list, and hears of a visitor who comes."""
    async with (
        running() as server,
        agent(server.port, {"": opening("a", "b"), "a": "", "b": ""}) as desk,
    ):
        await desk.hear(("a", "online", "user agent"), ("b", "online", "user agent"))
        async with await Client.open(server.port, f"token={token('a', 'u1')}"):
            await desk.hear(("a", "online", "user agent", "user u1"))
        assert ["b", "online", "user agent", "user u1"] not in [event for *event, _ in desk.told]


@pytest.mark.gen_test
async def test_an_agent_knows_what_was_read() -> None:
    """What a visitor and the agent have read is told in their chat."""
    async with running() as server, agent(server.port, {"": opening("a"), "a": ""}) as desk:
        await desk.hear(("a", "reload"), ("a", "positions"))
        query = f"token={token('a', 'u1')}&events=read"
        async with await Client.open(server.port, query, greet=True) as visitor:
            assert (await visitor.next("read"))["data"] == {"positions": []}
            desk.say("a")
            said = await visitor.next("message")
            await visitor.say(type="read", messageId=said["data"]["id"])
            await desk.hear(("a", "positions", f"agent {said['data']['id']}", f"u1 {said['data']['id']}"))
