"""The fuzzer itself, for a moment: it finds nothing, and it would find something."""

import pytest

from eclipse_ws.websocket import frames
from tests.fuzz import fuzz_frames


def test_the_seeds_pass() -> None:
    """Every seed holds."""
    for data in fuzz_frames.SEEDS:
        fuzz_frames.check(b"\x00" + data)


def test_a_moment_of_fuzzing() -> None:
    """A short run tries inputs and keeps those that say something new."""
    tried, kept = fuzz_frames.fuzz(0.3, seed=1)
    assert tried > 10
    assert kept > len(fuzz_frames.SEEDS)


def test_a_parser_that_depends_on_its_pieces_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    """A parser that forgets a character's half at a piece's end does not survive the fuzzer."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr(frames, "_utf8_decoder", lambda: _Forgets())
    with pytest.raises(AssertionError):
        fuzz_frames.fuzz(30, seed=1)


class _Forgets:
    """Takes every piece for a whole text."""

    def decode(self, part: bytes) -> str:
        """As if this were all."""
        return part.decode()
