"""What each command does, on a memory backend and a chat API whose every answer the test decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, get_args

import pytest

from eclipse_ws import protocol
from eclipse_ws.application.base import ApiError, ChatApi, Share
from eclipse_ws.backends.base import Key
from eclipse_ws.backends.marks import Mark
from eclipse_ws.backends.memory import MemoryBackend
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.keys import visitors_key
from eclipse_ws.delivery.records import Attempt
from eclipse_ws.protocol import (
    AgentJoined,
    CommandError,
    Event,
    Message,
    Ping,
    Refresh,
    Sender,
    SendMessage,
    Typing,
    User,
)
from eclipse_ws.security.jwt import Claims
from eclipse_ws.sessions.commands import ROWS, Commands
from tests.client import until
from tests.conftest import make_settings

CHAT = "c1"
HELLO = SendMessage("hello", "USER", "k1")


class ScriptedApi(ChatApi):
    """Answers with ``result``, once ``gate`` is open; what it was asked is in ``calls``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, ...]] = []
        self.shares: list[Share | None] = []
        self.result: BaseException | None = None
        self.found = User("u1", "Ada")
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to free."""

    async def send_message(
        self,
        chat_id: str,
        user_id: str,
        content: str,
        role: str,
        key: str | None = None,
        *,
        share: Share | None = None,
    ) -> Message:
        """Say that it is saved, or fail as the script has it."""
        self.calls.append((chat_id, user_id, content, role, key))
        self.shares.append(share)
        await self.gate.wait()
        if self.result is not None:
            raise self.result
        return Message(f"m{len(self.calls)}", content, role, "2026-01-01T00:00:00.000Z", Sender(user_id))

    async def user(self, user_id: str, *, share: Share | None = None) -> User:
        """Find the user, or fail as the script has it."""
        self.calls.append((user_id,))
        self.shares.append(share)
        if self.result is not None:
            raise self.result
        return self.found


class Speaker:
    """A session of which only the answers matter."""

    def __init__(self, user: str = "u1", *, known: bool = False, address: str | None = None) -> None:
        self.id = f"s-{user}"
        self.claims = Claims(user, CHAT, known)
        self.address = address
        self.got: list[dict[str, Any]] = []

    def send(self, frame: bytes, chat_id: str = "") -> None:
        """Keep an answer."""
        self.got.append(json.loads(frame))

    def refresh(self, token: str) -> None:
        """Keep a token."""
        self.got.append({"token": token})

    async def join(self, wanted: Sequence[protocol.ChatToJoin]) -> None:
        """Keep the chats."""
        self.got += [{"join": chat.chat_id} for chat in wanted]

    def leave(self, chat_ids: Sequence[str]) -> None:
        """Keep the chats."""
        self.got += [{"leave": chat_id} for chat_id in chat_ids]


class Ears:
    """A subscriber that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def deliver(self, chat_id: str, event: Event) -> None:
        """Keep an event."""
        self.heard.append(event)

    def interrupt(self, chat_id: str) -> None:
        """Never comes from memory."""

    def marked(self, chat_id: str, name: str, mark: Mark) -> None:
        """Nobody reads."""

    def answer(self, question: Any) -> Any:
        """Nobody asks."""


class Scene:
    """Commands in a chat that somebody hears."""

    def __init__(self, **given: object) -> None:
        self.settings = make_settings(**given)
        self.api = ScriptedApi()
        self.backend = MemoryBackend(self.settings)
        self.delivery = Delivery(self.settings, self.backend)
        self.commands = Commands(self.settings, self.delivery, self.api)
        self.ears = Ears()
        self.speaker = Speaker()

    async def do(self, command: protocol.Command, speaker: Speaker | None = None) -> dict[str, Any] | None:
        """Carry a command out; what an error would tell the client, without its time, or None."""
        try:
            row = self.commands.rows[type(command)]
            outcome: Awaitable[None] | None = self.commands.handle(
                speaker or self.speaker, row, CHAT, command
            )
            if outcome is not None:
                await outcome
        except CommandError as error:
            told: dict[str, Any] = json.loads(error.encode())
            del told["timestamp"]
            return told
        return None


@asynccontextmanager
async def scene(**given: object) -> AsyncIterator[Scene]:
    """A scene whose chat is subscribed."""
    made = Scene(**given)
    await made.delivery.start(made.ears)
    await made.delivery.subscribe(CHAT)
    yield made
    await made.delivery.close()


