"""The embedded API's chats: which are open, who has them, who waits, and what is published of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.application.base import ApiError
from eclipse_ws.application.embedded import EmbeddedApi
from eclipse_ws.application.embedded_chats import ChatSummary
from eclipse_ws.application.embedded_inbox import INBOX
from tests.application.conftest import make_settings
from tests.client import until


class Published:
    """What was published, in order."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.failing = False

    async def publish(self, chat_id: str, event: bytes) -> None:
        """Take an event, or fail."""
        assert chat_id == INBOX
        if self.failing:
            raise OSError("no backend")
        self.events.append(json.loads(event))

    @property
    def told(self) -> list[tuple[str, str]]:
        """The type of each event, and its chat."""
        return [(event["type"], event["data"]["chatId"]) for event in self.events]


@pytest.fixture
def published() -> Published:
    """What the API of this test publishes."""
    return Published()


@pytest.fixture
def api(opened: Callable[[Any], Any], published: Published) -> EmbeddedApi:
    """An EmbeddedApi in memory that publishes."""
    api: EmbeddedApi = opened(EmbeddedApi(make_settings(), published.publish))
    return api


async def the(api: EmbeddedApi, chat: str) -> ChatSummary:
    """A chat as the list has it."""
    (found,) = [each for each in await api.chats(100) if each.id == chat]
    return found


@pytest.mark.gen_test
async def test_since_when_a_customer_waits(api: EmbeddedApi) -> None:
    """A customer waits since the first message after the last answer; nobody waits after an answer."""
    first = await api.send_message("c", "u", "hello", "USER")
    await api.send_message("c", "u", "anybody?", "USER")
    assert (await the(api, "c")).waitingSince == first.createdAt
    await api.send_message("c", "agent_1", "yes", "ASSISTANT")
    assert (await the(api, "c")).waitingSince is None
    third = await api.send_message("c", "u", "good", "USER")
    chat = await the(api, "c")
    assert (chat.waitingSince, chat.openedAt) == (third.createdAt, first.createdAt)


@pytest.mark.gen_test
async def test_a_closed_chat_is_reopened_by_its_customer(api: EmbeddedApi) -> None:
    """An answer leaves a chat closed, a customer's message opens it; the earlier ones count as answered."""
    first = await api.send_message("c", "u", "hello", "USER")
    closed = await api.close_chat("c")
    assert closed is not None
    assert (closed.status, closed.waitingSince, closed.answered) == ("closed", None, 1)
    assert closed.closedAt is not None
    await api.send_message("c", "agent_1", "bye", "ASSISTANT")
    after = await the(api, "c")
    assert (after.status, after.openedAt, after.closedAt) == ("closed", first.createdAt, closed.closedAt)
    again = await api.send_message("c", "u", "one more thing", "USER")
    await api.send_message("c", "u", "please", "USER")
    reopened = await the(api, "c")
    assert (reopened.status, reopened.closedAt) == ("open", None)
    assert (reopened.openedAt, reopened.waitingSince) == (again.createdAt, again.createdAt)
    assert (reopened.received, reopened.answered) == (3, 1)


@pytest.mark.gen_test
async def test_changes_are_published_in_order(api: EmbeddedApi, published: Published) -> None:
    """Each change is one event with all of a line; what changes nothing is not announced."""
    await api.send_message("c", "u", "hello", "USER", "k")
    await api.send_message("c", "u", "hello", "USER", "k")
    await api.send_message("c", "u", "y" * 1000, "USER")
    for agent in ("agent_1", "agent_1", None, None, "agent_2"):
        await api.assign("c", agent)
    await api.close_chat("c")
    await api.close_chat("c")
    await api.send_message("c", "u", "again", "USER")
    await until(lambda: len(published.events) == 7)
    kinds = ["opened", "updated", "assigned", "assigned", "assigned", "closed", "opened"]
    assert published.told == [(f"chat_{kind}", "c") for kind in kinds]
    data = [event["data"] for event in published.events]
    assert len({each["id"] for each in data}) == 7
    assert [each["assignee"] for each in data[2:]] == ["agent_1", None, "agent_2", "agent_2", "agent_2"]
    assert data[1]["lastMessage"]["content"] == "y" * 200
    revisions = [each["revision"] for each in data]
    assert revisions == sorted(set(revisions))
    listed = await the(api, "c")
    assert data[-1]["chatId"] == listed.id
    assert (data[-1]["revision"], data[-1]["waitingSince"]) == (listed.revision, listed.waitingSince)


