"""Fuzzes the frame parser: `python -m tests.fuzz.fuzz_frames --seconds 60`.

With atheris installed the search is guided by coverage; without it, by what the parser said: an input that
brings events that were not seen in that sequence before is kept and mutated further. What must hold for any
bytes: events or a violation and nothing else, the same whatever the pieces, and bounded memory.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from eclipse_ws.websocket.deflate import inflated
from eclipse_ws.websocket.frames import CLOSE, TEXT, Inbound, Violation, whole_text
from tests.websocket.peer import client_frame, close_frame

LIMIT = 4096
SEEDS = [
    client_frame(TEXT, "grüße".encode()),
    client_frame(TEXT, b"x" * 126),
    client_frame(2, b"x" * 300),
    client_frame(TEXT, "€".encode()[:1], fin=False)
    + client_frame(9, b"hi")
    + client_frame(0, "€".encode()[1:]),
    client_frame(0) + close_frame(1000, b"bye"),
    close_frame(4000),
    client_frame(2, length=b"\x7f" + bytes(8)),
    client_frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4),
]


def events(pieces: list[bytes], deflate: bool) -> list[object]:
    """What the parser makes of these pieces, up to its end."""
    inbound, seen = Inbound(LIMIT, inflated if deflate else None), list[object]()
    try:
        for piece in pieces:
            inbound.receive(piece)
            while (event := inbound.next()) is not None:
                seen.append(event)
                if event.opcode == CLOSE:
                    return seen
            assert len(inbound._message) <= LIMIT + (LIMIT >> 8) + 64, "more than the limit is kept"
            assert inbound.waiting < 140, "bytes are kept that could have been read"
    except Violation as violation:
        seen.append(violation.code)
    return seen


def check(data: bytes) -> list[object]:
    """Hold one input to what must hold for all; its events. The first byte says how the rest is cut, and
    whether messages may be compressed.
    """
    first, data = (data[0], data[1:]) if data else (0, data)
    step, deflate = first % 61 + 1, first > 127
    whole = events([data], deflate)
    # Fragments that don't end a message differ with the pieces only in nothing at all.
    assert events([data[index : index + step] for index in range(0, len(data), step)], deflate) == whole
    text = whole_text(data, LIMIT)
    if text is not None:
        assert len(whole) == 1
        assert whole[0] == (TEXT, text, b"", 1005)
    return whole


def mutated(data: bytes, chance: random.Random, corpus: list[bytes]) -> bytes:
    """One step away from an input, or a splice of two."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        kind, place = chance.randrange(6), chance.randrange(len(out) + 1)
        if kind == 0 and out:
            out[place % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1 and out:
            out[place % len(out)] = chance.choice((0, 1, 125, 126, 127, 128, 254, 255, chance.randrange(256)))
        elif kind == 2:
            out[place:place] = chance.randbytes(chance.randrange(1, 8))
        elif kind == 3:
            del out[place : place + chance.randrange(1, 8)]
        elif kind == 4:
            out[place:] = chance.choice(corpus)
        else:
            out += client_frame(
                chance.randrange(16), chance.randbytes(chance.randrange(130)), fin=chance.random() < 0.7
            )
    return bytes(out[:8192])


def fuzz(seconds: float, seed: int) -> tuple[int, int]:
    """Mutate for that long; the numbers of inputs tried and kept. A failure leaves its input in a file."""
    chance = random.Random(seed)
    corpus = [bytes((number,)) + data for number, data in enumerate(SEEDS)]
    shapes: set[tuple[object, ...]] = set()
    tried, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(chance.choice(corpus), chance, corpus)
        tried += 1
        try:
            seen = check(data)
        except BaseException:
            Path("fuzz-failure.bin").write_bytes(data)
            raise
        shape = tuple(event if isinstance(event, int) else event[0] for event in seen[:8])  # type: ignore[index]
        if shape not in shapes and len(corpus) < 5000:
            shapes.add(shape)
            corpus.append(data)
    return tried, len(corpus)


def main() -> None:
    """Fuzz for as long as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers, to repeat a run")
    parser.add_argument("--replay", type=Path, help="check one file that a failure has left")
    options = parser.parse_args()
    if options.replay:
        sys.stdout.write(f"{check(options.replay.read_bytes())}\n")
        return
    try:
        import atheris  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        seed = options.seed if options.seed is not None else random.randrange(1 << 32)
        tried, kept = fuzz(options.seconds, seed)
        sys.stdout.write(f"{tried} inputs, {kept} kept, seed {seed}: nothing found\n")
        return
    atheris.instrument_func(Inbound.next)

    def one(data: bytes) -> None:
        check(data)

    atheris.Setup([sys.argv[0], f"-max_total_time={int(options.seconds)}"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
