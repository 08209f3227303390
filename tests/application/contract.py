"""What every ChatApi must do: subclass ChatApiContract and give it a started ``api`` fixture."""

from __future__ import annotations

import asyncio
import re

import pytest

from eclipse_ws.application.base import ApiError, ChatApi, Share

AWKWARD = [
    "../../users/1",
    "a/b",
    "..\\..",
    "?x=1#y",
    "%2e%2e",
    "a b+c&d",
    "{}",
    "Zoë 漢字 🙂",
    "'; DROP TABLE messages; --",
]


class ChatApiContract:
    """The contract's tests. ``unknown_user`` is an id that the implementation does not know."""

    unknown_user = "missing_user"

    @pytest.mark.gen_test
    async def test_saved_message_is_answered(self, api: ChatApi) -> None:
        """A saved message comes back with an id, a time and its sender."""
        message = await api.send_message("chat-1", "agent_1", "hello", "AGENT")
        assert message.id
        assert message.content == "hello"
        assert message.role == "AGENT"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message.createdAt)
        assert message.sender.id == "agent_1"
        assert message.sender.name
        assert message.sender.email

    @pytest.mark.gen_test
    async def test_visitor_has_no_name(self, api: ChatApi) -> None:
        """A visitor without an account is a sender with an id, and without a name."""
        message = await api.send_message("chat-1", "anon_1_x", "hello", "USER")
        assert message.sender.id
        assert message.sender.name is None

    @pytest.mark.gen_test
    @pytest.mark.parametrize("key", [None, ""])
    async def test_ids_differ(self, api: ChatApi, key: str | None) -> None:
        """Without a key, or with an empty one, the same content is two messages."""
        first = await api.send_message("chat-1", "u", "same", "USER", key)
        second = await api.send_message("chat-1", "u", "same", "USER", key)
        assert first.id != second.id

    @pytest.mark.gen_test
    @pytest.mark.parametrize("content", ["a\x01b", "  x  ", "\r\n.", "漢字🙂", "x" * 16000, '{"a": 1}'])
    async def test_content_is_kept_as_it_is(self, api: ChatApi, content: str) -> None:
        """Content comes back unchanged."""
        assert (await api.send_message("chat-1", "u", content, "USER")).content == content

    @pytest.mark.gen_test
    @pytest.mark.parametrize("name", AWKWARD)
    async def test_awkward_ids_stay_ids(self, api: ChatApi, name: str) -> None:
        """An id that looks like a path, a query or SQL is an id like any other."""
        message = await api.send_message(name, name, "hello", "USER")
        assert message.sender.id == name

    @pytest.mark.gen_test
    @pytest.mark.parametrize("name", ["", "\ud800"])
    async def test_invalid_chats_are_refused(self, api: ChatApi, name: str) -> None:
        """An invalid chat id is refused permanently, and nothing is saved."""
        with pytest.raises(ApiError) as caught:
            await api.send_message(name, "u", "hello", "USER")
        assert caught.value.code in ("chat_not_found", "api_rejected")
        assert not caught.value.retryable
        assert not caught.value.outcome_unknown

    @pytest.mark.gen_test
    async def test_lone_surrogates_are_refused(self, api: ChatApi) -> None:
        """Content that is not well-formed Unicode is refused permanently."""
        with pytest.raises(ApiError) as caught:
            await api.send_message("chat-1", "u", "\ud800", "USER")
        assert (caught.value.code, caught.value.retryable) == ("api_rejected", False)

    @pytest.mark.gen_test
    async def test_agent_is_found(self, api: ChatApi) -> None:
        """A known user is returned with name and e-mail."""
        user = await api.user("agent_1")
        assert user.id == "agent_1"
        assert user.name
        assert user.email

    @pytest.mark.gen_test
    @pytest.mark.parametrize("name", [None, "", "\ud800"])
    async def test_unknown_user(self, api: ChatApi, name: str | None) -> None:
        """An unknown user is an error of that name, which is final."""
        with pytest.raises(ApiError) as caught:
            await api.user(self.unknown_user if name is None else name)
        assert (caught.value.code, caught.value.retryable) == ("user_not_found", False)
        assert api.state == "up"

    @pytest.mark.gen_test
    async def test_calls_at_once(self, api: ChatApi) -> None:
        """Many calls at once are each answered with their own message."""
        texts = [f"text {n}" for n in range(100)]
        sends = [api.send_message(f"chat-{n % 7}", "u", text, "USER") for n, text in enumerate(texts)]
        messages = await asyncio.gather(*sends)
        assert [message.content for message in messages] == texts
        assert len({message.id for message in messages}) == 100

    @pytest.mark.gen_test
    async def test_shares(self, api: ChatApi) -> None:
        """Calls of many users and addresses, and of none, all complete, and leave no state."""
        shares = [Share(f"user:{n % 5}", None if n % 2 else f"10.0.0.{n % 3}") for n in range(40)]
        sends = [api.send_message("chat-1", "u", "hello", "USER", share=share) for share in [*shares, None]]
        assert len({message.id for message in await asyncio.gather(*sends)}) == 41
        assert (await api.user("agent_1", share=shares[0])).id == "agent_1"
        await asyncio.sleep(0.01)
        assert (api.stats.active, api.stats.waiting) == (0, 0)

    @pytest.mark.gen_test
    async def test_counters(self, api: ChatApi) -> None:
        """Calls are counted by outcome and by duration."""
        await api.send_message("chat-1", "u", "hello", "USER")
        before = dict(api.stats.calls)
        await api.user("agent_1")
        with pytest.raises(ApiError):
            await api.user(self.unknown_user)
        assert api.stats.calls["ok"] == before["ok"] + 1
        assert api.stats.calls["user_not_found"] == 1
        assert sum(api.stats.buckets) == sum(api.stats.calls.values())
        assert api.stats.seconds > 0
        assert (api.stats.active, api.stats.waiting) == (0, 0)

    @pytest.mark.gen_test
    async def test_closed(self, api: ChatApi) -> None:
        """After close() calls fail at once, and a second close() does nothing."""
        await api.close()
        await api.close()
        for call in (api.send_message("chat-1", "u", "hello", "USER"), api.user("agent_1")):
            with pytest.raises(ApiError) as caught:
                await call
            assert (caught.value.code, caught.value.outcome_unknown) == ("api_unavailable", False)
