"""What delivery hands to the hub."""

from __future__ import annotations

from typing import Any, Protocol

from eclipse_ws.protocol import Event


class Subscriber(Protocol):
    """What the hub is to delivery. Every method is synchronous and must not block."""

    def deliver(self, chat_id: str, event: Event) -> None:
        """Hand ``event`` to the chat's sessions on this node."""

    def interrupt(self, chat_id: str) -> None:
        """Tell that the chat's sessions may have missed events, so that they must resume."""

    def answer(self, question: Any) -> Any:
        """Answer another node's question (see `Delivery.ask`); both are JSON values."""
