"""What is known of another node's stream: gaps, what it tells at once, and what has come since."""

from __future__ import annotations

from typing import Any

from eclipse_ws.delivery.presence_notes import Crowd, Here, PresenceNote
from eclipse_ws.delivery.presence_peer import ASK_AGAIN, IN_FLIGHT, Peer

A = Crowd({"a": Here("user", 1.0)}, 1)


def note(at: int, last: int, **fields: Any) -> PresenceNote:
    """A note of the node."""
    return PresenceNote("node", at, last, "address", **fields)


def stream(peer: Peer, at: int, last: int) -> bool:
    """A note of its stream comes; whether it is new."""
    given = note(at, last, stream=True)
    peer.hear(given)
    return peer.follow(given)


def asked(peer: Peer) -> bool:
    """Whether it has to be asked for everything; then it is."""
    due, peer.ask_due = peer.ask_due, False
    return due


def tell(peer: Peer, at: int, last: int) -> bool:
    """It tells everything, in two parts; whether that is of any use."""
    parts = [note(at, last, part=0, parts=2, here={"c": A}), note(at, last, part=1, parts=2, watch=["w"])]
    for each in parts:
        peer.hear(each)
    assert peer.collect(parts[0]) is None
    found = peer.collect(parts[1])
    if found is None:
        return False
    assert (found.at, found.here, found.watches) == (at, {"c": A}, {"w"})
    return True


def test_a_stream_without_a_gap() -> None:
    """Is followed from its beginning, and asks nothing; what comes twice or late is not taken again."""
    peer = Peer("node", suspect=False)
    assert stream(peer, 1, 0)
    assert stream(peer, 4, 1)
    assert not stream(peer, 4, 1)
    assert not stream(peer, 1, 0)
    peer.hear(note(5, 4))
    peer.tick(2 * IN_FLIGHT)
    assert not peer.is_suspect
    assert not asked(peer)
    assert peer.address == "address"


def test_a_gap() -> None:
    """Has to be filled by everything; the stream goes on meanwhile, and what it said is applied again."""
    peer = Peer("node", suspect=False)
    stream(peer, 1, 0)
    assert stream(peer, 5, 3)
    assert asked(peer)
    assert not tell(peer, 4, 1)  # it was told before the note that is missing
    assert peer.is_suspect
    assert stream(peer, 8, 5)
    assert tell(peer, 7, 5)
    assert not peer.is_suspect
    assert stream(peer, 9, 8)
    assert not peer.is_suspect


def test_what_has_come_since() -> None:
    """Of the stream only what is newer than everything is applied again."""
    peer = Peer("node", suspect=False)
    stream(peer, 2, 1)
    stream(peer, 5, 2)
    stream(peer, 9, 5)
    everything = peer.collect(note(7, 5, parts=1))
    assert everything is not None
    assert [each.at for each in everything.later] == [9]


def test_a_gap_in_what_comes_meanwhile() -> None:
    """What is told has to reach up to the last gap."""
    peer = Peer("node", suspect=True)
    assert asked(peer)
    stream(peer, 3, 0)
    stream(peer, 8, 6)
    assert not tell(peer, 5, 3)
    assert tell(peer, 9, 8)


def test_everything_that_is_newer_than_the_stream() -> None:
    """The stream goes on after it, also if its own last notes were not heard."""
    peer = Peer("node", suspect=True)
    assert tell(peer, 9, 8)
    assert not stream(peer, 8, 7)
    assert stream(peer, 10, 8)
    assert not peer.is_suspect


def test_a_note_that_names_one_that_is_missing() -> None:
    """It may be on its way for a second; then everything is asked for, and has to include it."""
    peer = Peer("node", suspect=False)
    peer.hear(note(3, 2))
    peer.tick(IN_FLIGHT / 2)
    assert not peer.is_suspect
    assert stream(peer, 2, 0)
    peer.tick(IN_FLIGHT)
    assert not peer.is_suspect
    peer.hear(note(7, 6))
    peer.tick(IN_FLIGHT)
    assert asked(peer)
    assert not tell(peer, 5, 2)
    assert tell(peer, 8, 6)


def test_it_is_asked_again() -> None:
    """Every two seconds, until it tells; a part of an older answer completes nothing."""
    peer = Peer("node", suspect=True)
    for _ in range(3):
        assert asked(peer)
        assert not asked(peer)
        peer.tick(ASK_AGAIN)
    assert peer.collect(note(3, 0, part=0, parts=2)) is None
    assert peer.collect(note(5, 0, part=1, parts=2)) is None
    assert peer.collect(note(3, 0, part=1, parts=2)) is None
    assert peer.is_suspect
    assert peer.collect(note(5, 0, part=0, parts=2)) is not None
    assert peer.collect(note(6, 0, part=0, parts=1)) is None  # nobody has asked


def test_parts_that_can_not_be() -> None:
    """A part beyond the number of parts, or too many of them, are ignored."""
    peer = Peer("node", suspect=True)
    assert peer.collect(note(3, 0, part=1, parts=1)) is None
    assert peer.collect(note(3, 0, part=0, parts=1_000_000)) is None
    assert not peer._parts


def test_signs_of_life() -> None:
    """Any note ends its silence, and the address is that of its newest note."""
    peer = Peer("node", suspect=False)
    peer.tick(20)
    peer.questioned = 1.0
    peer.hear(PresenceNote("node", 5, 0, "new"))
    peer.hear(PresenceNote("node", 4, 0, "old"))
    assert (peer.silence, peer.questioned, peer.address) == (0.0, None, "new")
    peer.tick(2)
    assert peer.silence == 2
