"""The frame parser without a socket."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import frame_protocol as oracle

from eclipse_ws.websocket import frames
from eclipse_ws.websocket.frames import Inbound, Violation, whole_text
from tests.websocket.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, client_frame, close_frame

LIMIT = 1 << 20


def ours(*pieces: bytes, limit: int = LIMIT) -> list[Any]:
    """What the parser makes of these pieces, up to the close frame or the violation."""
    inbound, seen = Inbound(limit), list[Any]()
    try:
        for piece in pieces:
            inbound.receive(piece)
            while (event := inbound.next()) is not None:
                if event.opcode == CLOSE:
                    return [*seen, ("close", event.code, event.text)]
                if event.opcode != CONTINUATION:
                    seen.append((event.opcode, event.text or event.data))
    except Violation as violation:
        seen.append(("violation", violation.code))
    return seen


def theirs(data: bytes) -> list[Any]:
    """What the independent implementation makes of them."""
    protocol, seen, message = oracle.FrameProtocol(client=False, extensions=[]), list[Any](), list[Any]()
    protocol.receive_bytes(data)
    try:
        for frame in protocol.received_frames():
            if frame.opcode in {oracle.Opcode.TEXT, oracle.Opcode.BINARY}:
                message.append(frame.payload)
                if frame.message_finished:
                    whole = ("" if frame.opcode == oracle.Opcode.TEXT else b"").join(
                        part if frame.opcode == oracle.Opcode.TEXT else bytes(part) for part in message
                    )
                    seen.append((int(frame.opcode), whole or b""))
                    message.clear()
            elif frame.opcode == oracle.Opcode.CLOSE:
                return [*seen, ("close", int(frame.payload[0]), frame.payload[1] or "")]
            else:
                seen.append((int(frame.opcode), bytes(frame.payload)))
    except oracle.ParseFailed as failure:
        seen.append(("violation", int(failure.code)))
    return seen


texts = st.text(max_size=200).map(str.encode)
payloads = st.one_of(
    texts, st.binary(max_size=200), st.binary(min_size=120, max_size=70000).map(lambda b: b[:66000])
)
masks = st.binary(min_size=4, max_size=4)
sane = st.one_of(
    st.builds(client_frame, st.just(TEXT), texts, mask=masks),
    st.builds(client_frame, st.just(BINARY), payloads, mask=masks),
    st.builds(client_frame, st.sampled_from([PING, PONG]), st.binary(max_size=125), mask=masks),
)


@st.composite
def fragmented(draw: Any) -> bytes:
    """A message in fragments, with control frames in between."""
    parts = draw(st.lists(st.binary(max_size=40), min_size=2, max_size=5))
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    if opcode == TEXT:
        whole = draw(st.text(max_size=60)).encode()
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=4)))
        parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    out = b""
    for index, part in enumerate(parts):
        out += client_frame(opcode if not index else CONTINUATION, part, fin=index == len(parts) - 1)
        if draw(st.booleans()) and index < len(parts) - 1:
            out += client_frame(PING, draw(st.binary(max_size=5)))
    return out


anything = st.builds(
    client_frame,
    st.integers(0, 15),
    st.one_of(st.binary(max_size=130), texts),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 1, 2, 4, 7]),
    mask=st.one_of(masks, masks, masks, st.none()),
)
closes = st.builds(
    close_frame, st.integers(0, 5100).filter(lambda code: code != 1014), texts.map(lambda t: t[:123])
)
streams = st.lists(st.one_of(sane, sane, fragmented(), anything, closes), max_size=8).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(streams)
def test_an_independent_implementation_agrees(data: bytes) -> None:
    """The same bytes bring the same messages, control frames, close codes and violations."""
    assert ours(data) == theirs(data)


@settings(max_examples=200, deadline=None)
@given(streams, st.lists(st.integers(0, 2000), max_size=12))
def test_every_split_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    """However the bytes are cut into reads, the events are those of one read."""
    places = sorted(min(cut, len(data)) for cut in cuts)
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert ours(*pieces) == ours(data)


@settings(max_examples=60, deadline=None)
@given(streams.filter(lambda data: len(data) < 5000))
def test_single_bytes_give_the_same_events(data: bytes) -> None:
    """A peer that sends byte by byte is understood as well."""
    assert ours(*(data[i : i + 1] for i in range(len(data)))) == ours(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_noise_never_raises_anything_else(data: bytes) -> None:
    """Random bytes bring events or a violation, and the short cut agrees with the parser."""
    seen = ours(data)
    text = whole_text(data, LIMIT)
    if text is not None:
        assert seen == [(TEXT, text or b"")]


@settings(max_examples=200, deadline=None)
@given(st.one_of(texts, st.binary(max_size=300)), masks)
def test_the_short_cut_agrees_with_the_parser(payload: bytes, mask: bytes) -> None:
    """Both parsers return the same text for one whole text frame; neither returns text for anything else."""
    data = client_frame(TEXT, payload, mask=mask)
    seen = ours(data)
    text = whole_text(data, LIMIT)
    assert seen == ([("violation", 1007)] if text is None else [(TEXT, text or b"")])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_lengths_at_their_limits(size: int) -> None:
    """Every form of the length is read and written (RFC 6455 section 5.2)."""
    payload = b"x" * size
    assert ours(client_frame(BINARY, payload)) == [(BINARY, payload)]
    assert ours(client_frame(TEXT, payload)) == [(TEXT, payload.decode() or b"")]
    text = whole_text(client_frame(TEXT, payload), LIMIT)
    assert text == (payload.decode() if size < 65536 else None)
    written = frames.text_frame(payload)
    assert written[0] == 0x81
    assert written.endswith(payload)
    assert len(written) == size + (2 if size < 126 else 4 if size < 65536 else 10)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(TEXT, b"x", mask=None), 1002),
        (client_frame(TEXT, b"x" * 5, length=struct.pack("!BH", 126, 5)), 1002),
        (client_frame(TEXT, b"x" * 5, length=struct.pack("!BQ", 127, 5)), 1002),
        (client_frame(TEXT, b"x" * 300, length=struct.pack("!BQ", 127, 300)), 1002),
        (client_frame(BINARY, length=struct.pack("!BQ", 127, 1 << 63)), 1002),
        (client_frame(BINARY, length=struct.pack("!BQ", 127, (1 << 63) - 1)), 1009),
        (client_frame(CLOSE, b"\x03"), 1002),
        (client_frame(PING, fin=False), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(CONTINUATION), 1002),
        (client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"), 1002),
        (close_frame(1000, b"\xff"), 1007),
    ],
)
def test_violations(data: bytes, code: int) -> None:
    """What the RFC forbids has the close code that the RFC names."""
    assert ours(data) == [("violation", code)]
    assert ours(*(data[i : i + 1] for i in range(len(data)))) == [("violation", code)]


def test_too_long_is_known_from_the_header() -> None:
    """A length beyond the limit ends it before a byte of payload, or memory for it, is there."""
    head = client_frame(BINARY, length=struct.pack("!BQ", 127, 1 << 40))[:10]
    assert ours(head) == [("violation", 1009)]
    assert ours(client_frame(BINARY, length=struct.pack("!BH", 126, 1001))[:4], limit=1000) == [
        ("violation", 1009)
    ]


@pytest.mark.parametrize("control", [client_frame(PING, b"?" * 125), client_frame(PONG, b"!" * 125)])
def test_control_frames_do_not_count_as_their_message(control: bytes) -> None:
    """A control frame within a message of the maximum size is accepted, and so is a close."""
    start = client_frame(BINARY, b"x" * 100, fin=False)
    seen = (control[0] & 0xF, (b"?" if control[0] & 0xF == PING else b"!") * 125)
    assert ours(start + control + client_frame(CONTINUATION), limit=100) == [seen, (BINARY, b"x" * 100)]
    assert ours(start + close_frame(1001, b"why"), limit=100) == [("close", 1001, "why")]


def test_fragments_are_limited_in_sum() -> None:
    """A message may not grow past the limit by coming in pieces, and may be as large as the limit."""
    pieces = [client_frame(BINARY, b"x" * 60, fin=False), client_frame(CONTINUATION, b"y" * 40)]
    assert ours(*pieces, limit=100) == [(BINARY, b"x" * 60 + b"y" * 40)]
    assert ours(*pieces, limit=99) == [("violation", 1009)]
    assert ours(client_frame(TEXT, b"x" * 100), limit=100) == [(TEXT, "x" * 100)]
    assert ours(client_frame(TEXT, b"x" * 101), limit=100) == [("violation", 1009)]
    assert whole_text(client_frame(TEXT, b"x" * 101), 100) is None
    assert whole_text(client_frame(TEXT, b"x" * 200), 199) is None


@pytest.mark.parametrize("bad", [b"\xce\xba\xff", b"\xed\xa0\x80", b"\xf4\x90", b"\xc0", b"\xf5", b"ok\x80"])
def test_text_fails_at_its_first_bad_byte(bad: bytes) -> None:
    """UTF-8 is checked as it arrives: the rest of a message that can't become valid is not awaited."""
    inbound = Inbound(LIMIT)
    start = client_frame(TEXT, bad + b"x" * 60)
    with pytest.raises(Violation) as caught:
        for index in range(6 + len(bad)):
            inbound.receive(start[index : index + 1])
            inbound.next()
    assert caught.value.code == 1007


