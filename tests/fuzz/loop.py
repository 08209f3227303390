"""What the fuzz targets share: mutation, a corpus that grows, a bound on memory, and the command line.

A target is a function that takes bytes, raises when something that must hold does not, and returns a
shape: any hashable that says what kind of outcome it was; an input with a new one is mutated further. With
atheris installed coverage guides the search instead.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import structlog

from eclipse_ws.observability.logging import configure_logging
from eclipse_ws.sessions.node import resident_bytes
from tests.conftest import make_settings

Check = Callable[[bytes], Hashable]
MOST_GROWTH = 64 << 20
"""Bytes that a run may grow by; more is a leak."""
LONGEST = 8192
BYTES = b'\x00\x01\x09\x0a\x0d "\\/{}[]:,.-+0123456789eE\x7f\x80\xbf\xc0\xe2\xed\xf0\xff'


def quiet() -> None:
    """Let log lines be made, masked, and discarded."""
    configure_logging(make_settings(log_level="critical"), io.StringIO())
    # A logger that is first used here must not stay quiet in the tests that follow.
    structlog.configure(cache_logger_on_first_use=False)
    logging.disable(logging.CRITICAL)


def mutated(data: bytes, chance: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One to eight steps away from an input: bits, bytes, words, repetitions, cuts, and splices of two."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4, 8))):
        kind, place = chance.randrange(8), chance.randrange(len(out) + 1)
        if kind == 0 and out:
            out[place % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1 and out:
            out[place % len(out)] = chance.choice(BYTES)
        elif kind == 2:
            out[place:place] = bytes(chance.choices(BYTES, k=chance.randrange(1, 5)))
        elif kind == 3:
            del out[place : place + chance.randrange(1, 12)]
        elif kind == 4:
            other = chance.choice(corpus)
            out[place:] = other[chance.randrange(len(other) + 1) :]
        elif kind == 5:
            out[place:place] = chance.choice(words)
        elif kind == 6:
            end = place + chance.randrange(1, 16)
            out[place:place] = out[place:end] * chance.choice((1, 2, 50))
        elif words:
            end = place + chance.randrange(1, 16)
            out[place:end] = chance.choice(words)
    return bytes(out[:LONGEST])


def fuzz(
    check: Check, seeds: Sequence[bytes], words: Sequence[bytes], seconds: float, seed: int
) -> tuple[int, int]:
    """Mutate for that long; the numbers of inputs tried and kept. A failure leaves its input in a file."""
    chance = random.Random(seed)
    corpus = list(seeds)
    shapes = {check(data) for data in corpus}
    tried, end = len(corpus), time.monotonic() + seconds
    before = 0
    while time.monotonic() < end:
        for _ in range(64):
            data = mutated(chance.choice(corpus), chance, corpus, words)
            tried += 1
            try:
                shape = check(data)
            except BaseException:
                Path("fuzz-failure.bin").write_bytes(data)
                raise
            if shape not in shapes and len(corpus) < 5000:
                shapes.add(shape)
                corpus.append(data)
        # After a while: what is allocated once and kept is not a leak.
        if not before and tried > 20_000:
            before = resident_bytes()
    grown = resident_bytes() - before if before else 0
    assert grown < MOST_GROWTH, f"memory grew by {grown >> 20} MB over {tried} inputs"
    return tried, len(corpus)


def main(check: Check, seeds: Sequence[bytes], words: Sequence[bytes], description: str | None) -> None:
    """Fuzz for as long as the command line says."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers, to repeat a run")
    parser.add_argument("--replay", type=Path, help="check one file that a failure has left")
    options = parser.parse_args()
    quiet()
    if options.replay:
        sys.stdout.write(f"{check(options.replay.read_bytes())}\n")
        return
    try:
        import atheris  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        seed = options.seed if options.seed is not None else random.randrange(1 << 32)
        tried, kept = fuzz(check, seeds, words, options.seconds, seed)
        sys.stdout.write(f"{tried} inputs, {kept} kept, seed {seed}: nothing found\n")
        return
    for name, module in list(sys.modules.items()):
        if name.startswith("eclipse_ws."):
            for thing in list(vars(module).values()):
                if getattr(thing, "__module__", None) == name and hasattr(thing, "__code__"):
                    atheris.instrument_func(thing)

    def one(data: bytes) -> None:
        check(data)

    folder = Path("artefacts/fuzz") / Path(sys.argv[0]).stem
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(data)
    limits = [f"-max_total_time={int(options.seconds)}", f"-max_len={LONGEST}", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *limits, str(folder)], one)
    atheris.Fuzz()
