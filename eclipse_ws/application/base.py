"""The contract of the application's API: it saves messages and looks users up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from typing import Final, Literal, NamedTuple

from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Message, User

LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds of the latency histogram's buckets; one more bucket counts slower calls."""


class ApiError(Exception):
    """A failed call. ``str()`` is detail for the log: it contains neither a secret nor a message's content.

    ``code`` is stable and may be shown to clients; the detail may not. ``retry_after`` is in seconds, None
    if unknown. ``outcome_unknown`` is True when the request may have taken effect but its response was lost:
    it must not be repeated blindly. ``down`` is True when the failure may affect every request: there was no
    response, or not one that the application itself can have sent.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retryable: bool = True,
        retry_after: float | None = None,
        outcome_unknown: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.outcome_unknown = outcome_unknown
        self.down = down


class Share(NamedTuple):
    """The caller that a call is charged to; the limits that all calls share are divided by it.

    ``who`` names the user, or the chat for visitors, whose ids change. ``address`` is the client's; None
    if it does not distinguish clients.
    """

    who: str
    address: str | None = None


class ApiStats:
    """Plain counters of one ChatApi, read when metrics are scraped.

    ``calls`` counts finished calls by outcome ("ok" or an error's code); ``seconds`` is their summed
    duration and ``buckets`` its histogram, not cumulative, over LATENCY_BUCKETS; ``active`` and ``waiting``
    are gauges. ``cookies_dropped`` counts cookies of the application that were not stored.
    """

    __slots__ = ("active", "buckets", "calls", "cookies_dropped", "seconds", "waiting")

    def __init__(self) -> None:
        self.calls: dict[str, int] = {"ok": 0}
        self.seconds = 0.0
        self.buckets: list[int] = [0] * (len(LATENCY_BUCKETS) + 1)
        self.active = 0
        self.waiting = 0
        self.cookies_dropped = 0

    def count(self, outcome: str, seconds: float) -> None:
        """Count one finished call."""
        self.calls[outcome] = self.calls.get(outcome, 0) + 1
        self.seconds += seconds
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1


class ChatApi(ABC):
    """Saves messages and looks users up. This docstring is the contract of every implementation.

    - ``start()`` is called first, on the running loop. ``close()`` ends calls in progress, and may be called
      twice or without ``start()``. A call before ``start()`` or after ``close()`` fails with
      ``api_unavailable``.
    - Every call ends within the setting ``api_timeout``, with a result or an ApiError, never with another
      exception. Queues are bounded: past ``api_max_waiting``, or past its ``share`` of the places, a call
      fails at once with ``api_busy``.
    - ``send_message`` returns the Message only when it is saved. If it raises with ``outcome_unknown``
      False, the message is not saved. With True it may be saved, and the caller decides what to do; an
      implementation never posts a message twice by itself unless a ``key`` is given and the API is known to
      honour it. The Message is the one that was sent: a response about another one is ``api_bad_answer``.
    - ``chat_id``, ``user_id`` and ``content`` may be any text: none of it can reach another route or chat,
      and text that can't be stored is an ApiError that is not ``retryable``.
    - A failing call does not affect other calls, whatever it contains, and after an outage calls succeed
      again without a restart.

    The codes: ``api_unavailable`` (nothing was done; try again), ``api_timeout``, ``api_connection_lost``,
    ``api_bad_answer``, ``api_redirected``, ``api_error``, ``api_busy``, ``api_conflict``, ``api_rejected``,
    ``api_unauthorized``, ``chat_not_found``, ``user_not_found``.
    """

    def __init__(self) -> None:
        self.stats = ApiStats()

    @property
    def state(self) -> Literal["up", "down"]:
        """Whether calls pass, for the health document."""
        return "up"

    @abstractmethod
    async def start(self) -> None:
        """Open what calls need. Raises ApiError if calls can never work; an API that is merely unavailable
        raises nothing.
        """

    def reload(self, settings: Settings) -> None:  # noqa: B027 - most settings are fixed at the start
        """Apply a changed secret; calls in progress keep the old one."""

    @abstractmethod
    async def close(self) -> None:
        """Wait for calls in progress, then release everything. Idempotent."""

    @abstractmethod
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
        """Save a message; ``key`` asks an API that honours Idempotency-Key to save it once. Raises
        ApiError.
        """

    @abstractmethod
    async def user(self, user_id: str, *, share: Share | None = None) -> User:
        """Look a user up. Raises ApiError, with ``user_not_found`` for an unknown user."""