@pytest.mark.gen_test
async def test_message_is_saved_then_published() -> None:
    """A message is saved with its key, then published in the chat, then acknowledged to its sender."""
    async with scene() as here:
        assert await here.do(HELLO) is None
        assert here.api.calls == [(CHAT, "u1", "hello", "USER", visitors_key(CHAT, "k1"))]
        (event,) = here.ears.heard
        assert json.loads(event.body)["data"]["content"] == "hello"
        (acked,) = here.speaker.got
        assert (acked["type"], acked["clientMessageId"], acked["id"]) == ("ack", "k1", "m1")
        assert (acked["cursor"], acked["delivery"]) == (str(event.cursor), "published")


@pytest.mark.gen_test
async def test_message_without_a_key_has_no_ack() -> None:
    """A client that knows nothing of acks gets none, and each of its messages is a new one."""
    async with scene() as here:
        for _ in range(2):
            assert await here.do(SendMessage("hello", "USER")) is None
        assert here.speaker.got == []
        assert [call[-1] for call in here.api.calls] == [None, None]
        assert len(here.ears.heard) == 2


@pytest.mark.gen_test
async def test_same_key_is_saved_once() -> None:
    """The same key again is answered with the same ack and saved no second time, though a visitor's id
    changes.
    """
    async with scene() as here:
        other = Speaker("u2")
        await here.do(HELLO)
        await here.do(HELLO)
        await here.do(HELLO, other)
        acks = [{**each, "timestamp": ""} for each in here.speaker.got + other.got]
        assert acks[0] == acks[1] == acks[2]
        assert len(here.api.calls) == len(here.ears.heard) == 1


@pytest.mark.gen_test
async def test_keys_of_users_are_their_own() -> None:
    """The same key of another user, or of visitors, is another key; each message is saved."""
    async with scene() as here:
        speakers = [Speaker("u1", known=True), Speaker("u2", known=True), Speaker("u1")]
        for speaker in speakers:
            assert await here.do(SendMessage(f"hello from {speaker.id}", "USER", "k1"), speaker) is None
            assert await here.do(SendMessage(f"hello from {speaker.id}", "USER", "k1"), speaker) is None
        assert len({call[-1] for call in here.api.calls}) == len(here.api.calls) == 3
        assert [len(speaker.got) for speaker in speakers] == [2, 2, 2]


@pytest.mark.gen_test
@pytest.mark.parametrize("other", [SendMessage("bye", "USER", "k1"), SendMessage("hello", "AGENT", "k1")])
@pytest.mark.parametrize("state", ["done", "in progress", "unknown", "released"])
async def test_key_that_is_used_again(other: SendMessage, state: str, expect_log: Any) -> None:
    """A key that comes again with another content or role is refused, whatever became of the first: nothing
    is saved, and no ack is given.
    """
    async with scene() as here:
        if state == "in progress":
            here.api.gate.clear()
        elif state != "done":
            expect_log("message not saved")
            here.api.result = ApiError("api_timeout", "away", outcome_unknown=state == "unknown")
        first = asyncio.ensure_future(here.do(HELLO))
        await until(lambda: here.api.calls and (state == "in progress" or first.done()))
        here.api.result = None
        told = await here.do(other, Speaker("u2"))
        assert told is not None
        assert (told["code"], told["retryable"], told["clientMessageId"]) == ("key_reused", False, "k1")
        assert len(here.api.calls) == 1
        here.api.gate.set()
        await first


@pytest.mark.gen_test
async def test_calls_count_against_a_share() -> None:
    """A user's calls count against the user, a visitor's against the chat, and all against the address."""
    async with scene() as here:
        await here.do(SendMessage("x", "USER"), Speaker("u1", known=True, address="10.0.0.1"))
        await here.do(SendMessage("x", "USER"), Speaker("anon_1"))
        await here.do(AgentJoined(), Speaker("u2", known=True))
        assert here.api.shares == [Share("user:u1", "10.0.0.1"), Share("chat:c1"), Share("user:u2")]


