"""The table of attempts, on a clock of the tests' own."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.backends.attempts import SHARE, Attempts
from eclipse_ws.backends.base import Attempt
from eclipse_ws.protocol import Receipt

RECEIPT = Receipt("m1", "e.1", "published")


class Clock:
    """A clock that stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def table(limit: int = 100, lifetime: float = 300) -> tuple[Attempts, Clock]:
    """A table and its clock."""
    clock = Clock()
    return Attempts(lifetime, limit, clock), clock


async def take(
    attempts: Attempts, key: str = "key", retry_unknown: bool = False, patience: float = 5
) -> Attempt:
    """Take one."""
    return await attempts.take("chat", key, retry_unknown=retry_unknown, patience=patience)


@pytest.mark.gen_test
async def test_settled_attempts_expire() -> None:
    """An outcome is known until the lifetime is over, and not a moment longer."""
    attempts, clock = table(lifetime=300)
    attempts.settle(await take(attempts), "done", RECEIPT)
    clock.now += 299.9
    assert (await take(attempts)).receipt == RECEIPT
    clock.now += 0.2
    assert (await take(attempts)).state == "new"


@pytest.mark.gen_test
async def test_expired_entries_are_dropped() -> None:
    """Entries go by themselves when they have expired, whether they are asked for or not."""
    attempts, clock = table(lifetime=10)
    for number in range(5):
        attempts.settle(await take(attempts, f"key {number}"), "done", RECEIPT)
    clock.now += 11
    await take(attempts, "another")
    assert len(attempts) == 1


@pytest.mark.gen_test
async def test_the_oldest_settled_goes_first() -> None:
    """Over the limit the oldest outcome is forgotten, and attempts under way stay."""
    attempts, _ = table(limit=3)
    first = await take(attempts, "first")
    for number in range(5):
        attempts.settle(await take(attempts, f"key {number}"), "done", RECEIPT)
    assert len(attempts) == 3
    assert (await take(attempts, "key 4")).state == "done"
    assert (await take(attempts, "first", patience=0)).state == "unknown"  # still under way
    attempts.settle(first, "done", RECEIPT)
    assert (await take(attempts, "first")).receipt == RECEIPT
    assert (await take(attempts, "key 0")).state == "new"


@pytest.mark.gen_test
async def test_even_open_ones_are_bounded() -> None:
    """When nothing but open attempts fill the table, new ones are put off until there is room."""
    attempts, clock = table(limit=2, lifetime=300)
    first = await take(attempts, "first")
    await take(attempts, "second")
    waiting = asyncio.ensure_future(take(attempts, "first"))
    await asyncio.sleep(0)
    for number in range(3):
        assert (await take(attempts, f"key {number}")).state == "later"
    assert len(attempts) == 2
    attempts.settle(first, "done", RECEIPT)
    assert (await waiting).receipt == RECEIPT
    assert (await take(attempts, "third")).state == "new"  # instead of the chat's own oldest outcome
    assert (await take(attempts, "fourth")).state == "later"
    clock.now += 301
    assert (await take(attempts, "fourth")).state == "new"


async def saved(attempts: Attempts, chat_id: str, key: str) -> str:
    """Take an attempt, and settle it as done if it is new; what it was."""
    attempt = await attempts.take(chat_id, key, retry_unknown=False, patience=0)
    if attempt.state == "new":
        attempts.settle(attempt, "done", RECEIPT)
    return attempt.state


@pytest.mark.gen_test
async def test_no_chat_makes_another_forget() -> None:
    """A chat that uses keys without end loses its own oldest, and no other chat's outcome."""
    attempts, _ = table(limit=1000)
    for number in range(50):
        assert await saved(attempts, "quiet", f"key {number}") == "new"
    for number in range(5000):
        assert await saved(attempts, "loud", f"key {number}") == "new"
    assert len(attempts) == 50 + SHARE
    assert await saved(attempts, "loud", "key 4999") == "done"
    assert [await saved(attempts, "quiet", f"key {number}") for number in range(50)] == ["done"] * 50


