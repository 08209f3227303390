"""The code in docs/integrate-nextjs.md: it has the right types, works with this server, and is safe to copy.

Node runs it in place of Next.js, with the real `jose`. `nextjs/` holds stand-ins for what the application has
of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from eclipse_ws.application.base import ChatApi
from eclipse_ws.application.http import HttpApi
from eclipse_ws.application.reports import Report
from eclipse_ws.application.reports_client import ReportsClient
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import ROLES
from eclipse_ws.security.jwt import Verifier
from tests import needs
from tests.application.contract import ChatApiContract
from tests.client import Answer, Client, http, running
from tests.conftest import SECRET, make_settings

HERE = Path(__file__).parent / "nextjs"
DOCUMENT = HERE.parents[2] / "docs" / "integrate-nextjs.md"
PACKAGES = ("typescript@5.9.3", "jose@5.10.0")
TSC = {
    "strict": True,
    "skipLibCheck": True,
    "target": "es2022",
    "lib": ["es2022", "dom"],
    "module": "esnext",
    "moduleResolution": "bundler",
    "types": [],
}
CUSTOMER, STRANGER, AGENT = {"id": "customer"}, {"id": "stranger"}, {"id": "desk", "role": "AGENT"}
VISITOR = {"Cookie": "a=b; chat_visitor=the-visitors-cookie"}
WITH_SECRET = {"X-Internal-Secret": SECRET}
MESSAGE = {"content": "hello", "role": "USER", "userId": "customer"}
SEND = "/api/chats/c1/messages/send"
REPORTS = "/api/chat-events"
EVERYTHING = {
    "JWT_SECRET": SECRET,
    "INTERNAL_API_SECRET": SECRET,
    "NEXT_PUBLIC_WS_URL": "wss://chat.example.com",
}

pytestmark = pytest.mark.slow


def documented() -> dict[str, str]:
    """The document's files, by path."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return dict(re.findall(r"^`([^`\n]+\.ts)`:\n\n```ts\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def report(kind: str, chat: str, role: str = "user", **members: str) -> dict[str, str]:
    """A report."""
    about = {"type": kind, "chatId": chat, "role": role, "userId": "u", "at": "2026-01-01T00:00:00.000Z"}
    return {"id": secrets.token_hex(8), **about, **members}


def batch(*reports: dict[str, str], sent: float = 0.0) -> bytes:
    """A batch that was sent this many seconds from now."""
    at = (datetime.now(UTC) + timedelta(seconds=sent)).isoformat(timespec="milliseconds")
    return json.dumps({"events": reports, "sentAt": at.replace("+00:00", "Z")}).encode()


