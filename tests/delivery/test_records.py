"""The table of records, on a clock of the tests' own."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.backends.base import Key
from eclipse_ws.delivery.records import SHARE, Attempt, Records
from eclipse_ws.protocol import Receipt

RECEIPT = Receipt("m1", "e.1", "published")


class Clock:
    """A clock that stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def table(limit: int = 100, lifetime: float = 300) -> tuple[Records, Clock]:
    """A table and its clock."""
    clock = Clock()
    return Records(lifetime, limit, clock), clock


async def take(
    records: Records, key: str = "key", retry_unknown: bool = False, patience: float = 5
) -> Attempt:
    """Take one."""
    return await records.take("chat", Key(key, ""), retry_unknown=retry_unknown, patience=patience)


@pytest.mark.gen_test
async def test_settled_attempts_expire() -> None:
    """An outcome is known until the lifetime is over, and not a moment longer."""
    records, clock = table(lifetime=300)
    records.settle(await take(records), "done", RECEIPT)
    clock.now += 299.9
    assert (await take(records)).receipt == RECEIPT
    clock.now += 0.2
    assert (await take(records)).state == "new"


@pytest.mark.gen_test
async def test_expired_entries_are_dropped() -> None:
    """Entries go by themselves when they have expired, whether they are asked for or not."""
    records, clock = table(lifetime=10)
    for number in range(5):
        records.settle(await take(records, f"key {number}"), "done", RECEIPT)
    clock.now += 11
    await take(records, "another")
    assert len(records) == 1


@pytest.mark.gen_test
async def test_the_oldest_settled_goes_first() -> None:
    """Over the limit the oldest outcome is forgotten; records of attempts in progress stay."""
    records, _ = table(limit=3)
    first = await take(records, "first")
    for number in range(5):
        records.settle(await take(records, f"key {number}"), "done", RECEIPT)
    assert len(records) == 3
    assert (await take(records, "key 4")).state == "done"
    assert (await take(records, "first", patience=0)).state == "unknown"  # still in progress
    records.settle(first, "done", RECEIPT)
    assert (await take(records, "first")).receipt == RECEIPT
    assert (await take(records, "key 0")).state == "new"


@pytest.mark.gen_test
async def test_attempts_in_progress_are_bounded() -> None:
    """If the table is full of attempts in progress, new ones are put off until there is room."""
    records, clock = table(limit=2, lifetime=300)
    first = await take(records, "first")
    await take(records, "second")
    waiting = asyncio.ensure_future(take(records, "first"))
    await asyncio.sleep(0)
    for number in range(3):
        assert (await take(records, f"key {number}")).state == "later"
    assert len(records) == 2
    records.settle(first, "done", RECEIPT)
    assert (await waiting).receipt == RECEIPT
    assert (await take(records, "third")).state == "new"  # instead of the chat's own oldest outcome
    assert (await take(records, "fourth")).state == "later"
    clock.now += 301
    assert (await take(records, "fourth")).state == "new"


async def saved(records: Records, chat_id: str, key: str) -> str:
    """Take an attempt, and settle it as done if it is new; what it was."""
    attempt = await records.take(chat_id, Key(key, ""), retry_unknown=False, patience=0)
    if attempt.state == "new":
        records.settle(attempt, "done", RECEIPT)
    return attempt.state


@pytest.mark.gen_test
async def test_no_chat_makes_another_forget() -> None:
    """A chat that uses keys without end loses its own oldest, and no other chat's outcome."""
    records, _ = table(limit=1000)
    for number in range(50):
        assert await saved(records, "quiet", f"key {number}") == "new"
    for number in range(5000):
        assert await saved(records, "loud", f"key {number}") == "new"
    assert len(records) == 50 + SHARE
    assert await saved(records, "loud", "key 4999") == "done"
    assert [await saved(records, "quiet", f"key {number}") for number in range(50)] == ["done"] * 50


