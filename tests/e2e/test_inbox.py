"""The agents' inbox of the embedded API, through a whole server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.application.embedded_inbox import INBOX
from eclipse_ws.server.server import Server
from tests import needs
from tests.client import Client, http, running
from tests.servers import RedisServer


async def post(server: Server, path: str, body: object = None, **headers: str) -> int:
    """The status of a POST."""
    return (await http(server.port, path, "POST", body, headers=headers)).status


@pytest.mark.gen_test
async def test_a_new_chat_reaches_an_agent() -> None:
    """An agent in the inbox hears of a new chat and its messages, and once of an assignment and a closing."""
    async with running() as server, await Client.join(server.port, INBOX, "agent_1") as agent:
        async with await Client.join(server.port, "c1") as customer:
            await customer.say(type="message", content="hello", role="USER")
            opened = (await agent.next("chat_opened"))["data"]
            assert (opened["chatId"], opened["status"], opened["assignee"]) == ("c1", "open", None)
            assert opened["lastMessage"]["content"] == "hello"
            assert opened["waitingSince"] == opened["openedAt"] == opened["lastMessage"]["createdAt"]
            await customer.say(type="message", content="again", role="USER")
            assert (await agent.next("chat_updated"))["data"]["received"] == 2
            for _ in range(2):
                assert await post(server, "/api/chats/c1/assign", {"agentId": "agent_1"}) == 200
                assert await post(server, "/api/chats/c1/close") == 200
            assert (await agent.next("chat_assigned"))["data"]["assignee"] == "agent_1"
            assert (await agent.next("chat_closed"))["data"]["status"] == "closed"
            await agent.quiet()
            await customer.say(type="message", content="one more", role="USER")
            assert (await agent.next("chat_opened"))["data"]["assignee"] == "agent_1"
        listed = (await http(server.port, "/api/chats")).json["chats"]
        assert [chat["id"] for chat in listed] == ["c1"]


@pytest.mark.gen_test
async def test_an_agent_resumes_the_inbox() -> None:
    """What happens while an agent is away is kept, and replayed in order after the cursor."""
    async with running() as server, await Client.join(server.port, "c1") as customer:
        async with await Client.join(server.port, INBOX, "agent_1") as agent:
            cursor = agent.connected["cursor"]
        for text in ("one", "two"):
            await customer.say(type="message", content=text, role="USER")
            await customer.next("message")
        await post(server, "/api/chats/c1/assign", {"agentId": "agent_2"})
        async with await Client.join(server.port, INBOX, "agent_1", cursor=cursor) as agent:
            assert agent.connected["recovered"] is True
            kinds = [(await agent.receive())["type"] for _ in range(3)]
            assert kinds == ["chat_opened", "chat_updated", "chat_assigned"]
            await agent.quiet()


@pytest.mark.gen_test
async def test_one_session_for_the_inbox_and_the_chats() -> None:
    """The token that an agent gets opens the inbox and the chats that were asked for, on one connection."""
    async with running() as server, await Client.join(server.port, "c1") as customer:
        grant = (await http(server.port, "/api/ws/token?agent=agent_2&chatIds=c1")).json
        async with await Client.open(server.port, f"token={grant['token']}", greet=True) as agent:
            assert "chatId" not in agent.connected
            await agent.say(type="join", chats=[{"chatId": INBOX}, {"chatId": "c1"}, {"chatId": "c2"}])
            answers = [await agent.receive() for _ in range(3)]
            joined = {each["chatId"] for each in answers if each["type"] == "joined"}
            assert joined == {INBOX, "c1"}
            assert [each["code"] for each in answers if each["type"] == "error"] == ["forbidden"]
            await customer.say(type="message", content="hello", role="USER")
            events = [await agent.receive() for _ in range(2)]
            assert {each["type"]: each["chatId"] for each in events} == {
                "message": "c1",
                "chat_opened": INBOX,
            }


@pytest.mark.gen_test
async def test_messages_go_on_without_a_backend(expect_log: Callable[..., None]) -> None:
    """While events can't be published, messages are saved, and agents on this node hear of them."""
    expect_log("not published", "redis", "on this node only", "not handed over", optional=True)
    server = RedisServer(needs.server()).start()
    try:
        async with (
            running(redis_url=server.url) as node,
            await Client.join(node.port, INBOX, "agent_1") as agent,
            await Client.join(node.port, "c1") as customer,
        ):
            server.stop()
            await customer.say(type="message", content="hello", role="USER", clientMessageId="m1")
            assert (await customer.seek("ack"))["delivery"] == "local"
            assert (await agent.next("chat_opened"))["data"]["chatId"] == "c1"
    finally:
        server.stop()


@pytest.mark.gen_test
async def test_nobody_writes_in_the_inbox(expect_log: Callable[..., None]) -> None:
    """A message to the inbox is refused, and a visitor gets no token for it."""
    expect_log("message not saved")
    async with running() as server:
        async with await Client.join(server.port, INBOX, "agent_1") as agent:
            await agent.say(type="message", content="hello", role="AGENT")
            assert (await agent.next("error"))["code"] == "chat_not_found"
        assert (await http(server.port, f"/api/ws/token?chatId={INBOX}")).status == 403


@pytest.mark.gen_test
async def test_pages_of_other_sites_change_nothing() -> None:
    """A page of another site that a developer visits can neither assign nor close a chat of the demo."""
    async with running() as server, await Client.join(server.port, "c1") as customer:
        await customer.say(type="message", content="hello", role="USER")
        await customer.next("message")
        away: dict[str, Any] = {"Origin": "https://evil.example"}
        assert await post(server, "/api/chats/c1/assign", {"agentId": "agent_1"}, **away) == 403
        assert await post(server, "/api/chats/c1/close", **away) == 403
        (chat,) = (await http(server.port, "/api/chats")).json["chats"]
        assert (chat["assignee"], chat["status"]) == (None, "open")
        own = {"Origin": f"http://127.0.0.1:{server.port}"}
        assert await post(server, "/api/chats/c1/close", **own) == 200
