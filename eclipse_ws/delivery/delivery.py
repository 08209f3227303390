"""Delivery: what sessions use to save once and publish, over any backend."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from eclipse_ws.backends.base import Backend, Subscriber
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.idempotency import Idempotency
from eclipse_ws.delivery.records import Attempt
from eclipse_ws.protocol import Event, Receipt


class Delivery:
    """Stands between the hub and the backend, whose `Listener` it is."""

    def __init__(
        self, settings: Settings, backend: Backend, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._idempotency = Idempotency(settings, backend, clock)
        # The hub's own methods: nothing stands in an event's way.
        self.deliver: Callable[[str, Event], None]
        self.interrupt: Callable[[str], None]
        self._hub: Subscriber

    async def start(self, hub: Subscriber) -> None:
        """Start the backend, whose events go to the hub. Raises BackendError if it can never work."""
        self._hub, self.deliver, self.interrupt = hub, hub.deliver, hub.interrupt
        await self._backend.start(self)

    async def close(self) -> None:
        """Close the backend. Idempotent."""
        await self._idempotency.close()
        await self._backend.close()

    # What sessions and the application ask for

    async def publish(self, chat_id: str, event: Event, attempt: Attempt | None = None) -> Receipt:
        """Publish a kept event (see `Backend.publish`), and settle the attempt that led to it as done."""
        receipt = await self._backend.publish(chat_id, event, None if attempt is None else attempt.key)
        if attempt is not None:
            self._idempotency.done(attempt, receipt)
        return receipt

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Fan out an ephemeral event, without waiting. Never raises."""
        self._backend.broadcast(chat_id, event)

    async def attempt(
        self,
        chat_id: str,
        name: str,
        *,
        fingerprint: str = "",
        resent: bool = False,
        retry_unknown: bool = False,
    ) -> Attempt:
        """Ask for the right to save a message under a key's name, on all nodes, for the history's lifetime.

        ``fingerprint``, a word without spaces, tells what the key stands for. ``resent``: the client says
        that it sent this message before. ``retry_unknown``: an attempt of unknown outcome may be repeated.
        Waits for an earlier attempt that is under way, at most ``api_timeout`` and a margin.
        `decisions.decide` has the rules.
        """
        return await self._idempotency.take(
            chat_id, name, fingerprint=fingerprint, resent=resent, retry_unknown=retry_unknown
        )

    async def release(self, attempt: Attempt) -> None:
        """Give a new attempt back: nothing was saved, so that the next one for the same is new again."""
        await self._idempotency.release(attempt)

    async def abandon(self, attempt: Attempt) -> None:
        """Settle a new attempt as unknown: it may have been saved."""
        await self._idempotency.abandon(attempt)

    # What the backend calls, beside `deliver` and `interrupt` (see `Listener`)

    def restored(self) -> None:
        """Tell the backend what was begun without it."""
        self._idempotency.restored()

    def answer(self, question: Any) -> Any:
        """Answer another node's question: on a key, or else on what the hub knows."""
        return self._idempotency.answer(question) or self._hub.answer(question)
