"""What delivery hands to the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from eclipse_ws.backends.marks import Mark
from eclipse_ws.delivery.presence_notes import Here
from eclipse_ws.delivery.presence_view import News
from eclipse_ws.protocol import Event


class Subscriber(Protocol):
    """What the hub is to delivery. Every method is synchronous and must not block."""

    def deliver(self, chat_id: str, event: Event) -> None:
        """Hand ``event`` to the chat's sessions on this node."""

    def interrupt(self, chat_id: str) -> None:
        """Tell that the chat's sessions may have missed events, so that they must resume."""

    def marked(self, chat_id: str, name: str, mark: Mark) -> None:
        """Tell that a chat has this mark now, which is new or another one than before."""

    def answer(self, question: Any) -> Any:
        """Answer another node's question (see `Delivery.ask`); both are JSON values."""

    def occupied(self) -> list[str]:
        """The chats with sessions on this node."""

    def users(self, chat_id: str) -> Mapping[str, Here]:
        """The users with sessions in a chat on this node."""

    def present(self, chat_id: str, news: News) -> None:
        """Tell the chat's sessions that watch it who is there."""
