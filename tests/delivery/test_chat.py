"""One chat: whatever comes in whatever order, what is delivered is the history, once, in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eclipse_ws.backends.base import Position
from eclipse_ws.delivery.chat import EARLIER_EPOCHS, Chat, Heard
from eclipse_ws.delivery.identities import DIGEST, OVERHEAD, Budget
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
        self.chat = Chat("chat", limit, lambda chat_id, event: self.delivered.append(event), Budget())
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

    def go_live(self, offset: int, epoch: str = EPOCH) -> Chat:
        """The chat, live at a position before which nothing is known."""
        assert self.chat.catch_up(Position(Cursor(epoch, offset)), None) == ([], [])
        return self.chat

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
        assert chat.had is None or chat.had.size <= OVERHEAD + 2 * limit * DIGEST
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


def test_events_after_a_gap_are_returned() -> None:
    """Events after a gap that the history does not close are neither delivered nor lost."""
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


def test_what_was_delivered_is_remembered() -> None:
    """Of sequenced events the last ones are, and of local copies that are kept no longer for who joins."""
    stage = Stage(limit=2)
    chat = stage.go_live(0)
    for offset in range(1, 11):
        stage.hear(at(offset))
    offsets = [offset for offset in range(1, 11) if chat.cursor_of(at(offset).identity)]
    assert offsets == [7, 8, 9, 10]
    for number in range(10):
        chat.deliver_locally(event(f"local {number}"))
        chat.drop_copy(event(f"local {number}").identity)
    assert chat.local is None
    assert [n for n in range(10) if chat.has_seen(event(f"local {n}").identity)] == [6, 7, 8, 9]


def test_local_copies_do_not_make_the_chat_forget_what_is_sequenced() -> None:
    """However many there are in an outage, an earlier event does not come again as a copy."""
    stage = Stage(limit=2)
    chat = stage.go_live(0)
    stage.hear(at(1))
    for number in range(10):
        chat.deliver_locally(event(f"local {number}"))
        chat.drop_copy(event(f"local {number}").identity)
    assert chat.deliver_locally(at(1)) == Cursor(EPOCH, 1)
    assert stage.offsets()[:1] == [1]
    assert len(stage.delivered) == 11


def test_what_the_answer_has_waits_no_more() -> None:
    """What was heard while the backend was asked is neither forged nor left if its answer has it."""
    stage = Stage()
    chat = stage.go_live(0)
    stage.hear(at(2))
    before = frozenset(chat.waiting or ())
    for offset in (1, 3, 4):
        stage.hear(at(offset))
    assert chat.catch_up(Position(Cursor(EPOCH, 3)), [at(1), at(2), at(3)], before) == ([], [])
    assert stage.offsets() == [1, 2, 3, 4]
    assert chat.waiting is None
    assert [stage.hear(at(offset)) for offset in (1, 4)] == [Heard.DUPLICATE] * 2
    assert chat.live


def test_what_waits_of_another_epoch_is_given_back() -> None:
    """An offset says nothing of another epoch's events: they are asked for, however small it is."""
    stage = Stage()
    stage.hear(at(1, "f"))
    assert stage.chat.catch_up(Position(Cursor(EPOCH, 2)), []) == ([at(1, "f")], [])
    assert stage.offsets() == []


def test_epochs_that_are_over_are_remembered() -> None:
    """The last few of them, in their order, and neither the present one nor the same one twice."""
    stage = Stage()
    chat = stage.go_live(3, "a")
    stage.go_live(5, "a")
    assert (chat.earlier, chat.epoch) == ((), "a")
    epochs = "bcdefgh"
    for epoch in epochs:
        stage.go_live(0, epoch)
    assert chat.earlier == tuple(epochs[-1 - EARLIER_EPOCHS : -1])


def test_an_event_of_before_the_position() -> None:
    """What a chat never delivered at a position that it has passed is not taken for a duplicate."""
    stage = Stage()
    chat = stage.go_live(5)
    assert stage.hear(at(5)) is Heard.BEHIND
    assert not chat.live
    stage.go_live(5)
    assert stage.hear(at(6)) is Heard.DELIVERED
    assert stage.hear(event("another").sequenced(Cursor(EPOCH, 6))) is Heard.BEHIND
    assert stage.offsets() == [6]


def test_a_new_chat_knows_nothing() -> None:
    """Before the first answer a chat isn't live, has no epoch and no position, and has members."""
    chat = Stage().chat
    assert (chat.epoch, chat.position, chat.identity, chat.earlier) == ("", None, "", ())
    assert chat.members
    assert not (chat.live or chat.leaving or chat.subscribing or chat.unsure or chat.refusals)
    assert not chat.has_seen("message:1")
    assert chat.cursor_of("message:1") is None


def test_the_identity_follows_the_position() -> None:
    """A chat knows the identity of the event at its position, however it got that position."""
    stage = Stage()
    chat = stage.chat
    chat.catch_up(Position(Cursor(EPOCH, 1), "told"), None)
    assert chat.identity == "told"
    stage.hear(at(2))
    assert chat.identity == at(2).identity
    stage.hear(at(4))
    chat.catch_up(Position(Cursor(EPOCH, 3), at(3).identity), [at(3)])
    assert (chat.position, chat.identity) == (Cursor(EPOCH, 4), at(4).identity)


