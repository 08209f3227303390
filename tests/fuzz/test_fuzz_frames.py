"""The fuzzer itself, briefly: it finds nothing in the parser, and it finds a planted bug."""

import pytest

from eclipse_ws.websocket import frames
from tests.fuzz import fuzz_frames


def test_the_seeds_pass() -> None:
    """Every seed passes."""
    for data in fuzz_frames.SEEDS:
        fuzz_frames.check(b"\x00" + data)


def test_a_short_run() -> None:
    """A short run tries inputs and keeps those with new outcomes."""
    tried, kept = fuzz_frames.fuzz(0.3, seed=1)
    assert tried > 10
    assert kept > len(fuzz_frames.SEEDS)


def test_a_parser_that_depends_on_its_pieces_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    """The fuzzer detects a parser that forgets half a character at the end of a piece."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr(frames, "_utf8_decoder", lambda: _Forgets())
    with pytest.raises(AssertionError):
        fuzz_frames.fuzz(30, seed=1)


class _Forgets:
    """Takes every piece for a whole text."""

    def decode(self, part: bytes) -> str:
        """As if this were all."""
        return part.decode()