def test_a_character_may_span_fragments() -> None:
    """A character cut by a fragment's end is whole in the message, and must be whole at its end."""
    euro = "€".encode()
    start = client_frame(TEXT, euro[:1], fin=False)
    assert ours(start + client_frame(CONTINUATION, euro[1:])) == [(TEXT, "€")]
    assert ours(start + client_frame(CONTINUATION, euro[1:2])) == [("violation", 1007)]


def test_a_million_empty_fragments_take_no_memory() -> None:
    """Empty fragments leave nothing behind, however many they are (here some thousands)."""
    inbound = Inbound(LIMIT)
    inbound.receive(client_frame(TEXT, b"a", fin=False))
    piece = client_frame(CONTINUATION, fin=False) * 1000
    for _ in range(20):
        inbound.receive(piece)
        while inbound.next() is not None:
            pass
        assert inbound.waiting == 0
        assert len(inbound._message) == 1
    inbound.receive(client_frame(CONTINUATION, b"b"))
    assert inbound.next() == frames.Event(TEXT, "ab")
    assert inbound.idle


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
@pytest.mark.parametrize("prefix", range(4))
def test_a_reason_is_cut_at_a_character(prefix: int, character: str) -> None:
    """A reason that is too long for a control frame loses whole characters, never half of one and never more
    than it has to, wherever its characters lie.
    """
    reason = "-" * prefix + character * 125
    frame = frames.close_frame(4000, reason)
    assert frame[:4] == bytes((0x88, len(frame) - 2)) + (4000).to_bytes(2, "big")
    left = frame[4:].decode()
    assert reason.startswith(left)
    assert 123 - len(character.encode()) < len(frame[4:]) <= 123


@pytest.mark.parametrize("reason", ["x" * 123, "é" * 61, "-" + "é" * 61, "😀" * 30, "---" + "😀" * 30])
def test_a_reason_that_fits_is_whole(reason: str) -> None:
    """Up to 123 bytes nothing is cut."""
    assert frames.close_frame(4000, reason)[4:].decode() == reason


def test_an_invalid_reason_is_repaired() -> None:
    """Half of a surrogate pair is replaced: the frame is valid whatever the reason is."""
    assert frames.close_frame(4000, "a\ud83db")[4:].decode() == "a?b"


def test_a_close_without_a_code_is_empty() -> None:
    """No code, and the code that stands for none, give a frame without a payload."""
    assert frames.close_frame(None) == frames.close_frame(1005) == b"\x88\x00"
    assert ours(close_frame()) == [("close", 1005, "")]
    assert ours(close_frame(4999, b"why")) == [("close", 4999, "why")]
