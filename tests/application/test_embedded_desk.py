"""The embedded API's routes for the agents' desk, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest

from eclipse_ws.application.embedded_inbox import INBOX
from tests.application.conftest import JWT_SECRET
from tests.application.site import Site


async def claims(site: Site, query: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the token route answers, and the claims of its token."""
    answer = json.loads((await site.ask(f"/api/ws/token?{query}")).body)
    return answer, jwt.decode(answer["token"], JWT_SECRET, algorithms=["HS256"])


@pytest.mark.gen_test
async def test_assign_and_close(site: Site) -> None:
    """Both answer with the chat as the list has it after the change."""
    await site.api.send_message("c/1", "u", "hello", "USER")
    assigned = await site.ask("/api/chats/c%2F1/assign", {"agentId": "agent_2"})
    chat = json.loads(assigned.body)["chat"]
    assert (assigned.code, chat["id"], chat["assignee"], chat["status"]) == (200, "c/1", "agent_2", "open")
    closed = json.loads((await site.ask("/api/chats/c%2F1/close", "")).body)["chat"]
    assert (closed["status"], closed["assignee"]) == ("closed", "agent_2")
    assert json.loads((await site.ask("/api/chats")).body)["chats"] == [closed]
    nobody = json.loads((await site.ask("/api/chats/c%2F1/assign", {"agentId": None})).body)["chat"]
    assert (nobody["status"], nobody["assignee"]) == ("closed", None)


@pytest.mark.gen_test
async def test_list_by_status_and_query(site: Site) -> None:
    """The list selects by status and text, in pages."""
    for n in range(4):
        await site.api.send_message(f"c{n}", "u", "a lamp" if n % 2 else "a chair", "USER")
    await site.api.close_chat("c3")

    async def found(query: str) -> tuple[list[str], Any]:
        answer = json.loads((await site.ask(f"/api/chats?{query}")).body)
        return [chat["id"] for chat in answer["chats"]], answer["next"]

    assert await found("query=LAMP") == (["c3", "c1"], None)
    assert await found("query=lamp&status=open") == (["c1"], None)
    assert await found("status=closed&query=") == (["c3"], None)
    first, following = await found("status=open&limit=2")
    assert (first, await found(f"status=open&limit=2&before={following}")) == (["c2", "c1"], (["c0"], None))


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chats/c/assign", {"agentId": "agent_9"}, 400),
        ("/api/chats/c/assign", {"agentId": 7}, 400),
        ("/api/chats/c/assign", {}, 400),
        ("/api/chats/c/assign", "not JSON", 400),
        ("/api/chats/c/assign", b"\xff\xff", 400),
        ("/api/chats/c/assign", "[" * 100_000, 400),
        ("/api/chats//assign", {"agentId": None}, 400),
        ("/api/chats/a%00b/close", "", 400),
        ("/api/chats/unknown/assign", {"agentId": None}, 404),
        ("/api/chats/unknown/close", "", 404),
        ("/api/chats/c/close", None, 405),
        ("/api/chats?status=waiting", None, 400),
        ("/api/chats?status=", None, 400),
        (f"/api/chats?query={'x' * 201}", None, 400),
        ("/api/chats?query=%FF", None, 400),
        ("/api/ws/token?chatIds=a", None, 400),
        ("/api/ws/token?agent=1&chatIds=a,,b", None, 400),
        ("/api/ws/token?agent=1&chatIds=a%0Ab", None, 400),
        (f"/api/ws/token?agent=1&chatIds={'x' * 201}", None, 400),
        (f"/api/ws/token?agent=1&chatIds={','.join(f'c{n}' for n in range(500))}", None, 400),
        (f"/api/ws/token?agent=1&chatIds={','.join(f'{n:0130}' for n in range(400))}", None, 400),
        ("/api/ws/token?agent=agent_9&chatIds=a", None, 400),
        (f"/api/ws/token?chatId={INBOX}", None, 403),
        (f"/api/ws/token?chatId={INBOX}&userId=agent_1", None, 403),
    ],
)
async def test_bad_requests(site: Site, path: str, body: Any, status: int) -> None:
    """Each bad request gets its status and a JSON error, and changes nothing."""
    await site.api.send_message("c", "u", "hello", "USER")
    before = await site.api.chats(10)
    response = await site.ask(path, body)
    assert response.code == status
    assert set(json.loads(response.body)) == {"error"}
    assert await site.api.chats(10) == before


@pytest.mark.gen_test
async def test_an_agents_token_opens_the_inbox(site: Site) -> None:
    """An agent's token names the inbox and the chats asked for, each once, beside a chat or without one."""
    answer, found = await claims(site, f"agent=1&chatIds=a,b%20c,a,{INBOX}")
    assert answer["chatIds"] == found["chatIds"] == [INBOX, "a", "b c"]
    assert ("chatId" in answer, "chatId" in found) == (False, False)
    assert (found["userId"], found["isAuthenticated"]) == ("agent_1", True)
    assert found["roles"] == ["USER", "ASSISTANT", "AGENT"]
    answer, found = await claims(site, "agent=agent_2&chatId=c")
    assert (answer["chatId"], found["chatId"], found["chatIds"]) == ("c", "c", [INBOX])
    most = ",".join(f"c{n}" for n in range(499))
    assert len((await claims(site, f"agent=1&chatIds={most}"))[1]["chatIds"]) == 500


@pytest.mark.gen_test
async def test_a_visitors_token_opens_one_chat(site: Site) -> None:
    """A visitor gets no other chats, whatever the request says."""
    answer, found = await claims(site, f"chatId=c&chatIds=a,{INBOX}")
    assert set(answer) == {"token", "wsUrl", "userId", "chatId"}
    assert (found["chatId"], "chatIds" in found) == ("c", False)
