"""Where the primary is, by the sentinels that watch it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from eclipse_ws.backends.redis.connection import DisconnectedError, ask, connection
from eclipse_ws.backends.redis.refusals import Refusal, SentinelError
from eclipse_ws.config.redis_url import RedisUrl, Server

log = structlog.get_logger("eclipse_ws.redis")

SHARE: Final = 0.5
"""How much of Redis's timeout a sentinel has: those that answer must not wait long for one that doesn't."""

SWITCHES: Final = "+switch-master"
"""The channel on which each sentinel says that another server is the primary."""
WATCH, RETRY = 30.0, 1.0
"""Seconds for which a subscription to it is trusted, and until the next attempt where there is none."""


class Sentinels:
    """Asks all sentinels of a service at once, so that one that is gone or wrong changes little."""

    def __init__(self, url: RedisUrl, timeout: float, ca: str = "") -> None:
        self.service = url.service
        self._url = url
        self._timeout = timeout * SHARE
        self._ca = ca

    async def primaries(self) -> list[Server]:
        """The servers that they name, the one that most name first. There is more than one during a failover,
        and if a sentinel is cut off from the others; only the server itself can say what it is.

        Raises DisconnectedError, or a SentinelError if all of them have answered and none names one.
        """
        answers = await self.ask()
        named = [answer for answer in answers.values() if isinstance(answer, Server)]
        random.shuffle(named)  # among equals nobody knows who is right
        found = [server for server, _ in Counter(named).most_common()]
        if len(found) > 1:
            log.warning("sentinels disagree", service=self.service, primaries=[str(each) for each in found])
        if found:
            return found
        whys = "; ".join(f"sentinel {server}: {answer}" for server, answer in answers.items())
        refusals = [answer.refusal for answer in answers.values() if isinstance(answer, SentinelError)]
        if len(refusals) == len(answers):
            raise SentinelError(whys, refusals[0])
        raise DisconnectedError(f"no sentinel names a primary: {whys}")

    async def watch(self, on_primary: Callable[[Server], None]) -> None:
        """Report forever which server most sentinels name, whenever that may have changed.

        After a failover that was ordered, the old primary takes writes for seconds, all of which are lost.
        """
        await asyncio.gather(*(self._watch(sentinel, on_primary) for sentinel in self._url.servers))

    async def _watch(self, sentinel: Server, on_primary: Callable[[Server], None]) -> None:
        while True:
            made = connection(self._url.to_sentinel(sentinel), self._timeout, self._ca)
            try:
                async with asyncio.timeout(WATCH):
                    await made.connect()  # type: ignore[no-untyped-call]
                    await made.send_command("SUBSCRIBE", SWITCHES)
                    while True:
                        kind, _, text = await made.read_response()
                        if kind == b"subscribe" or text.startswith(f"{self.service} ".encode()):
                            await self._report(on_primary)
            except TimeoutError:
                continue  # a sentinel that is gone may be as silent as one with nothing to tell
            except (RedisError, OSError, ValueError) as error:
                log.debug("sentinel not heard", sentinel=str(sentinel), why=str(error))
                await asyncio.sleep(RETRY)
            finally:
                await made.disconnect(nowait=True)

    async def _report(self, on_primary: Callable[[Server], None]) -> None:
        answers = await self.ask()
        named = Counter(answer for answer in answers.values() if isinstance(answer, Server))
        for server, votes in named.most_common(1):
            if votes > len(answers) / 2:
                on_primary(server)

    async def ask(self) -> dict[Server, Server | DisconnectedError | SentinelError]:
        """What each sentinel answers: the primary, or why it names none."""
        servers = self._url.servers
        return dict(zip(servers, await asyncio.gather(*map(self._ask, servers)), strict=True))

    async def _ask(self, sentinel: Server) -> Server | DisconnectedError | SentinelError:
        made = connection(self._url.to_sentinel(sentinel), self._timeout, self._ca)
        try:
            (named,) = await ask(made, self._timeout, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service))
        except DisconnectedError as error:
            return error
        except (AuthenticationError, NoPermissionError) as error:
            return SentinelError(f"it refuses this server ({error})", Refusal.SENTINEL)
        except RedisError as error:
            return SentinelError(f"it is not a sentinel ({error})", Refusal.NO_SENTINEL)
        if named is None:
            return SentinelError(f"it knows no service {self.service!r}", Refusal.SERVICE)
        try:
            return Server(named[0].decode(), int(named[1]))
        except (ValueError, IndexError, TypeError, AttributeError):
            return DisconnectedError(f"it answers {named!r:.80}, which is not an address")
