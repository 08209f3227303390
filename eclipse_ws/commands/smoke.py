"""`eclipse-ws smoke URL`: whether a deployed server does what it is for, as two clients of a chat see it.

Nothing is left in a real chat: without ``--chat`` the chat is made up, and what has to be resumed is
published as an event that no chat API saves.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from typing import Any
from urllib.parse import quote, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import websocket_connect

from eclipse_ws.commands.report import Finding
from eclipse_ws.commands.smoke_advice import advice, word_of
from eclipse_ws.commands.smoke_client import WAIT, Client, MissedError
from eclipse_ws.commands.tokens import mint
from eclipse_ws.protocol import CloseCode, decode_json

ACK_WAIT = 10.0
"""Seconds that an ack may take: the application is asked for it."""
DRAIN_WAIT = 300.0
"""Seconds in which the operator has to restart the server."""
ROUNDS = 10
"""Round trips of which the median is told."""
WIDTH = len("resume after a cut")
"""Characters of the longest look's name."""
FORCE_MACHINE = "fly-force-instance-id"
"""The header with which Fly's proxy is asked for a machine."""


class Smoke:
    """The looks, in order; one that fails says so and the others go on."""

    def __init__(
        self,
        url: str,
        jwt_secret: str,
        internal_secret: str,
        chat: str | None,
        also: str | None,
        *,
        origin: str | None = None,
        claims: Mapping[str, str] | None = None,
        tell: Callable[[Finding], None] = lambda finding: None,
    ) -> None:
        """``origin`` is that of the page whose sessions are tried; without it they are no browser's.
        ``claims`` are further ones of the tokens. ``tell`` hears each finding when it is made, and of what
        there is to wait for.
        """
        parts = urlsplit(url)
        self._http = f"{parts.scheme}://{parts.netloc}"
        self._urls = [each.replace("http", "ws", 1).rstrip("/") for each in (self._http, also or self._http)]
        self._jwt_secret, self._internal = jwt_secret, internal_secret
        self._claims = claims
        self._made_up = chat is None
        self._chat = chat or f"eclipse-smoke-{secrets.token_hex(6)}"
        self._origin = {} if origin is None else {"Origin": origin}
        self._machines: list[str] = []
        self._today = False
        self._clients: list[Client] = []
        self._tell = tell
        self.findings: list[Finding] = []

    async def run(self, drain: bool = False) -> list[Finding]:
        """Everything; with ``drain`` waits for a restart too."""
        try:
            await self._run(drain)
        finally:
            for client in self._clients:
                client.close()
        if self._today:
            text = (
                "this is the service of before: it acknowledges nothing, resumes nothing, and repeats events"
            )
            self._found(Finding("summary", "problem", text, "deploy this server there (docs/deploy.md)"))
        return self.findings

    def _found(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._tell(finding)

    async def _run(self, drain: bool) -> None:
        if not await self._look("health", self._health):
            return
        if self._origin and not await self._look("origin", self._allowed):
            return
        if not await self._look("tokens", self._tokens):
            return
        if not await self._look("two sessions", self._join):
            return
        for name, look in (
            ("typing", self._typing),
            ("message and ack", self._message),
            ("event over HTTP", self._event),
            ("resume after a cut", self._resume),
            ("latency", self._latency),
        ):
            await self._look(name, look)
        if drain:
            await self._look("drain", self._drain)

    async def _look(self, name: str, look: Callable[[], Awaitable[Finding | str]]) -> bool:
        try:
            found = await look()
        except MissedError as error:
            found = Finding(name, "problem", str(error), advice(name, error.word))
        except (OSError, HTTPClientError) as error:
            found = Finding(name, "problem", f"can't be reached: {error}", advice("health", word_of(error)))
        self._found(found if isinstance(found, Finding) else Finding(name, "ok", found))
        return self.findings[-1].verdict != "problem"

    def _token(self) -> str:
        """A new visitor's: an account would have to be one that the application knows."""
        return mint(self._jwt_secret, self._chat, None, authenticated=False, seconds=600, more=self._claims)

    def _headers(self, number: int) -> dict[str, str]:
        machine = {FORCE_MACHINE: self._machines[number]} if len(self._machines) > 1 else {}
        return machine | self._origin

    async def _fetch(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> HTTPResponse:
        client = AsyncHTTPClient(force_instance=True)
        try:
            return await client.fetch(
                HTTPRequest(
                    self._http + path,
                    method="GET" if body is None else "POST",
                    body=None if body is None else json.dumps(body),
                    headers=headers,
                    follow_redirects=False,
                    connect_timeout=WAIT,
                    request_timeout=WAIT,
                ),
                raise_error=False,
            )
        finally:
            client.close()

    # -- the looks ------------------------------------------------------------------------------

    async def _health(self) -> Finding | str:
        machines: dict[str, None] = {}
        for _ in range(8):
            answer = await self._fetch("/health")
            if answer.code == 599:
                raise MissedError(f"no answer: {answer.error}", word_of(answer.error))
            try:
                document = decode_json(answer.body)
                status, total = document["status"], document["connections"]["total"]
            except (ValueError, KeyError, TypeError):
                raise MissedError(f"{answer.code} without a health document") from None
            if document.get("machine"):
                machines[document["machine"]] = None
            else:
                break
        self._machines = list(machines)[:2]
        self._today = "version" not in document
        text = f"{status}, {total} sessions, version {document.get('version', 'of before')}"
        text += f", {len(machines)} machines seen" if len(machines) > 1 else ""
        if status != "healthy":
            return Finding(
                "health", "problem" if answer.code != 200 else "warning", text, "see docs/operate.md"
            )
        return text

    async def _allowed(self) -> Finding | str:
        """Whether an upgrade from a page of the origin comes as far as a token is looked at."""
        origin = self._origin["Origin"]
        request = HTTPRequest(
            f"{self._urls[0]}/", headers=self._origin, connect_timeout=WAIT, request_timeout=WAIT
        )
        try:
            socket = await websocket_connect(request)
        except HTTPClientError as error:
            if error.code != 403:
                raise
            return Finding("origin", "problem", f"pages of {origin} are refused (403)", advice("origin"))
        socket.close()
        return f"pages of {origin} may open sessions"

    async def _tokens(self) -> str:
        codes = []
        for query in ("", f"?token={mint(secrets.token_hex(32), self._chat, 'x', False, 60)}"):
            request = HTTPRequest(
                f"{self._urls[0]}/{query}", headers=self._origin, connect_timeout=WAIT, request_timeout=WAIT
            )
            socket = await websocket_connect(request)
            try:
                async with asyncio.timeout(WAIT):
                    while await socket.read_message() is not None:
                        pass
            finally:
                socket.close()
            codes.append(socket.close_code)
        expected = [CloseCode.MISSING_TOKEN.code, CloseCode.INVALID_TOKEN.code]
        if codes != expected:
            raise MissedError(f"no token and a forged one were answered {codes}, not {expected}")
        return f"none is refused with {expected[0]}, a forged one with {expected[1]}"

    async def _join(self) -> str:
        for number, url in enumerate(self._urls):
            self._clients.append(Client(url, self._headers(number)))
            await self._clients[-1].join(self._token())
        where = f" on the machines {' and '.join(self._machines)}" if len(self._machines) > 1 else ""
        return f"in the chat {self._chat}{where}, over {urlsplit(self._urls[0]).scheme}"

    async def _typing(self) -> Finding | str:
        one, other = self._clients
        one.seen.clear()
        await one.say(type="typing", isTyping=True)
        await other.until(lambda event: event.get("type") == "typing", "typing")
        await one.say(type="ping")
        await one.until(lambda event: event.get("type") == "pong", "pong")
        if any(event.get("type") == "typing" for event in one.seen):
            self._today = True
            return Finding("typing", "warning", "reaches the other, but comes back to its sender too")
        return "reaches the other, and not its sender"

    async def _message(self) -> Finding | str:
        one, other = self._clients
        key = secrets.token_hex(8)
        command = {"type": "message", "content": "eclipse-ws smoke", "role": "USER", "clientMessageId": key}
        began = time.monotonic()
        await one.say(**command)
        try:
            ack = await one.until(lambda event: event.get("type") == "ack", "ack", ACK_WAIT)
        except MissedError as error:
            if self._made_up and error.word == "chat_not_found":
                text = "the application has no such chat; it was asked, and accepted the secret"
                return Finding("message and ack", "skipped", f"{text}. Name a test chat with --chat")
            self._today = self._today or "within" in str(error)
            raise
        took = time.monotonic() - began
        await other.until(_has(ack["id"]), "message")
        await one.say(**command)
        again = await one.until(lambda event: event.get("type") == "ack", "second ack")
        if again["id"] != ack["id"]:
            raise MissedError(f"one clientMessageId was saved twice: {ack['id']} and {again['id']}")
        return f"saved, acknowledged ({ack['delivery']}) and delivered in {took * 1000:.0f} ms; saved once"

    async def _publish(self, name: str) -> None:
        """Publish an event that the chat keeps and no chat API saves."""
        event = {"type": "eclipse_smoke", "data": {"id": name}}
        path = f"/api/chats/{quote(self._chat, safe='')}/events"
        answer = await self._fetch(path, event, {"X-Internal-Secret": self._internal})
        if answer.code != 202:
            raise MissedError(f"POST {path} was answered {answer.code}", answer.code)

    async def _event(self) -> Finding | str:
        if not self._internal:
            return Finding("event over HTTP", "skipped", "INTERNAL_API_SECRET is not set here")
        name = secrets.token_hex(8)
        await self._publish(name)
        for client in self._clients:
            await client.until(_has(name), "event")
        return "reaches both, with a cursor"

    async def _resume(self) -> Finding | str:
        one, other = self._clients
        before = other.cursor
        if before is None:
            self._today = True
            raise MissedError("no event has a cursor, so nothing can be resumed")
        if not self._internal:
            return Finding("resume after a cut", "skipped", "INTERNAL_API_SECRET is not set here")
        other.cut()
        names = [secrets.token_hex(8) for _ in range(3)]
        try:
            for name in names:
                await self._publish(name)
        finally:
            await self._back(other, before)  # in any case: the next look needs it
        for name in names:
            await other.until(_has(name), "missed event")
            await one.until(_has(name), "event")
        missed = [(event.get("data") or {}).get("id") for event in other.seen]
        if [name for name in missed if name in names] != names:
            raise MissedError("what was missed came in another order, or twice")
        return f"{len(names)} events that were missed came, once and in order"

    async def _back(self, client: Client, cursor: str | None) -> None:
        client.seen.clear()
        await client.join(self._token(), cursor)
        if client.greeting.get("recovered") is not True:
            raise MissedError(f"recovered is {client.greeting.get('recovered')!r}: the history was lost")

    async def _latency(self) -> Finding | str:
        one, other = self._clients
        trips = []
        for number in range(ROUNDS):
            began = time.monotonic()
            await one.say(type="typing", isTyping=number % 2 == 0)
            await other.until(lambda event: event.get("type") == "typing", "typing")
            trips.append((time.monotonic() - began) * 1000)
        text = (
            f"from one session to the other {median(trips):.1f} ms (median), {max(trips):.1f} ms at the most"
        )
        return Finding("latency", "warning", text, "see docs/operate.md") if median(trips) > 500 else text

    async def _drain(self) -> Finding | str:
        cursors = [client.cursor for client in self._clients]
        self._machines = []  # the one that goes can't be asked for
        text = f"restart the server now; both sessions stay until it ends them, for at most {DRAIN_WAIT:g} s"
        self._tell(Finding("drain", "waiting", text))
        ended = await asyncio.gather(*(client.ended(DRAIN_WAIT) for client in self._clients))
        restarting = CloseCode.RESTARTING.code
        if restarting not in ended:
            raise MissedError(f"the sessions ended with {list(ended)}, not {restarting}")
        told = f"told to come back ({restarting})"
        self._tell(Finding("drain", "waiting", f"{told}, coming back for at most 60 s each"))
        cursors = [client.cursor or cursor for client, cursor in zip(self._clients, cursors, strict=True)]
        for client, cursor in zip(self._clients, cursors, strict=True):
            deadline = time.monotonic() + 60
            while True:
                try:
                    await self._back(client, cursor)
                    break
                except (OSError, HTTPClientError) as error:
                    if time.monotonic() > deadline:
                        raise MissedError(f"no server to come back to: {error}") from error
                    await asyncio.sleep(1)
        return f"{told}, came back, and resumed"


def _has(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: (event.get("data") or {}).get("id") == name
