"""The documents generated from the code: they are up to date, and the server does what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from eclipse_ws.config.settings import Settings, variable
from eclipse_ws.protocol import EPHEMERAL_TYPES, Command, documents
from eclipse_ws.protocol import schema as types
from eclipse_ws.server import http_handlers
from eclipse_ws.server.server import Server
from eclipse_ws.server.workers.totals import supervisor_metrics
from eclipse_ws.sessions.commands import ROWS
from scripts.documents import written
from tests.client import Client, http, running, token, until
from tests.conftest import SECRET, make_settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WITH_SECRET = {"X-Internal-Secret": SECRET}


def references(document: Any) -> list[str]:
    """Every $ref in a document."""
    if isinstance(document, dict):
        own = [document["$ref"]] if isinstance(document.get("$ref"), str) else []
        return own + [ref for value in document.values() for ref in references(value)]
    if isinstance(document, list):
        return [ref for value in document for ref in references(value)]
    return []


@pytest.mark.parametrize("document", [documents.asyncapi(), documents.openapi()])
def test_every_reference_resolves(document: dict[str, Any]) -> None:
    """No $ref dangles."""
    for reference in references(document):
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in at, reference
            at = at[part]


def test_the_files_are_up_to_date() -> None:
    """`make documents` has been run since the code changed, and writes valid YAML."""
    for name, text in written().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"run `make documents`: {name} is old"
        if name.endswith(".yaml"):
            assert isinstance(yaml.safe_load(text), dict)


def test_every_route_is_documented() -> None:
    """The paths of OpenAPI are exactly the server's, except the demo's."""
    node = Server(make_settings()).node
    patterns = [route.regex for route in http_handlers.routes(node)]
    documented = documents.openapi()["paths"]
    for path in documented:
        assert path == "/" or any(pattern.match(path.replace("{chatId}", "c")) for pattern in patterns), path
    examples = {re.sub(r"\{\w+\}", "c", path) for path in documented}
    for pattern in patterns:
        assert any(pattern.match(path) for path in examples), pattern.pattern


@pytest.mark.gen_test
async def test_every_frame_is_as_documented() -> None:
    """Every frame of a running server decodes as its documented type, without an extra field."""
    decode = msgspec.json.Decoder(types.ServerFrame).decode
    async with running() as server:
        query = f"token={token('c1', 'agent_1', isAuthenticated=True, chatIds=['c2'])}"
        agent = await Client.open(server.port, query)
        visitor = await Client.open(server.port, f"token={token('c1', 'u1')}")
        seen = []

        async def take(client: Client, kind: type) -> Any:
            frame = decode(await client.socket.recv())
            assert type(frame) is kind, frame
            seen.append(frame)
            return frame

        await take(agent, types.Connected)
        await take(visitor, types.Connected)
        await agent.say(type="agent_joined")
        joined = [await take(each, types.AgentJoinedEvent) for each in (agent, visitor)]
        await visitor.say(type="typing", isTyping=True)
        await take(agent, types.TypingEvent)
        await visitor.say(type="message", content="x", role="USER", clientMessageId="k")
        await take(agent, types.MessageEvent)
        kinds = {type(decode(await visitor.socket.recv())) for _ in range(2)}
        assert kinds == {types.MessageEvent, types.Ack}
        await visitor.say(type="ping")
        await take(visitor, types.Pong)
        await visitor.say(type="nonsense")
        await take(visitor, types.Error)
        await visitor.say(type="refresh", token=token("c1", "u1"))
        await take(visitor, types.Refreshed)
        await visitor.close()
        await until(lambda: server.hub.sessions == 1)
        back = await Client.open(server.port, f"token={token('c1', 'u1')}&cursor={joined[0].cursor}")
        assert (await take(back, types.Connected)).recovered is True
        await take(back, types.MessageEvent)
        update = {
            "type": "message_updated",
            "data": {
                "id": "m1",
                "content": "y",
                "role": "user",
                "timestamp": "t",
                "updatedAt": "t2",
                "sender": {"id": "u1", "name": None, "email": None, "avatar": None},
            },
            "timestamp": "t2",
        }
        answer = await http(server.port, "/api/chats/c1/events", "POST", update, headers=WITH_SECRET)
        msgspec.json.decode(answer.body, type=types.Published)
        await take(back, types.MessageUpdated)
        update = {"type": "message_deleted", "data": {"id": "m1", "deletedAt": "t3"}, "timestamp": "t3"}
        await http(server.port, "/api/chats/c1/events", "POST", update, headers=WITH_SECRET)
        await take(back, types.MessageDeleted)
        watcher = await Client.open(server.port, f"token={token('c1', 'u2')}&events=presence,read")
        await take(watcher, types.Connected)
        await take(watcher, types.ReadEvent)
        await take(watcher, types.PresenceEvent)
        async with await Client.join(server.port, "c1", "u3"):
            await take(watcher, types.PresenceEvent)
        await watcher.close()
        await agent.say(type="join", chatId="c2")
        while type(decode(await agent.socket.recv())) is not types.Joined:
            pass
        seen.append(types.Joined(chat_id="c2", timestamp=""))
        await agent.say(type="leave", chatId="c2")
        await take(agent, types.Left)
        assert {type(frame) for frame in seen} | {types.Ack} == set(types.ServerFrame.__args__)
        await agent.close()
        await back.close()


@pytest.mark.gen_test
async def test_every_answer_is_as_documented() -> None:
    """Every HTTP answer, success or error, decodes as its documented type with a documented status."""
    paths = documents.openapi()["paths"]
    events, disconnect = "/api/chats/{chatId}/events", "/api/chats/{chatId}/disconnect"
    event = {"type": "note", "data": {"id": "1"}}
    cases: list[tuple[str, str, Any, dict[str, str], int, type]] = [
        ("/health", "GET", None, {}, 200, types.HealthDocument),
        ("/", "GET", None, {}, 200, types.HealthDocument),
        (events, "POST", event, WITH_SECRET, 202, types.Published),
        (events, "POST", {"type": "typing"}, WITH_SECRET, 202, types.Published),
        (events, "POST", [], WITH_SECRET, 400, types.ErrorBody),
        (events, "POST", event, {}, 401, types.ErrorBody),
        (events, "POST", {"type": "x" * 3000}, WITH_SECRET, 413, types.ErrorBody),
        (disconnect, "POST", {"userId": "u"}, WITH_SECRET, 200, types.Disconnected),
        (disconnect, "POST", {"reason": "x" * 200}, WITH_SECRET, 400, types.ErrorBody),
        ("/api/chats/{chatId}/presence", "GET", None, WITH_SECRET, 200, types.ChatPresence),
    ]
    async with running(**{"config.settings.Settings.max_event": 2048}) as server:
        for path, method, body, headers, status, kind in cases:
            answer = await http(server.port, path.replace("{chatId}", "c"), method, body, headers=headers)
            assert answer.status == status, (path, answer)
            assert str(status) in paths[path][method.lower()]["responses"]
            msgspec.json.decode(answer.body, type=kind)
        key = {**WITH_SECRET, "Idempotency-Key": "k"}
        for given, status, kind in ((event, 202, types.Published), ({"type": "other"}, 422, types.ErrorBody)):
            answer = await http(server.port, "/api/chats/c/events", "POST", given, headers=key)
            assert answer.status == status, answer
            assert str(status) in paths[events]["post"]["responses"]
            msgspec.json.decode(answer.body, type=kind)
        server.node.draining = True
        answer = await http(server.port, "/health")
        assert answer.status == 503
        msgspec.json.decode(answer.body, type=types.HealthDocument)
        for path in ("/metrics", "/widget.js", "/eclipse-chat.js"):
            assert (await http(server.port, path)).status == 200


def test_the_pages_name_every_type() -> None:
    """Each frame and each type has its section in the pages."""
    for document in (documents.asyncapi(), documents.openapi()):
        text = documents.page(document)
        for name in document["components"]["schemas"]:
            assert f"### {name}\n" in text


def section(number: int) -> str:
    """A section of the contract."""
    return re.split(r"^## \d+\. ", (DOCS / "protocol.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[
        number
    ]


def test_the_contract_names_every_command_and_event() -> None:
    """The tables of sections 2 and 3 have exactly one row for each."""
    commands = {struct.__struct_config__.tag for struct in get_args(Command)}
    assert set(re.findall(r"^\| `(\w+)`", section(2), re.MULTILINE)) == commands
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*)", section(3), re.MULTILINE)
    events = {struct.__struct_config__.tag for struct in get_args(types.ServerFrame)}
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == events


def test_the_contract_says_which_commands_a_visitor_may_send() -> None:
    """Messages as USER, and those that need no role."""
    (told,) = re.findall(r"`isAuthenticated: false` may send (.*);", section(2))
    names = [row.name for row in ROWS.values() if row.role is None]
    assert set(re.findall(r"`(\w+)`", told)) == {"USER", *names}


def test_kept_events_have_a_cursor() -> None:
    """Exactly those events of a chat that are kept."""
    for struct in get_args(types.ServerFrame):
        name, fields = struct.__struct_config__.tag, struct.__struct_fields__
        if "data" in fields:
            assert ("cursor" in fields) is (name not in EPHEMERAL_TYPES)


def table(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables by the name in their first cell."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_settings_page_has_every_setting_under_a_heading() -> None:
    """Each setting is there once, with its bounds, default and whether it is reloaded."""
    page = written()["settings.md"]
    rows = table(page)
    assert list(rows) == [variable(name) for name in Settings.model_fields]
    assert rows["PORT"][1:] == ["whole number from 0 to 65535", "`8080`"]
    assert rows["JWT_SECRET"][1:] == ["secret text", "unset", "yes"]
    comments = re.findall(
        r"^    # (.+)\n    \w+: ", (ROOT / "eclipse_ws/config/settings.py").read_text(), re.MULTILINE
    )
    assert re.findall("^## (.+)$", page, re.MULTILINE) == comments


@pytest.mark.gen_test
async def test_the_metrics_page_has_what_a_server_emits() -> None:
    """Each metric of a running server, and of a supervisor, is there with its type, labels and help, and no
    other.
    """
    async with running() as server:
        text = (await http(server.port, "/metrics")).body.decode()
    rows = table(written()["metrics.md"])
    emitted = [*text_string_to_metric_families(text), *supervisor_metrics(0, {})]
    names = [family.name + "_total" * (family.type == "counter") for family in emitted]
    assert list(rows) == names
    for name, family in zip(names, emitted, strict=True):
        kind, labels, meaning = rows[name][0], rows[name][1], rows[name][-1]
        assert (kind, meaning) == (family.type, family.documentation)
        for label in {label for sample in family.samples for label in sample.labels}:
            assert f"`{label}`" in labels, name
