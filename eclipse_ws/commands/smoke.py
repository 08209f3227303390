"""`eclipse-ws smoke URL`: tests a deployed server with two clients of one chat.

It leaves nothing in a real chat: without ``--chat`` it generates a chat id, and the events to be resumed are
of a type that the application does not save.
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

from eclipse_ws.commands import smoke_conversations
from eclipse_ws.commands.report import Finding
from eclipse_ws.commands.smoke_advice import advice, code_of
from eclipse_ws.commands.smoke_client import WAIT, Client, MissedError
from eclipse_ws.commands.tokens import mint
from eclipse_ws.protocol import CloseCode, decode_json

ACK_WAIT = 10.0
"""Seconds to wait for an ack, which includes a call to the application."""
DRAIN_WAIT = 300.0
"""Seconds to wait for the operator to restart the server."""
ROUNDS = 10
"""Round trips of which the median is reported."""
WIDTH = len("resume after a cut")
"""Length of the longest step's name."""
FORCE_MACHINE = "fly-force-instance-id"
"""The header that selects a machine in Fly's proxy."""


class Smoke:
    """Runs the steps in order; a failed step is reported, and the others continue."""

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
        report: Callable[[Finding], None] = lambda finding: None,
    ) -> None:
        """``origin`` is the origin of a page to connect as; without it the clients are not browsers.
        ``claims`` are additional claims of the tokens. ``report`` is called with each finding, and with each
        wait.
        """
        parts = urlsplit(url)
        self._http = f"{parts.scheme}://{parts.netloc}"
        self._urls = [each.replace("http", "ws", 1).rstrip("/") for each in (self._http, also or self._http)]
        self._jwt_secret, self._internal = jwt_secret, internal_secret
        self._claims = claims
        self._generated_chat = chat is None
        self._chat = chat or f"eclipse-smoke-{secrets.token_hex(6)}"
        self._origin = {} if origin is None else {"Origin": origin}
        self._machines: list[str] = []
        self._outdated = False
        self._saved: str | None = None  # the id of the message that was saved
        self._has_conversations = False  # the server is new enough for `join`, presence and read
        self._clients: list[Client] = []
        self._report = report
        self.findings: list[Finding] = []

    async def run(self, drain: bool = False) -> list[Finding]:
        """Run all steps; with ``drain`` it waits for a restart too."""
        try:
            await self._run(drain)
        finally:
            for client in self._clients:
                client.close()
        if self._outdated:
            text = "this is the previous service: it sends no acks, can't resume, and repeats events"
            self._found(Finding("summary", "problem", text, "deploy this server there (docs/deploy.md)"))
        return self.findings

    def _found(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._report(finding)

    async def _run(self, drain: bool) -> None:
        if not await self._step("health", self._health):
            return
        if self._origin and not await self._step("origin", self._allowed):
            return
        if not await self._step("tokens", self._tokens):
            return
        if not await self._step("two sessions", self._join):
            return
        for name, step in (
            ("typing", self._typing),
            ("message and ack", self._message),
            ("event over HTTP", self._event),
            ("several chats", self._several_chats),
            ("presence and read", self._presence),
            ("resume after a cut", self._resume),
            ("latency", self._latency),
        ):
            await self._step(name, step)
        if drain:
            await self._step("drain", self._drain)

    async def _step(self, name: str, step: Callable[[], Awaitable[Finding | str]]) -> bool:
        try:
            found = await step()
        except MissedError as error:
            found = Finding(name, "problem", str(error), advice(name, error.code))
        except (OSError, HTTPClientError) as error:
            found = Finding(name, "problem", f"can't be reached: {error}", advice("health", code_of(error)))
        self._found(found if isinstance(found, Finding) else Finding(name, "ok", found))
        return self.findings[-1].verdict != "problem"

    def _token(self) -> str:
        """A new visitor's token: the application would have to know an account."""
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

    # -- the steps ------------------------------------------------------------------------------

    async def _health(self) -> Finding | str:
        machines: dict[str, None] = {}
        for _ in range(8):
            answer = await self._fetch("/health")
            if answer.code == 599:
                raise MissedError(f"no answer: {answer.error}", code_of(answer.error))
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
        self._outdated = "version" not in document
        text = f"{status}, {total} sessions, version {document.get('version', 'unknown')}"
        text += f", {len(machines)} machines seen" if len(machines) > 1 else ""
        if status != "healthy":
            return Finding(
                "health", "problem" if answer.code != 200 else "warning", text, "see docs/operate.md"
            )
        return text

    async def _allowed(self) -> Finding | str:
        """Whether an upgrade from a page of the origin gets as far as the token."""
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
            raise MissedError(f"no token and a forged one got {codes}, not {expected}")
        return f"a missing one gets {expected[0]}, a forged one {expected[1]}"

    async def _join(self) -> str:
        for number, url in enumerate(self._urls):
            self._clients.append(Client(url, self._headers(number)))
            await self._clients[-1].join(self._token())
        where = f" on the machines {' and '.join(self._machines)}" if len(self._machines) > 1 else ""
        return f"in the chat {self._chat}{where}, over {urlsplit(self._urls[0]).scheme}"

    async def _typing(self) -> Finding | str:
        one, other = self._clients
        one.seen.clear()
        await one.send(type="typing", isTyping=True)
        await other.until(lambda event: event.get("type") == "typing", "typing")
        await one.send(type="ping")
        await one.until(lambda event: event.get("type") == "pong", "pong")
        if any(event.get("type") == "typing" for event in one.seen):
            self._outdated = True
            return Finding("typing", "warning", "reaches the other session, but its sender too")
        return "reaches the other session, and not its sender"

    async def _message(self) -> Finding | str:
        one, other = self._clients
        key = secrets.token_hex(8)
        command = {"type": "message", "content": "eclipse-ws smoke", "role": "USER", "clientMessageId": key}
        began = time.monotonic()
        await one.send(**command)
        try:
            ack = await one.until(lambda event: event.get("type") == "ack", "ack", ACK_WAIT)
        except MissedError as error:
            if self._generated_chat and error.code == "chat_not_found":
                text = "the application accepted the secret, but has no such chat"
                return Finding("message and ack", "skipped", f"{text}. Name a test chat with --chat")
            self._outdated = self._outdated or "within" in str(error)
            raise
        took = time.monotonic() - began
        self._saved = ack["id"]
        await other.until(_has(ack["id"]), "message")
        await one.send(**command)
        again = await one.until(lambda event: event.get("type") == "ack", "second ack")
        if again["id"] != ack["id"]:
            raise MissedError(f"one clientMessageId was saved twice: {ack['id']} and {again['id']}")
        return f"saved, acknowledged ({ack['delivery']}) and delivered in {took * 1000:.0f} ms; saved once"

    async def _publish(self, name: str) -> None:
        """Publish an event that is kept, but that the application does not save."""
        event = {"type": "eclipse_smoke", "data": {"id": name}}
        path = f"/api/chats/{quote(self._chat, safe='')}/events"
        answer = await self._fetch(path, event, {"X-Internal-Secret": self._internal})
        if answer.code != 202:
            raise MissedError(f"POST {path} got {answer.code}", answer.code)

    async def _event(self) -> Finding | str:
        if not self._internal:
            return Finding("event over HTTP", "skipped", "INTERNAL_API_SECRET is not set here")
        name = secrets.token_hex(8)
        await self._publish(name)
        for client in self._clients:
            await client.until(_has(name), "event")
        return "reaches both, with a cursor"

    async def _several_chats(self) -> Finding | str:
        further = f"{self._chat}-2"
        client = Client(self._urls[0], self._headers(0))
        try:
            more = {**(self._claims or {}), "chatIds": [further]}
            await client.join(mint(self._jwt_secret, self._chat, None, False, 600, more=more))
            found = await smoke_conversations.several_chats(client, further)
            self._has_conversations = isinstance(found, str)
            return found
        finally:
            client.close()

    async def _presence(self) -> Finding | str:
        if not self._has_conversations:
            return Finding("presence and read", "skipped", "this version tells neither yet")
        watcher = Client(self._urls[0], self._headers(0))
        try:
            await watcher.join(self._token(), events=smoke_conversations.KINDS)
            seen = await smoke_conversations.presence(watcher, len(self._clients))
            if self._saved is None:
                return f"{seen}; nothing was saved that could be read"
            return f"{seen}, and {await smoke_conversations.read(self._clients[-1], watcher, self._saved)}"
        finally:
            watcher.close()

    async def _resume(self) -> Finding | str:
        one, other = self._clients
        before = other.cursor
        if before is None:
            self._outdated = True
            raise MissedError("no event has a cursor, so nothing can be resumed")
        if not self._internal:
            return Finding("resume after a cut", "skipped", "INTERNAL_API_SECRET is not set here")
        other.cut()
        names = [secrets.token_hex(8) for _ in range(3)]
        try:
            for name in names:
                await self._publish(name)
        finally:
            await self._resume_session(other, before)  # in any case: the next step needs it
        for name in names:
            await other.until(_has(name), "missed event")
            await one.until(_has(name), "event")
        missed = [(event.get("data") or {}).get("id") for event in other.seen]
        if [name for name in missed if name in names] != names:
            raise MissedError("missed events came in another order, or twice")
        return f"{len(names)} missed events arrived once and in order"

    async def _resume_session(self, client: Client, cursor: str | None) -> None:
        client.seen.clear()
        await client.join(self._token(), cursor)
        if client.greeting.get("recovered") is not True:
            raise MissedError(f"recovered is {client.greeting.get('recovered')!r}: the history was lost")

    async def _latency(self) -> Finding | str:
        one, other = self._clients
        trips = []
        for number in range(ROUNDS):
            began = time.monotonic()
            await one.send(type="typing", isTyping=number % 2 == 0)
            await other.until(lambda event: event.get("type") == "typing", "typing")
            trips.append((time.monotonic() - began) * 1000)
        text = f"from one session to the other {median(trips):.1f} ms (median), {max(trips):.1f} ms (maximum)"
        return Finding("latency", "warning", text, "see docs/operate.md") if median(trips) > 500 else text

    async def _drain(self) -> Finding | str:
        cursors = [client.cursor for client in self._clients]
        self._machines = []  # the restarted machine can't be selected
        text = f"restart the server now; waiting up to {DRAIN_WAIT:g} s for it to close both sessions"
        self._report(Finding("drain", "waiting", text))
        ended = await asyncio.gather(*(client.ended(DRAIN_WAIT) for client in self._clients))
        restarting = CloseCode.RESTARTING.code
        if restarting not in ended:
            raise MissedError(f"the sessions ended with {list(ended)}, not {restarting}")
        closed = f"closed with {restarting}"
        self._report(Finding("drain", "waiting", f"{closed}; reconnecting for up to 60 s each"))
        cursors = [client.cursor or cursor for client, cursor in zip(self._clients, cursors, strict=True)]
        for client, cursor in zip(self._clients, cursors, strict=True):
            deadline = time.monotonic() + 60
            while True:
                try:
                    await self._resume_session(client, cursor)
                    break
                except (OSError, HTTPClientError) as error:
                    if time.monotonic() > deadline:
                        raise MissedError(f"can't reconnect: {error}") from error
                    await asyncio.sleep(1)
        return f"{closed}, reconnected, and resumed"


def _has(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: (event.get("data") or {}).get("id") == name