@pytest.mark.gen_test
async def test_no_number_of_chats_makes_another_forget() -> None:
    """In a table full of others' outcomes nothing is forgotten: what is new is put off until some expire."""
    records, clock = table(limit=1000, lifetime=300)
    assert await saved(records, "quiet", "key") == "new"
    clock.now += 100
    states = [await saved(records, f"chat {number}", "key") for number in range(2000)]
    assert states == ["new"] * 999 + ["later"] * 1001
    assert await saved(records, "quiet", "key") == "done"
    assert await saved(records, "quiet", "another") == "new"  # instead of its own
    records.settle(Attempt("chat 1500", Key("key", ""), "later"), "done", RECEIPT)  # nor does this make room
    assert await saved(records, "chat 3", "key") == "done"
    assert len(records) == 1000
    clock.now += 201
    assert await saved(records, "chat 3", "key") == "done"
    clock.now += 100
    assert await saved(records, "chat 1500", "key") == "new"
    assert len(records) == 1


@pytest.mark.gen_test
async def test_an_outcome_is_remembered_however_late_it_comes() -> None:
    """What is saved after its attempt has expired is known, and so is what turns out to be saved at last."""
    records, clock = table(limit=2, lifetime=300)
    late = await take(records)
    clock.now += 301
    assert (await take(records, "another")).state == "new"
    records.settle(late, "done", RECEIPT)
    assert (await take(records)).receipt == RECEIPT
    records, _ = table(limit=2)
    unknown = await take(records)
    records.settle(unknown, "unknown")
    assert (await records.take("other chat", Key("key", ""), retry_unknown=False, patience=0)).state == "new"
    records.settle(unknown, "done", RECEIPT)  # in a full table, too
    assert (await take(records)).receipt == RECEIPT


@pytest.mark.gen_test
async def test_what_is_remembered_elsewhere_may_be_forgotten() -> None:
    """Where Redis remembers outcomes too, a full table forgets the oldest, and puts nothing off."""
    records = Records(300, 1000, elsewhere=True)
    for number in range(2000):
        assert await saved(records, f"chat {number}", "key") == "new"
    assert len(records) == 1000
    assert await saved(records, "chat 1000", "key") == "done"
    assert await saved(records, "chat 999", "key") == "new"


@pytest.mark.gen_test
async def test_waiters_are_woken() -> None:
    """Everybody who waits is told the outcome, and a release makes one of them new."""
    records, _ = table()
    first = await take(records)
    waiting = [asyncio.ensure_future(take(records)) for _ in range(3)]
    await asyncio.sleep(0)
    records.forget(first)
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().state for task in done] == ["new"]
    records.settle(done.pop().result(), "done", RECEIPT)
    for task in pending:
        assert (await task).receipt == RECEIPT


@pytest.mark.gen_test
async def test_waiting_ends_with_an_unknown_outcome() -> None:
    """A requester that has waited long enough gets `unknown`; the attempt itself goes on."""
    records, clock = table()
    first = await take(records)
    waiting = asyncio.ensure_future(take(records, patience=0.02))
    await asyncio.sleep(0)
    clock.now += 1
    assert (await waiting).state == "unknown"
    records.settle(first, "done", RECEIPT)
    assert (await take(records)).state == "done"


@pytest.mark.gen_test
async def test_a_released_attempt_is_no_answer_to_other_nodes() -> None:
    """A released attempt is new for the same message, reused for another, and unknown to other nodes."""
    records, _ = table(limit=1)
    first = await records.take("chat", Key("key", "", "f1"), retry_unknown=False, patience=0)
    records.release(first)
    assert records.known("chat", "key") is None
    assert records.in_progress() == []
    reused = await records.take("chat", Key("key", "", "f2"), retry_unknown=True, patience=0)
    assert reused.state == "reused"
    again = await records.take("chat", Key("key", "", "f1"), retry_unknown=False, patience=0)
    assert again.state == "new"
    assert records.in_progress() == [again]
    assert len(records) == 1


@pytest.mark.gen_test
async def test_unknown_stays_unknown_unless_it_may_be_repeated() -> None:
    """An unknown outcome is returned each time; a requester that may repeat it gets a new attempt, once."""
    records, _ = table()
    records.settle(await take(records), "unknown")
    assert [(await take(records)).state for _ in range(2)] == ["unknown", "unknown"]
    again = await take(records, retry_unknown=True)
    assert again.state == "new"
    waiting = asyncio.ensure_future(take(records, retry_unknown=True))
    await asyncio.sleep(0)
    records.settle(again, "done", RECEIPT)
    assert (await waiting).receipt == RECEIPT


def test_forgetting_what_is_not_there() -> None:
    """Forgetting twice, or an unknown attempt, is not an error."""
    records, _ = table()
    records.forget(Attempt("chat", Key("key", ""), "new"))
    assert len(records) == 0
