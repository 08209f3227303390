"""One chat: whatever comes in whatever order, what is delivered is the history, once, in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eclipse_ws.backends.base import Position
from eclipse_ws.delivery.chat import Chat, Heard
from eclipse_ws.protocol import Cursor, Event
from tests.backends.harness import event

EPOCH = "e"


def at(offset: int, epoch: str = EPOCH) -> Event:
    """The sequenced event of an offset."""
    return event(f"{epoch}{offset}").sequenced(Cursor(epoch, offset))


class Stage:
    """A chat, the history that the backend has, and what the chat has delivered."""

    def __init__(self, limit: int = 100) -> None:
        self.delivered: list[Event] = []
        self.chat = Chat("chat", limit, lambda chat_id, event: self.delivered.append(event))
        self.length = 0
        self.asked: tuple[int, list[Event], frozenset[Event]] | None = None

    def publish(self, heard: bool = True) -> None:
        """One more event in the history, which the chat hears or misses."""
        self.length += 1
        if heard:
            self.hear(at(self.length))

    def hear(self, event: Event) -> Heard:
        """Hand the chat a sequenced event."""
        assert event.cursor is not None
        return self.chat.hear(event, event.cursor)

    def ask(self) -> None:
        """Ask the history, whose answer comes later."""
        self.chat.live = False
        known = self.chat.position
        missed = [] if known is None else [at(n) for n in range(known.offset + 1, self.length + 1)]
        self.asked = self.length, missed, frozenset(self.chat.waiting or ())

    def answer(self) -> list[Event]:
        """The history's answer; what is left has to be asked for again."""
        assert self.asked is not None
        (length, missed, before), self.asked = self.asked, None
        left, _ = self.chat.catch_up(Position(Cursor(EPOCH, length)), missed, before)
        if left:
            self.chat.live = False
            self.chat.wait_for(left)
        return left

    def join(self) -> list[Event]:
        """Ask, and be answered at once."""
        self.ask()
        return self.answer()

    def offsets(self) -> list[int]:
        """What was delivered."""
        return [e.cursor.offset for e in self.delivered if e.cursor]


steps = st.lists(
    st.one_of(
        st.just("publish"),
        st.just("miss"),
        st.just("ask"),
        st.just("answer"),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("forge"), st.integers(0, 60), st.sampled_from([EPOCH, "other"])),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=steps, limit=st.integers(1, 8))
def test_any_interleaving_is_in_order(steps: list[object], limit: int) -> None:
    """History, live events, duplicates, gaps and forged cursors: delivered is 1, 2, 3 ... without a gap."""
    stage = Stage(limit)
    chat = stage.chat
    stage.join()
    for step in steps:
        match step:
            case "publish":
                stage.publish()
            case "miss":
                stage.publish(heard=False)
            case "ask" if stage.asked is None:
                stage.ask()
            case "answer" if stage.asked is not None:
                stage.answer()
            case ("again", int(offset)) if 1 <= offset <= stage.length:
                stage.hear(at(offset))
            case ("forge", int(ahead), str(epoch)):
                # Of the very next one nothing could tell that it is forged.
                if ahead or epoch != EPOCH:
                    stage.hear(event(f"forged {ahead}").sequenced(Cursor(epoch, stage.length + 1 + ahead)))
        assert len(chat.waiting or ()) <= 2 * limit
        assert len(chat.seen or ()) <= 2 * limit
    if stage.asked is not None:
        stage.answer()
    while stage.join():
        pass
    assert stage.offsets() == list(range(1, stage.length + 1))
    assert not any(b"forged" in e.body for e in stage.delivered)
    assert chat.position == Cursor(EPOCH, stage.length)


def test_the_next_event_is_delivered() -> None:
    """A live chat delivers what follows, drops what it had, and stops at a gap."""
    stage = Stage()
    chat = stage.chat
    assert stage.hear(at(1)) is Heard.WAITING
    stage.length = 1
    assert stage.join() == []
    assert stage.offsets() == []  # it was published before this node's position
    stage.length = 2
    assert stage.hear(at(2)) is Heard.DELIVERED
    assert stage.hear(at(2)) is Heard.DUPLICATE
    assert stage.hear(at(1)) is Heard.BEHIND  # it was never seen here
    assert not chat.live
    assert stage.join() == []
    assert stage.hear(at(4)) is Heard.GAP
    assert not chat.live
    assert stage.hear(at(5)) is Heard.WAITING
    stage.length = 5
    assert stage.join() == []
    assert stage.offsets() == [2, 3, 4, 5]


def test_another_epoch_is_a_gap() -> None:
    """An event of another epoch stops a live chat until it has asked."""
    stage = Stage()
    stage.join()
    assert stage.hear(at(1, "f")) is Heard.GAP
    assert stage.chat.catch_up(Position(Cursor("f", 0)), None) == ([], [])
    assert [e.cursor for e in stage.delivered] == [Cursor("f", 1)]


def test_what_does_not_follow_is_given_back() -> None:
    """Events that came after a longer gap than the history told of are not delivered, and not lost."""
    stage = Stage()
    for offset in (3, 7, 4):
        stage.hear(at(offset))
    assert stage.chat.catch_up(Position(Cursor(EPOCH, 2)), []) == ([at(7)], [])
    assert stage.offsets() == [3, 4]


def test_what_the_backend_does_not_know_is_forged() -> None:
    """An event that waited before the backend was asked, which doesn't know it, is never delivered."""
    stage = Stage()
    stage.hear(at(3))
    before = frozenset(stage.chat.waiting or ())
    stage.hear(at(4))
    assert stage.chat.catch_up(Position(Cursor(EPOCH, 2)), [], before) == ([at(4)], [at(3)])
    assert stage.offsets() == []


def test_a_local_copy_is_remembered() -> None:
    """What was delivered without a cursor is noted, and what is noted is bounded."""
    stage = Stage(limit=2)
    for number in range(10):
        stage.chat.note(f"local {number}", None)
    assert stage.chat.seen is not None
    assert list(stage.chat.seen) == [f"local {number}" for number in range(6, 10)]