@pytest.mark.gen_test
async def test_no_number_of_chats_makes_another_forget() -> None:
    """In a table full of others' outcomes nothing is forgotten: what is new is put off until some expire."""
    attempts, clock = table(limit=1000, lifetime=300)
    assert await saved(attempts, "quiet", "key") == "new"
    clock.now += 100
    states = [await saved(attempts, f"chat {number}", "key") for number in range(2000)]
    assert states == ["new"] * 999 + ["later"] * 1001
    assert await saved(attempts, "quiet", "key") == "done"
    assert await saved(attempts, "quiet", "another") == "new"  # instead of its own
    attempts.settle(Attempt("chat 1500", "key", "later"), "done", RECEIPT)  # nor does this make room
    assert await saved(attempts, "chat 3", "key") == "done"
    assert len(attempts) == 1000
    clock.now += 201
    assert await saved(attempts, "chat 3", "key") == "done"
    clock.now += 100
    assert await saved(attempts, "chat 1500", "key") == "new"
    assert len(attempts) == 1


@pytest.mark.gen_test
async def test_an_outcome_is_remembered_however_late_it_comes() -> None:
    """What is saved after its attempt has expired is known, and so is what turns out to be saved at last."""
    attempts, clock = table(limit=2, lifetime=300)
    late = await take(attempts)
    clock.now += 301
    assert (await take(attempts, "another")).state == "new"
    attempts.settle(late, "done", RECEIPT)
    assert (await take(attempts)).receipt == RECEIPT
    attempts, _ = table(limit=2)
    unknown = await take(attempts)
    attempts.settle(unknown, "unknown")
    assert (await attempts.take("other chat", "key", retry_unknown=False, patience=0)).state == "new"
    attempts.settle(unknown, "done", RECEIPT)  # in a full table, too
    assert (await take(attempts)).receipt == RECEIPT


@pytest.mark.gen_test
async def test_what_is_remembered_elsewhere_may_be_forgotten() -> None:
    """Where Redis remembers outcomes too, a full table forgets the oldest, and puts nothing off."""
    attempts = Attempts(300, 1000, elsewhere=True)
    for number in range(2000):
        assert await saved(attempts, f"chat {number}", "key") == "new"
    assert len(attempts) == 1000
    assert await saved(attempts, "chat 1000", "key") == "done"
    assert await saved(attempts, "chat 999", "key") == "new"


@pytest.mark.gen_test
async def test_waiters_are_woken() -> None:
    """Everybody who waits is told the outcome, and a release makes one of them new."""
    attempts, _ = table()
    first = await take(attempts)
    waiting = [asyncio.ensure_future(take(attempts)) for _ in range(3)]
    await asyncio.sleep(0)
    attempts.forget(first)
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().state for task in done] == ["new"]
    attempts.settle(done.pop().result(), "done", RECEIPT)
    for task in pending:
        assert (await task).receipt == RECEIPT


@pytest.mark.gen_test
async def test_patience_ends() -> None:
    """Who has waited long enough is told that the outcome is unknown; the attempt itself goes on."""
    attempts, clock = table()
    first = await take(attempts)
    waiting = asyncio.ensure_future(take(attempts, patience=0.02))
    await asyncio.sleep(0)
    clock.now += 1
    assert (await waiting).state == "unknown"
    attempts.settle(first, "done", RECEIPT)
    assert (await take(attempts)).state == "done"


@pytest.mark.gen_test
async def test_a_released_one_is_known_to_nobody() -> None:
    """A released attempt is new for the same, reused for anything else, and no answer to other nodes."""
    attempts, _ = table(limit=1)
    first = await attempts.take("chat", "key", retry_unknown=False, patience=0, fingerprint="f1")
    attempts.release(first)
    assert attempts.known("chat", "key") is None
    assert attempts.under_way() == []
    reused = await attempts.take("chat", "key", retry_unknown=True, patience=0, fingerprint="f2")
    assert reused.state == "reused"
    again = await attempts.take("chat", "key", retry_unknown=False, patience=0, fingerprint="f1")
    assert again.state == "new"
    assert attempts.under_way() == [again]
    assert len(attempts) == 1


@pytest.mark.gen_test
async def test_unknown_stays_unknown_unless_it_may_be_repeated() -> None:
    """An unknown outcome is told again and again; who may repeat it gets it anew, once."""
    attempts, _ = table()
    attempts.settle(await take(attempts), "unknown")
    assert [(await take(attempts)).state for _ in range(2)] == ["unknown", "unknown"]
    again = await take(attempts, retry_unknown=True)
    assert again.state == "new"
    waiting = asyncio.ensure_future(take(attempts, retry_unknown=True))
    await asyncio.sleep(0)
    attempts.settle(again, "done", RECEIPT)
    assert (await waiting).receipt == RECEIPT


def test_forgetting_what_is_not_there() -> None:
    """Forgetting twice, or what never was, is no error."""
    attempts, _ = table()
    attempts.forget(Attempt("chat", "key", "new"))
    assert len(attempts) == 0