def sign(body: bytes, secret: str = SECRET) -> str:
    """The signature of a body, computed without the server's code."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the document's files as JavaScript; tsc accepts them."""
    folder = tmp_path_factory.mktemp("nextjs")
    modules = needs.npm_packages(folder, *PACKAGES)
    source, built = folder / "source", folder / "built"
    files = {source / name: text for name, text in documented().items()}
    for name, place in (("auth", "auth"), ("prisma", "lib/prisma"), ("next-headers", "next-headers")):
        files[source / f"{place}.ts"] = (HERE / f"{name}.ts").read_text()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths = {"@/*": [f"{source}/*"], "next/headers": [f"{source}/next-headers.ts"]}
    options = {**TSC, "outDir": str(built), "rootDir": str(source), "paths": paths}
    config = {"compilerOptions": options, "files": [*map(str, files), str(HERE / "node.d.ts")]}
    (folder / "tsconfig.json").write_text(json.dumps(config))
    command = [str(modules / ".bin" / "tsc"), "--project", str(folder)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout
    (built / "package.json").write_text('{"type": "module"}')
    for path in built.rglob("*.js"):
        text = path.read_text().replace('"next/headers"', '"@/next-headers"')
        path.write_text(re.sub(r'"@/([^"]+)"', rf'"file://{built}/\1.js"', text))
    return built


class App:
    """The application, listening at ``port``."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [needs.node(), str(HERE / "serve.mjs"), str(folder)],
            env={"PATH": os.environ["PATH"], **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline() or 0)
        assert self.port, "the application did not start"

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate(timeout=10)

    async def ask(self, path: str, user: object = None, **headers: str) -> Answer:
        """GET, signed in as the user."""
        session = {} if user is None else {"X-User": json.dumps(user)}
        return await http(self.port, path, headers={**session, **headers})

    async def send(self, draft: object = MESSAGE, path: str = SEND, **headers: str) -> Answer:
        """POST a message, as the chat server does."""
        return await http(self.port, path, "POST", draft, headers={**WITH_SECRET, **headers})

    async def tell(self, body: bytes, signature: str | None) -> Answer:
        """POST a batch of reports, as it is."""
        headers = {} if signature is None else {"X-Signature": signature}
        return await http(self.port, REPORTS, "POST", body, headers=headers)

    async def token(self, chat: str, user: object = None, **headers: str) -> str:
        """A token; "" where there is none."""
        answer = await self.ask(f"/api/ws/token?chatId={chat}", user, **headers)
        return str(answer.json.get("token", ""))


@contextmanager
def started(folder: Path, environment: dict[str, str]) -> Iterator[App]:
    """An application that is ended afterwards."""
    app = App(folder, environment)
    try:
        yield app
    finally:
        app.end()


@pytest.fixture(scope="module")
def app(compiled: Path) -> Iterator[App]:
    """The documented application."""
    with started(compiled, EVERYTHING) as app:
        yield app


class TestContract(ChatApiContract):
    """The routes do what this server needs of an application."""

    @pytest.fixture
    def api(self, app: App, opened: Callable[[Any], Any]) -> ChatApi:
        """A client of the routes."""
        url = f"http://127.0.0.1:{app.port}"
        given: Any = {"internal_api_secret": SecretStr(SECRET), "next_api_url": url}
        api: ChatApi = opened(HttpApi(Settings(**given)))
        return api


def test_the_document_has_every_route() -> None:
    """The files are found, and each page that a browser or the server asks for is among them."""
    routes = {name for name in documented() if name.startswith("app/")}
    assert routes == {
        "app/api/ws/token/route.ts",
        "app/api/chats/[chatId]/messages/send/route.ts",
        "app/api/chats/[chatId]/messages/route.ts",
        "app/api/users/[userId]/route.ts",
        "app/api/chat-events/route.ts",
    }


# -- attacks --------------------------------------------------------------------------------------


async def successful_attacks(app: App) -> list[str]:
    """Everything that an attacker gets and must not."""
    verify = Verifier(make_settings()).verify
    found = []

    def check(attack: str, fails: bool) -> None:
        if not fails:
            found.append(attack)

    customer = verify(await app.token("c1&userId=desk&isAuthenticated=1&roles=AGENT", CUSTOMER))
    check("an account takes another's id", customer.user_id == "customer")
    check("an account writes as staff", not any(customer.permits(role) for role in ROLES[1:]))

    for who, headers in ((STRANGER, {}), (None, {}), (None, {"Cookie": "chat_visitor=guess"})):
        for chat in ("c1", "c2", "inbox:support"):
            answers = [
                await app.ask(path, who, **headers)
                for path in (f"/api/ws/token?chatId={chat}", f"/api/chats/{chat}/messages")
            ]
            check("a stranger joins a chat", [answer.status for answer in answers] == [403, 403])
    check("a chat that does not exist is joined", await app.token("missing", AGENT) == "")
    for who, headers in ((CUSTOMER, {}), (None, VISITOR)):
        inbox = await app.ask("/api/ws/token?chatId=inbox:support", who, **headers)
        check("a stranger joins a chat", inbox.status == 403)

    token = await app.token("c2", **VISITOR)
    visitor = verify(token)
    check("a visitor counts as an account", not visitor.is_authenticated)
    check("a visitor writes as staff", visitor.roles == ("USER",))
    check("a visitor chooses an id", re.fullmatch("anon_[0-9a-f]{32}", visitor.user_id) is not None)

    for secret in ("", SECRET[:-1], f"{SECRET}x", "\u00e9"):
        wrong = {"X-Internal-Secret": secret}
        statuses = [(await app.send(**wrong)).status, (await app.ask("/api/users/customer", **wrong)).status]
        check("a guessed secret is accepted", statuses == [401, 401])

    body = batch(report("user_joined", "c-attacked"))
    for header in (None, "", "sha256=", sign(body, "guess"), sign(body)[7:], sign(body).upper(), sign(b"[]")):
        answer = await app.tell(body, header)
        check("a report is forged", answer.status == 401)
    old = batch(report("user_joined", "c-attacked"), sent=-400)
    check("an old batch is sent again", (await app.tell(old, sign(old))).status == 401)
    return found


@pytest.mark.gen_test
async def test_no_attack_succeeds(app: App) -> None:
    """Strangers, visitors and accounts get only what is theirs."""
    assert await successful_attacks(app) == []


UNSAFE = {
    "no roles": ("lib/chats", r"roles: isStaff \?[^\n]*(?= })", "", "an account writes as staff"),
    "any account": ("lib/chats", r"chat\.userId !== user\.id", "false", "a stranger joins a chat"),
    "any visitor": ("lib/chats", r"chat\.visitor !== visitor", "false", "a stranger joins a chat"),
    "no signature": ("lib/reports", r"timingSafeEqual\(.*\)", "true", "a report is forged"),
    "no age": ("lib/reports", r"Math\.abs\(.*?;", "true;", "an old batch is sent again"),
    "no secret": ("lib/chat-server", r"timingSafeEqual\(.*\)", "true", "a guessed secret is accepted"),
}
"""Files of the document, what is changed in them, and the attack that succeeds then."""


@pytest.mark.gen_test
@pytest.mark.parametrize("change", UNSAFE)
async def test_an_attack_on_unsafe_code_succeeds(compiled: Path, tmp_path: Path, change: str) -> None:
    """Without a check that the document's code has, the attacks above find the hole."""
    name, code, unsafe, attack = UNSAFE[change]
    folder = compiled.with_name(f"unsafe-{tmp_path.name}")  # where jose is found
    shutil.copytree(compiled, folder)
    for path in folder.rglob("*.js"):
        path.write_text(path.read_text().replace(f"file://{compiled}/", f"file://{folder}/"))
    changed = folder / f"{name}.js"
    text, times = re.subn(code, unsafe, changed.read_text())
    assert times == 1
    changed.write_text(text)
    with started(folder, EVERYTHING) as app:
        assert set(await successful_attacks(app)) == {attack}


@pytest.mark.gen_test
@pytest.mark.parametrize("value", [None, "too-short"])
async def test_a_missing_secret_is_an_error(compiled: Path, value: str | None) -> None:
    """Without JWT_SECRET nobody gets a token, and without INTERNAL_API_SECRET nobody sends."""
    environment = {name: text for name, text in EVERYTHING.items() if "SECRET" not in name}
    if value is not None:
        environment |= {"JWT_SECRET": value, "INTERNAL_API_SECRET": value}
    with started(compiled, environment) as app:
        token = await app.ask("/api/ws/token?chatId=c1", CUSTOMER)
        sent = await app.send(**{"X-Internal-Secret": ""})
    assert (token.status, token.json) == (500, {"error": "Internal error"})
    assert sent.status == (500 if not value else 401)
    assert set(sent.json) == {"error"}


# -- answers of the routes ------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_no_answer_is_cached(app: App) -> None:
    """Every answer, success or error, is JSON that no cache keeps."""
    answers = [
        await app.ask("/api/ws/token", CUSTOMER),
        await app.ask("/api/ws/token?chatId=c1", CUSTOMER),
        await app.ask("/api/ws/token?chatId=c1", {"name": "an account without an id"}),
        await app.ask("/api/chats/c1/messages", CUSTOMER),
        await app.ask("/api/chats/broken/messages", CUSTOMER),
        await app.ask("/api/users/customer"),
        await app.send(),
    ]
    assert [answer.status for answer in answers] == [400, 200, 500, 200, 500, 401, 200]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert "log alone" not in json.dumps(answer.json)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("draft", "path", "status"),
    [
        ({**MESSAGE, "content": " \n"}, SEND, 400),
        ({**MESSAGE, "content": "a\0b"}, SEND, 400),
        ({**MESSAGE, "content": 7}, SEND, 400),
        ({**MESSAGE, "role": "ADMIN"}, SEND, 400),
        ({**MESSAGE, "userId": {"contains": ""}}, SEND, 400),
        ({**MESSAGE, "userId": "missing"}, SEND, 400),
        (b"no JSON", SEND, 400),
        (b"null", SEND, 400),
        (b"[]", SEND, 400),
        (MESSAGE, "/api/chats/missing/messages/send", 404),
        (MESSAGE, "/api/chats/broken/messages/send", 500),
        (MESSAGE, "/api/chats/database-down/messages/send", 503),
    ],
)
async def test_errors_of_messages_that_are_not_saved(app: App, draft: object, path: str, status: int) -> None:
    """The status says whether a retry makes sense, and the body is the contract's `{error}`."""
    answer = await app.send(draft, path)
    assert answer.status == status
    assert set(answer.json) == {"error"}