@pytest.mark.gen_test
@pytest.mark.parametrize(("code", "level"), [("api_bad_answer", "ERROR"), ("api_timeout", "WARNING")])
async def test_answer_that_can_not_be_trusted_is_an_error_line(
    code: str, level: str, expect_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer about another message is logged as an error, told as unknown, and published to nobody; one
    that doesn't come is a warning.
    """
    expect_log("message not saved")
    async with scene() as here:
        here.api.result = ApiError(code, "another message", retryable=False, outcome_unknown=True)
        told = await here.do(HELLO)
        assert told is not None
        assert told["code"] == "outcome_unknown"
        assert here.ears.heard == []
        assert [line.levelname for line in caplog.records if "message not saved" in str(line.msg)] == [level]


@pytest.mark.gen_test
async def test_same_key_while_the_first_is_in_progress() -> None:
    """A retry that overtakes the first answer waits for it."""
    async with scene() as here:
        here.api.gate.clear()
        sends = [asyncio.ensure_future(here.do(HELLO)) for _ in range(3)]
        await until(lambda: here.api.calls)
        assert not any(send.done() for send in sends)
        here.api.gate.set()
        assert await asyncio.gather(*sends) == [None] * 3
        assert {acked["id"] for acked in here.speaker.got} == {"m1"}
        assert len(here.speaker.got) == 3
        assert len(here.api.calls) == 1


@pytest.mark.gen_test
async def test_api_error_becomes_an_error_frame(expect_log: Any) -> None:
    """A message that is not saved is answered with the contract's text, a code and what a client can do."""
    expect_log("message not saved")
    async with scene() as here:
        here.api.result = ApiError("api_unavailable", "connection refused by 10.0.0.1", retry_after=2.5)
        assert await here.do(HELLO) == {
            "type": "error",
            "error": "Failed to send message",
            "code": "api_unavailable",
            "retryable": True,
            "retryAfter": 2.5,
            "clientMessageId": "k1",
        }
        here.api.result = ApiError("chat_not_found", "404", retryable=False)
        assert await here.do(SendMessage("x", "USER")) == {
            "type": "error",
            "error": "Failed to send message",
            "code": "chat_not_found",
            "retryable": False,
        }
        assert here.ears.heard == []
        assert here.speaker.got == []


@pytest.mark.gen_test
async def test_key_is_free_again_after_a_failure(expect_log: Any) -> None:
    """What was surely not saved may be sent again under its key."""
    expect_log("message not saved")
    async with scene() as here:
        here.api.result = ApiError("api_unavailable", "away")
        await here.do(HELLO)
        here.api.result = None
        assert await here.do(HELLO) is None
        assert here.speaker.got[0]["id"] == "m2"


@pytest.mark.gen_test
async def test_outcome_unknown(expect_log: Any) -> None:
    """A lost answer is `outcome_unknown`, also for the retry, and nothing is posted again."""
    expect_log("message not saved")
    async with scene() as here:
        here.api.result = ApiError("api_timeout", "no answer in 10 s", outcome_unknown=True)
        told = await here.do(HELLO)
        assert told is not None
        assert (told["code"], told["retryable"], told["clientMessageId"]) == ("outcome_unknown", False, "k1")
        here.api.result = None
        assert await here.do(HELLO) == told
        assert len(here.api.calls) == 1
        unkeyed = SendMessage("x", "USER")
        here.api.result = ApiError("api_timeout", "no answer in 10 s", outcome_unknown=True)
        without = await here.do(unkeyed)
        assert without is not None
        assert without["code"] == "outcome_unknown"
        assert "clientMessageId" not in without


@pytest.mark.gen_test
async def test_a_resend_that_nobody_can_decide_is_asked_again_later() -> None:
    """What another node may have saved is not posted while that can't be asked; the client may ask again."""
    resend = SendMessage("hello", "USER", "k1", resend=True)
    async with scene() as here:
        asked: list[dict[str, Any]] = []

        async def attempt(chat_id: str, key: str, **given: Any) -> Attempt:
            asked.append(given)
            return Attempt(chat_id, Key(key, ""), "later")

        here.delivery.attempt = attempt  # type: ignore[method-assign]
        told = await here.do(resend)
        assert told is not None
        assert (told["code"], told["retryable"]) == ("outcome_unknown", True)
        assert (told["clientMessageId"], told["retryAfter"]) == ("k1", 2)
        assert asked[0]["resent"]
        await here.do(HELLO)
        assert not asked[1]["resent"]
        assert here.api.calls == []


@pytest.mark.gen_test
async def test_outcome_unknown_with_an_api_that_honours_keys(expect_log: Any) -> None:
    """Where the API is known to honour the key, a retry is posted under it."""
    expect_log("message not saved")
    async with scene(api_honours_idempotency=True) as here:
        here.api.result = ApiError("api_timeout", "no answer in 10 s", outcome_unknown=True)
        await here.do(HELLO)
        here.api.result = None
        assert await here.do(HELLO) is None
        assert [call[-1] for call in here.api.calls] == [visitors_key(CHAT, "k1")] * 2


@pytest.mark.gen_test
@pytest.mark.parametrize("fault", [RuntimeError("a bug"), asyncio.CancelledError()])
async def test_internal_error_while_saving_leaves_the_outcome_unknown(fault: BaseException) -> None:
    """A send that ends with an internal error or with the process may have been saved: nobody repeats it."""
    async with scene() as here:
        here.api.result = fault
        with pytest.raises(type(fault)):
            await here.do(HELLO)
        here.api.result = None
        told = await here.do(HELLO)
        assert told is not None
        assert told["code"] == "outcome_unknown"
        with pytest.raises(type(fault)):
            here.api.result = fault
            await here.do(SendMessage("x", "USER"))


@pytest.mark.gen_test
async def test_typing_is_broadcast() -> None:
    """Typing is told under the token's user, with the session that must not hear it, and not kept."""
    async with scene() as here:
        assert await here.do(Typing(True)) is None
        (event,) = here.ears.heard
        assert json.loads(event.body)["data"] == {"userId": "u1", "isTyping": True}
        assert (event.origin, event.kept) == ("s-u1", False)
        assert here.api.calls == []


@pytest.mark.gen_test
async def test_ping() -> None:
    """A ping is answered to its sender alone."""
    async with scene() as here:
        assert await here.do(Ping()) is None
        assert [each["type"] for each in here.speaker.got] == ["pong"]
        assert here.ears.heard == []


@pytest.mark.gen_test
async def test_agent_joined() -> None:
    """An agent is looked up by the token's user, and told by the chat API's name."""
    async with scene() as here:
        here.api.found = User("u1", None, "ada@x")
        assert await here.do(AgentJoined()) is None
        assert here.api.calls == [("u1",)]
        data = json.loads(here.ears.heard[0].body)["data"]
        assert (data["agentId"], data["agentName"]) == ("u1", "ada@x")


@pytest.mark.gen_test
async def test_agent_who_is_not_found(expect_log: Any) -> None:
    """A failed lookup is answered with the contract's text, and no agent is announced."""
    expect_log("agent not found")
    async with scene() as here:
        here.api.result = ApiError("user_not_found", "404", retryable=False)
        told = {"type": "error", "error": "Failed to fetch agent info"}
        assert await here.do(AgentJoined()) == {**told, "code": "user_not_found", "retryable": False}
        here.api.result = ApiError("api_unavailable", "away", retry_after=1)
        assert await here.do(AgentJoined()) == {
            **told,
            "code": "api_unavailable",
            "retryable": True,
            "retryAfter": 1,
        }
        assert here.ears.heard == []


@pytest.mark.gen_test
async def test_agent_joined_that_can_not_be_published(
    expect_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault while publishing is answered with `internal_error` and the text of the contract."""
    expect_log("agent_joined failed")
    async with scene() as here:

        async def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(here.delivery, "publish", broken)
        assert await here.do(AgentJoined()) == {
            "type": "error",
            "error": "Failed to process agent_joined event",
            "code": "internal_error",
            "retryable": True,
        }


@pytest.mark.gen_test
async def test_handled_commands_are_counted() -> None:
    """Each kind of command has a counter."""
    async with scene() as here:
        for command in (HELLO, Typing(True), Ping(), Ping(), AgentJoined()):
            await here.do(command)
        counts = {
            "message": 1,
            "typing": 1,
            "agent_joined": 1,
            "ping": 2,
            "read": 0,
            "refresh": 0,
            "join": 0,
            "leave": 0,
        }
        assert here.commands.handled == counts
    async with scene() as another:
        assert set(another.commands.handled.values()) == {0}, "nodes count for themselves"


@pytest.mark.parametrize(
    ("command", "roles"),
    [
        (SendMessage("x", "USER"), {"USER"}),
        (SendMessage("x", "AGENT"), {"AGENT"}),
        (AgentJoined(), {"AGENT"}),
        (Typing(True), {"USER", "ASSISTANT", "AGENT", None}),
        (Ping(), {"USER", "ASSISTANT", "AGENT", None}),
        (Refresh("t"), {"USER", "ASSISTANT", "AGENT", None}),
    ],
)
def test_roles_that_a_command_needs(command: protocol.Command, roles: set[str | None]) -> None:
    """A message and `agent_joined` need a role, which a visitor has only as USER; the others need none."""
    row = ROWS[type(command)]
    for role in ("USER", "ASSISTANT", "AGENT", None):
        claims = Claims("u1", CHAT, True, roles=() if role is None else (role,))
        assert row.permits(claims, command) is (role in roles)
    assert row.permits(Claims("u1", CHAT), command) is ("USER" in roles)


def test_every_command_has_a_row() -> None:
    """No command can be decoded that has no handler."""
    assert set(ROWS) == set(get_args(protocol.Command))
