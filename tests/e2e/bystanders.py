"""Sessions that are not involved in what goes wrong beside them, and must not notice it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from eclipse_ws.server.server import Server
from tests.client import Client, leaving_nothing


class Bystanders(NamedTuple):
    """A session in the chat ``c1`` itself, and two in another chat."""

    here: Client
    elsewhere: Client
    there: Client

    async def unharmed(self) -> None:
        """Nothing came to them that shouldn't have, and all three chat as before."""
        for client in self:
            await client.quiet()
        await self.elsewhere.say(
            type="message", content="x", role="USER", clientMessageId=secrets.token_hex(8)
        )
        event = await self.elsewhere.next("message")
        await self.elsewhere.next("ack")
        assert await self.there.next("message") == event
        await self.there.say(type="typing", isTyping=True)
        await self.elsewhere.next("typing")
        for client in self:
            await client.quiet()


@asynccontextmanager
async def bystanders(server: Server) -> AsyncIterator[Bystanders]:
    """Have them there; at the end they are unharmed, and the server holds what it held before."""
    async with (
        await Client.join(server.port, "c1", "here") as here,
        await Client.join(server.port, "other", "elsewhere") as elsewhere,
        await Client.join(server.port, "other", "there") as there,
    ):
        them = Bystanders(here, elsewhere, there)
        await them.unharmed()  # also so that what is opened once and kept is open
        async with leaving_nothing(server):
            yield them
        await them.unharmed()