@pytest.mark.gen_test
async def test_a_key_saves_once(app: App) -> None:
    """The same Idempotency-Key is answered with the same message; in another chat it is another key."""
    key = {"Idempotency-Key": "a-key"}
    first, again = [(await app.send(**key)).json["message"] for _ in range(2)]
    assert first == again
    other = await app.send(path="/api/chats/c3/messages/send", **key)
    assert other.json["message"]["id"] != first["id"]


# -- reports --------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_reports_are_taken_once_and_in_order(app: App) -> None:
    """What reports say of the customer is saved; one that comes again changes nothing."""
    came, gone = report("user_joined", "r1"), report("user_left", "r1")
    others = report("user_left", "r2", "agent"), report("user_waved", "r2"), report("user_joined", "missing")
    body = batch(report("chat_occupied", "r1"), came, report("read", "r1", messageId="m-7"), *others)
    answer = await app.tell(body, sign(body))
    assert (answer.status, answer.json) == (200, {"taken": 6})
    for body in (batch(gone), batch(came, gone, came), batch()):
        assert (await app.tell(body, sign(body))).status == 200
    reported = (await app.ask("/reported")).json
    left = {"customerHere": False, "customerLeftAt": "2026-01-01T00:00:00.000Z"}
    assert reported["r1"] == {**left, "customerRead": "m-7"}
    assert not {"r2", "missing"} & reported.keys()


