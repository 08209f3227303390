"""How messages are compressed, and what a compressed one may cost."""

import tracemalloc
import zlib
from typing import Any

import pytest

from eclipse_ws.websocket.deflate import inflated
from eclipse_ws.websocket.frames import Violation
from tests.websocket.peer import Peer, Recorder, serving

TEXT = " ".join(str(number * number) for number in range(3000))


def packed(data: bytes, *options: int) -> bytes:
    """A message's payload as zlib makes it with these options."""
    deflate = zlib.compressobj(*options) if options else zlib.compressobj(wbits=-15)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


@pytest.mark.parametrize(
    ("options", "level", "memory"),
    [
        ({}, 6, 8),
        ({"compression_level": 1}, 1, 8),
        ({"mem_level": 2}, 6, 2),
        ({"compression_level": 9, "mem_level": 9}, 9, 9),
    ],
)
@pytest.mark.parametrize("bits", [None, 9, 12, 15])
@pytest.mark.gen_test
async def test_the_handlers_options_are_used(
    options: dict[str, Any], level: int, memory: int, bits: int | None
) -> None:
    """The level and the memory level are those of `get_compression_options`, the window the client's."""

    class Chooses(Recorder):
        def get_compression_options(self) -> dict[str, Any]:
            return options

    window = "" if bits is None else f"; server_max_window_bits={bits}"
    async with serving(Chooses) as server:
        peer = await Peer.open(server.port, sec_websocket_extensions=f"permessage-deflate{window}")
        server.sessions[0].write_message(TEXT)
        expected = packed(TEXT.encode(), level, zlib.DEFLATED, -(bits or 15), memory)
        assert await peer.frame() == (0xC1, expected)


@pytest.mark.parametrize("grown", [1025, 50_000_000])
def test_a_message_that_grows_too_large_is_not_decompressed(grown: int) -> None:
    """A small message that would become a huge one costs no more memory than one that is just too big."""
    bomb = packed(bytes(grown))
    tracemalloc.start()
    try:
        with pytest.raises(Violation) as caught:
            inflated(bomb, 1024)
        assert caught.value.code == 1009
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    assert inflated(packed(bytes(1024)), 1024) == bytes(1024)
