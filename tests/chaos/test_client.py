"""The suite's client sends a message again just as the JavaScript client does (``web/src/client``)."""

from __future__ import annotations

import random
from typing import Any
from unittest.mock import patch

import pytest

from tests.chaos.client import ACK_SECONDS, Client, Visit
from tests.chaos.test_judge import Nodes
from tests.chaos.tries import MOST_TRIES


class Wire:
    """A connection that records what is sent."""

    transport = None

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, command: dict[str, Any]) -> None:
        """Record it."""
        self.sent.append(command)


class Connected:
    """A client on a connection, and a clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.client = Client(Nodes(), "c", 1, 0.0, random.Random(1))  # type: ignore[arg-type]
        self.connect()

    def connect(self) -> None:
        """Give it a new connection."""
        self.wire = self.client._wire = Wire()  # type: ignore[assignment]
        with patch("time.monotonic", lambda: self.now):
            self.client.visits.append(Visit("A", self.now, None))
            self.client.on_event({"type": "connected", "cursor": "e.1", "recovered": True})

    def write(self) -> str:
        """Write a message; returns its key."""
        self.client._write(self.now)
        self.client._pump(self.now)
        return self.client.outbox[-1].key

    def answer(self, key: str, code: str, **more: Any) -> None:
        """Deliver a retryable error for the message."""
        event = {"type": "error", "clientMessageId": key, "code": code, "retryable": True, **more}
        with patch("time.monotonic", lambda: self.now):
            self.client.on_event(event)

    def lose(self, code: int = 1006) -> None:
        """Lose the connection, and get another one."""
        with patch("time.monotonic", lambda: self.now):
            self.client.on_end(code, 0)
        self.connect()

    def resends(self, after: float) -> list[bool]:
        """What the messages sent so far on this connection say about a resend."""
        self.now += after
        self.client._pump(self.now)
        return [command.get("resend", False) for command in self.wire.sent if command["type"] == "message"]


def test_an_answered_message_is_sent_as_a_new_one() -> None:
    """The error says that the message was not saved."""
    chat = Connected()
    chat.answer(chat.write(), "api_unavailable", retryAfter=1)
    assert chat.resends(0.9) == [False]
    assert chat.resends(0.7) == [False, False]


def test_a_message_without_an_answer_is_always_a_resend() -> None:
    """An error for a later attempt says nothing about the one without an answer."""
    chat = Connected()
    key = chat.write()
    chat.lose()
    assert chat.resends(0.2) == [True]
    chat.answer(key, "api_unavailable", retryAfter=1)
    assert chat.resends(1.6) == [True, True]


def test_a_resent_message_is_given_up_when_its_key_may_be_forgotten() -> None:
    """The key's lifetime is counted from the first attempt without an answer."""
    chat = Connected()
    key = chat.write()
    chat.lose()
    chat.answer(key, "outcome_unknown", retryAfter=1)
    assert chat.resends(2.5) == [True, True]
    chat.answer(key, "outcome_unknown", retryAfter=1)
    chat.resends(Client.key_seconds)
    assert chat.client.given_up == {key}


@pytest.mark.parametrize(
    ("code", "waits"),
    [("api_error", [2, 3, 7, 15, 31]), ("api_unavailable", [2, 2, 2])],
)
def test_waits_grow_with_what_the_error_costs(code: str, waits: list[float]) -> None:
    """Without a ``retryAfter`` at least two seconds, and half a second of chance."""
    chat = Connected()
    key = chat.write()
    for number, wait in enumerate(waits, 1):
        chat.answer(key, code)
        assert len(chat.resends(wait - 0.01)) == number
        assert len(chat.resends(0.51)) == number + 1


def test_a_message_fails_after_its_last_try() -> None:
    """The next one is sent at once."""
    chat = Connected()
    key = chat.write()
    for _ in range(MOST_TRIES):
        assert not chat.client.refused
        chat.answer(key, "api_error")
        chat.resends(40)
    assert chat.client.refused == {key: "api_error"}
    chat.write()
    assert chat.wire.sent[-1]["content"].endswith("-2")


def test_a_lost_connection_ends_the_wait() -> None:
    """After a reconnect it sends at once."""
    chat = Connected()
    chat.answer(chat.write(), "api_error", retryAfter=30)
    chat.lose()
    assert chat.resends(0) == [False]


def test_an_unknown_outcome_is_final_unless_the_message_was_resent() -> None:
    """For a resent message the error is only temporary."""
    chat = Connected()
    key = chat.write()
    chat.answer(key, "outcome_unknown", retryAfter=1)
    assert list(chat.client.unknown) == [key]


@pytest.mark.parametrize(("code", "times"), [(1006, 12), (4000, 3), (1012, None), (4010, None)])
def test_losing_the_connection_costs_what_its_code_says(code: int, times: int | None) -> None:
    """A message that may be what breaks the connection is not sent forever."""
    chat = Connected()
    chat.client.key_seconds = 1e9
    key = chat.write()
    for _ in range((times or 100) - 1):
        chat.lose(code)
        chat.resends(0.2)
    assert not chat.client.unknown
    chat.lose(code)
    assert list(chat.client.unknown) == ([key] if times else [])


def test_silence_costs_a_third() -> None:
    """After three attempts without an answer in time the outcome is unknown."""
    chat = Connected()
    chat.client.key_seconds = 1e9
    key = chat.write()
    for _ in range(3):
        assert not chat.client.unknown
        chat.now += ACK_SECONDS + 0.1
        chat.client._heard = chat.now
        chat.client.tick(chat.now)
        chat.lose(0)
        chat.resends(0.2)
    assert list(chat.client.unknown) == [key]