@pytest.mark.gen_test
async def test_reports_that_are_not_taken(app: App) -> None:
    """What is no batch is refused forever; what the database can't take now comes again as a whole."""
    for malformed in (b"", b"{", b"null", b"[]", b'{"events": []}', b'{"events": {}, "sentAt": "x"}'):
        assert (await app.tell(malformed, sign(malformed))).status == 400
    first = report("user_joined", "r3")
    for _ in range(2):
        body = batch(first, report("user_joined", "database-down"))
        assert (await app.tell(body, sign(body))).status == 503
    assert (await app.ask("/reported")).json["r3"] == {"customerHere": True}


@pytest.mark.gen_test
async def test_the_servers_reports(app: App) -> None:
    """What the server's own client sends is taken, an empty batch included."""
    given: Any = {"internal_api_secret": SecretStr(SECRET)}
    client = ReportsClient(Settings(**given), f"http://127.0.0.1:{app.port}{REPORTS}")
    await client.start()
    await client.post([])
    await client.post([Report("own-1", "user_joined", "r4 \u00fc", "2026-01-01T00:00:00.000Z", "u", "user")])
    await client.close()
    assert (await app.ask("/reported")).json["r4 \u00fc"] == {"customerHere": True}


# -- with the server ------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_conversation(app: App, compiled: Path) -> None:
    """A customer, a visitor and staff chat through this server, each in their own roles."""
    async with running(api="http", next_api_url=f"http://127.0.0.1:{app.port}") as server:

        async def join(chat: str, user: object = None, **headers: str) -> Client:
            return await Client.open(
                server.port, f"token={await app.token(chat, user, **headers)}", greet=True
            )

        customer, desk, visitor = (
            await join("c1", CUSTOMER),
            await join("c1", AGENT),
            await join("c2", **VISITOR),
        )
        for client in (customer, visitor):
            for role in ("ASSISTANT", "AGENT"):
                await client.say(type="message", content="I am staff", role=role)
                assert (await client.next("error"))["code"] == "forbidden"
            await client.say(type="agent_joined")
            assert (await client.next("error"))["code"] == "forbidden"
            await client.say(type="message", content="help", role="USER")
        assert (await customer.next("message"))["data"]["sender"]["id"] == "customer"
        temporary = (await visitor.next("message"))["data"]["sender"]
        assert temporary["email"] == f"{temporary['id']}@anonymous.temp"
        await desk.seek("message")
        await desk.say(type="agent_joined")
        assert (await customer.next("agent_joined"))["data"]["agentName"] == "Name of desk"
        for role in ("ASSISTANT", "AGENT"):
            await desk.say(type="message", content="hello", role=role)
            assert (await customer.next("message"))["data"]["role"] == role.lower()
        messages = (await app.ask("/api/chats/c1/messages", CUSTOMER)).json["messages"][-3:]
        assert [message["role"] for message in messages] == ["USER", "ASSISTANT", "AGENT"]

        inbox = await join("inbox:support", AGENT)
        created, bot = "2026-01-01T00:00:00.000Z", {"id": "bot", "name": "Bot", "email": None, "avatar": None}
        message = {"id": "m-1", "content": "from a model", "createdAt": created, "sender": bot}
        await publish(compiled, server.port, "publish", "c1", message)
        event = await customer.next("message")
        assert (event["data"]["id"], event["data"]["content"]) == ("m-1", "from a model")
        assert "cursor" in event
        released = {"chatId": "c1", "assignee": None}
        await publish(compiled, server.port, "publishToInbox", "chat_assigned", released)
        event = await inbox.next("chat_assigned")
        assert event["data"].pop("id")
        assert event["data"] == released
        assert "cursor" in event
        for client in (customer, desk, visitor, inbox):
            await client.close()


async def publish(compiled: Path, port: int, function: str, *arguments: object) -> None:
    """Publish something as the application does, with one of its functions."""
    script = f"""
        import * as functions from "file://{compiled}/lib/publish.js";
        await functions.{function}(...{json.dumps(arguments)});
    """
    environment = {"PATH": os.environ["PATH"], "INTERNAL_API_SECRET": SECRET}
    process = await asyncio.create_subprocess_exec(
        needs.node(),
        "--input-type=module",
        "--eval",
        script,
        env={**environment, "CHAT_SERVER_URL": f"http://127.0.0.1:{port}"},
    )
    assert await process.wait() == 0