@pytest.mark.gen_test
async def test_a_failure_to_publish_fails_nothing(
    api: EmbeddedApi, published: Published, expect_log: Callable[..., None]
) -> None:
    """A message is saved although its event can't be published, and the next event is published."""
    expect_log("inbox event not published")
    published.failing = True
    await api.send_message("c", "u", "hello", "USER")
    assert (await the(api, "c")).count == 1
    published.failing = False
    await api.assign("c", "agent_1")
    await until(lambda: published.told == [("chat_assigned", "c")])


@pytest.mark.gen_test
@patch("eclipse_ws.application.embedded_inbox.MAX_EVENTS", 3)
async def test_waiting_events_are_bounded(expect_log: Callable[..., None]) -> None:
    """While nothing can be published, the latest events wait and the oldest are dropped."""
    from asyncio import Event

    expect_log("inbox event dropped")
    gate, texts = Event(), []

    async def publish(_: str, event: bytes) -> None:
        await gate.wait()
        texts.append(json.loads(event)["data"]["lastMessage"]["content"])

    api = EmbeddedApi(make_settings(), publish)
    await api.start()
    for n in range(6):
        await api.send_message("c", "u", f"{n}", "USER")
    gate.set()
    await api.close()
    assert texts == ["0", "3", "4", "5"]


@pytest.mark.gen_test
async def test_an_unknown_chat_has_no_state(api: EmbeddedApi, published: Published) -> None:
    """A chat without a message can't be assigned or closed."""
    assert await api.assign("c", "agent_1") is None
    assert await api.close_chat("c") is None
    await api.send_message("c", "u", "hello", "USER")
    await until(lambda: published.told == [("chat_opened", "c")])
    assert (await the(api, "c")).assignee is None


@pytest.mark.gen_test
async def test_nothing_is_saved_in_the_inbox(api: EmbeddedApi, published: Published) -> None:
    """The inbox is not a chat: messages to it are refused, and no list has it."""
    with pytest.raises(ApiError) as caught:
        await api.send_message(INBOX, "agent_1", "hello", "AGENT")
    assert caught.value.code == "chat_not_found"
    assert (await api.chats(10), published.events) == ([], [])


@pytest.mark.gen_test
async def test_status_and_search(api: EmbeddedApi) -> None:
    """A list has the open or the closed chats, and those in which a text is found in any case."""
    texts = {"a-LAMP": "hello", "b": "Meine TÜR ist 100% kaputt", "c": "a lamp_shade", "d": "nothing"}
    for chat, text in texts.items():
        await api.send_message(chat, "u", text, "USER")
    await api.send_message("b", "u", "something else", "USER")
    await api.close_chat("c")

    async def found(**given: Any) -> list[str]:
        return [chat.id for chat in await api.chats(10, **given)]

    assert await found(status="open") == ["b", "d", "a-LAMP"]
    assert await found(status="closed") == ["c"]
    assert await found(query="Lamp") == ["c", "a-LAMP"]
    assert await found(query="lamp", status="open") == ["a-LAMP"]
    assert await found(query="tür") == ["b"]
    assert await found(query="100%") == ["b"]
    assert await found(query="p_s") == ["c"]
    assert await found(query="%") == ["b"]
    assert await found(query="nowhere") == []
    with patch("eclipse_ws.application.embedded_chats.SEARCHED", 2):
        assert await found(query="lamp") == ["a-LAMP"]


@pytest.mark.gen_test
async def test_a_database_that_versions_share(tmp_path: Path) -> None:
    """An older version's database is upgraded without loss, and an older version can go on writing to it."""
    path = str(tmp_path / "chats.sqlite3")
    first = EmbeddedApi(make_settings(embedded_db=path))
    await first.start()
    await first.send_message("c", "u", "hello", "USER")
    await first.close()
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE states")
    other.close()
    second = EmbeddedApi(make_settings(embedded_db=path))
    await second.start()
    chat = await the(second, "c")
    assert (chat.status, chat.assignee, chat.received, chat.openedAt) == ("open", None, 1, chat.updatedAt)
    await second.assign("c", "agent_1")
    await second.close_chat("c")
    with sqlite3.connect(path) as other:  # as an older version saves a message
        other.execute(
            "INSERT INTO messages (id, chat, user, content, role, created_at, key) "
            "VALUES ('m', 'c', 'u', 'again', 'USER', '2026-01-01T00:00:00.000Z', NULL)"
        )
        seq = other.execute("SELECT MAX(seq) FROM messages").fetchone()[0]
        other.execute(
            "INSERT INTO chats VALUES ('c', ?, 1) "
            "ON CONFLICT (id) DO UPDATE SET last = excluded.last, count = count + 1",
            (seq,),
        )
    other.close()
    after = await the(second, "c")
    assert (after.status, after.assignee, after.waitingSince) == (
        "open",
        "agent_1",
        "2026-01-01T00:00:00.000Z",
    )
    assert (after.received, after.answered, after.count) == (2, 1, 2)
    await second.close()
