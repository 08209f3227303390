"""The contract suite: the example passes it, and it detects broken backends."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eclipse_ws.backends.base import Backend, NullListener
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Event
from eclipse_ws.testing import BackendContract

EXAMPLE = Path(__file__).parents[2] / "examples" / "backend"


def example(name: str) -> Any:
    """A module of the example, which is not installed."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DictBackend: Any = example("dict_backend").DictBackend


class TestExample(BackendContract):
    """The example, checked as its own test does it."""

    def make_backend(self, settings: Settings) -> Backend:
        """See `BackendContract`."""
        backend: Backend = DictBackend(settings)
        return backend


class _Forgetful(DictBackend):
    async def append(self, chat_id: str, event: Any, **given: Any) -> Any:
        kept = self.chat(chat_id)[0]
        if kept:
            kept[:] = [Event("message", b"{}", "forgotten", each.cursor) for each in kept]
        return await super().append(chat_id, event, **given)


class _Partial(DictBackend):
    async def read(self, chat_id: str, after: Any, known: Any = None) -> Any:
        found = await super().read(chat_id, after, known)
        return self.chat(chat_id)[0] if found is None else found


class _Deaf(DictBackend):
    async def append(self, chat_id: str, event: Any, **given: Any) -> Any:
        listener, self.listener = self.listener, NullListener()
        answer = await super().append(chat_id, event, **given)
        self.listener = listener
        return answer


class _Talkative(DictBackend):
    def broadcast(self, chat_id: str, event: Any) -> None:
        self.listener.deliver(chat_id, event)


class _Stubborn(DictBackend):
    async def subscribe(self, chat_id: str, known: Any = None, *, renew: bool = False) -> Any:
        return await super().subscribe(chat_id, None)


class _Unbounded(DictBackend):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.model_copy(update={"history_events": 10**6, "history_seconds": 10**6}))


class _Indiscreet(DictBackend):
    async def append(self, chat_id: str, event: Any, **given: Any) -> Any:
        kind = "unknown" if event.type == "message_deleted" else event.type
        return await super().append(chat_id, Event(kind, event.body, event.identity), **given)


class _Late(DictBackend):
    async def append(self, chat_id: str, event: Any, **given: Any) -> Any:
        return await super().append(chat_id, Event(event.type, event.body, f"late {event.identity}"), **given)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (_Late, "test_what_comes_after_its_deletion_is_not_kept"),
        (_Forgetful, "test_an_identity_is_appended_once"),
        (_Forgetful, "test_read_answers_the_rest"),
        (_Partial, "test_read_refuses_what_it_cannot_prove"),
        (_Partial, "test_history_events"),
        (_Talkative, "test_only_subscribed_chats_are_heard"),
        (_Talkative, "test_unsubscribed_chats_are_not_heard"),
        (_Stubborn, "test_subscribing_answers_what_was_missed"),
        (_Stubborn, "test_renewing_begins_a_new_epoch"),
        (_Stubborn, "test_one_of_many_renews_a_known_epoch"),
        (_Unbounded, "test_history_events"),
        (_Unbounded, "test_history_bytes"),
        (_Deaf, "test_a_publisher_hears_itself"),
        (_Deaf, "test_one_order_without_gaps"),
    ],
)
def test_a_broken_promise_is_detected(
    broken: Callable[[Settings], Backend], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that breaks a promise fails the test of that promise."""
    monkeypatch.setattr("eclipse_ws.testing.harness.WAIT", 0.2)

    class Suite(BackendContract):
        def make_backend(self, settings: Settings) -> Backend:
            return broken(settings)

    with pytest.raises(AssertionError):
        getattr(Suite(), test)()


def test_content_that_outlives_its_deletion_is_detected() -> None:
    """A backend that keeps the content of a deleted message fails the test of that promise."""

    class Suite(BackendContract):
        def make_backend(self, settings: Settings) -> Backend:
            backend: Backend = _Indiscreet(settings)
            return backend

    with pytest.raises(AssertionError):
        Suite().test_a_deleted_message_leaves_the_history(number="m1")  # type: ignore[call-arg]