def test_a_local_copy_is_delivered_once() -> None:
    """However often it is handed over, also when more came since than is remembered of what was heard."""
    stage = Stage(limit=2)
    chat = stage.go_live(0)
    copies = [event(f"local {number}") for number in range(6)]
    for copy in [*copies, *copies]:
        assert chat.deliver_locally(copy) is None
    assert stage.delivered == copies
    assert all(chat.has_seen(copy.identity) for copy in copies)
    chat.forget_copies()  # the sessions that had them resume
    assert not any(chat.has_seen(copy.identity) for copy in copies)


def test_a_local_copy_that_is_sequenced_is_not_delivered_again() -> None:
    """It has a cursor from then on, nobody gets it again, and sessions that join no longer need the copy."""
    stage = Stage()
    chat = stage.go_live(0)
    copies = [event("one"), event("two")]
    for copy in copies:
        chat.deliver_locally(copy)
    assert chat.local == {copy.identity: copy for copy in copies}
    for number, copy in enumerate(copies, 1):
        assert chat.hear(copy.sequenced(Cursor(EPOCH, number)), Cursor(EPOCH, number)) is Heard.DELIVERED
        assert chat.deliver_locally(copy) == chat.cursor_of(copy.identity) == Cursor(EPOCH, number)
        assert list((chat.local or {}).values()) == copies[number:]
    assert chat.local is None
    assert stage.delivered == copies


def test_a_copy_that_is_no_longer_kept_stands_for_one_event() -> None:
    """It is delivered again neither as a copy nor sequenced; unless it is sequenced twice, or forgotten."""
    stage = Stage()
    chat = stage.go_live(0)
    copies = [event("one"), event("two")]
    for copy in copies:
        chat.deliver_locally(copy)
        chat.drop_copy(copy.identity)
        assert chat.deliver_locally(copy) is None
    for offset in (1, 2):
        stage.hear(copies[0].sequenced(Cursor(EPOCH, offset)))
    chat.forget_copies()
    stage.hear(copies[1].sequenced(Cursor(EPOCH, 3)))
    assert [e.cursor and e.cursor.offset for e in stage.delivered] == [None, None, 2, 3]


def resume(stage: Stage, after: int, *missed: int) -> list[int] | None:
    """End a resuming whose history was these events; the offsets of what is found."""
    found = stage.chat.end_resuming(Cursor(EPOCH, after), [at(offset) for offset in missed])
    return None if found is None else [e.cursor.offset for e in found if e.cursor]


def test_a_history_is_completed_with_what_came_meanwhile() -> None:
    """Events delivered since a history was read follow it, once; if one is missing, there is no history."""
    stage = Stage()
    chat = stage.go_live(2)
    chat.begin_resuming()
    chat.begin_resuming()
    for offset in (3, 4):
        stage.hear(at(offset))
    chat.begin_resuming()
    stage.hear(at(5))
    assert resume(stage, 0, 1, 2, 3) == [1, 2, 3, 4, 5]
    assert resume(stage, 5) == []
    assert chat.tail is not None
    chat.begin_resuming()
    assert resume(stage, 0, 2) is None
    assert resume(stage, 2) == [3, 4, 5]
    assert chat.tail is None


def test_a_history_ends_at_the_position() -> None:
    """What the backend has already, and this node hasn't heard, is left to be delivered."""
    stage = Stage()
    chat = stage.go_live(2)
    chat.begin_resuming()
    assert resume(stage, 0, 1, 2, 3, 4) == [1, 2]
    chat.begin_resuming()
    assert chat.end_resuming(Cursor(EPOCH, 0), None) is None
    assert chat.tail is None
    chat.begin_resuming()
    stage.go_live(5, "f")
    stage.hear(at(6, "f"))
    assert resume(stage, 0, 1) == [1]
    assert chat.cursor_of(at(6, "f").identity) == Cursor("f", 6)  # which that epoch makes nobody forget


def test_a_history_before_the_position_is_known() -> None:
    """It is what the backend returned; later events come when the position is known."""
    stage = Stage()
    stage.chat.begin_resuming()
    assert resume(stage, 0, 1, 2) == [1, 2]


def test_more_came_than_is_remembered() -> None:
    """A history that can't be completed, because too much came since, can't be had."""
    stage = Stage(limit=3)
    chat = stage.go_live(0)
    for came, found in ((3, [1, 2, 3]), (4, None)):
        stage.go_live(0)
        chat.begin_resuming()
        for offset in range(1, came + 1):
            stage.hear(at(offset))
        assert resume(stage, 0) == found


def test_what_waits_is_bounded() -> None:
    """Twice the limit; of more the newest are kept, as of what is known to be delivered."""
    stage = Stage(limit=3)
    for offset in range(1, 11):
        assert stage.hear(at(offset)) is Heard.WAITING
    assert [e.cursor for e in stage.chat.waiting or ()] == [Cursor(EPOCH, n) for n in range(5, 11)]
    for number in range(10):
        stage.chat.note(f"message:{number}", Cursor(EPOCH, number))
    assert [n for n in range(10) if stage.chat.cursor_of(f"message:{n}")] == [4, 5, 6, 7, 8, 9]
