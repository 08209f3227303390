"""EmbeddedApi on real SQLite files, and the application's routes that it serves."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jwt
import pytest
from pydantic import SecretStr

from eclipse_ws.application.base import ApiError, Share
from eclipse_ws.application.embedded import EmbeddedApi
from eclipse_ws.application.embedded_store import Store
from eclipse_ws.application.http import HttpApi
from tests.application.conftest import JWT_SECRET, make_settings
from tests.application.contract import ChatApiContract
from tests.application.site import Site
from tests.application.stub import SECRET
from tests.nested import DEEPEST, TOO_DEEP, nested

Open = Callable[[Any], Any]


@pytest.fixture(params=["memory", "file"])
def api(request: Any, opened: Open, tmp_path: Path) -> EmbeddedApi:
    """An EmbeddedApi in memory, and one on a file."""
    path = ":memory:" if request.param == "memory" else str(tmp_path / "chats.sqlite3")
    api: EmbeddedApi = opened(EmbeddedApi(make_settings(embedded_db=path)))
    return api


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A database's path."""
    return str(tmp_path / "chats.sqlite3")


class TestContract(ChatApiContract):
    """EmbeddedApi keeps the contract."""

    @pytest.mark.gen_test
    @pytest.mark.parametrize("name", ["a\0", "a\nb", "\x7f", "\x85", "x" * 201])
    async def test_invalid_names(self, api: EmbeddedApi, name: str) -> None:
        """Control characters and endless ids are refused, as a chat's and as a user's."""
        for chat, user, code in ((name, "u", "chat_not_found"), ("c", name, "api_rejected")):
            with pytest.raises(ApiError) as caught:
                await api.send_message(chat, user, "hello", "USER")
            assert (caught.value.code, caught.value.retryable) == (code, False)


class TestOverHttp(ChatApiContract):
    """HttpApi keeps the contract against the embedded API's own routes."""

    @pytest.fixture
    def api(self, site: Site, opened: Open) -> HttpApi:
        """An HttpApi whose application is the embedded API."""
        api: HttpApi = opened(HttpApi(make_settings(next_api_url=site.url)))
        return api


@pytest.mark.gen_test
async def test_key_saves_once(api: EmbeddedApi) -> None:
    """The same key in the same chat is one message, also in parallel; in another chat it is another."""
    sends = [api.send_message("c", "u", "hello", "USER", "k") for _ in range(10)]
    messages = await asyncio.gather(*sends)
    assert {message.id for message in messages} == {messages[0].id}
    with pytest.raises(ApiError) as caught:
        await api.send_message("c", "u", "another", "USER", "k")
    assert (caught.value.code, caught.value.retryable) == ("api_rejected", False)
    assert (await api.send_message("d", "u", "x", "USER", "k")).id != messages[0].id
    assert len(await api.history("c", 10)) == 1


@pytest.mark.gen_test
async def test_history_and_chats(api: EmbeddedApi) -> None:
    """A chat's history is its last messages, oldest first; the list has the latest chat first."""
    for n in range(5):
        await api.send_message("a", "u", f"text {n}", "USER")
    await api.send_message("b", "agent_2", "hello", "AGENT")
    await api.send_message("a", "u", "text 5", "USER")
    assert [message.content for message in await api.history("a", 3)] == ["text 3", "text 4", "text 5"]
    assert await api.history("nobody's", 3) == []
    chats = await api.chats(10)
    assert [(chat.id, chat.count, chat.lastMessage.content) for chat in chats] == [
        ("a", 6, "text 5"),
        ("b", 1, "hello"),
    ]
    assert chats[1].lastMessage.sender.name == "Bruno Lindqvist"
    assert len(await api.chats(1)) == 1


@pytest.mark.gen_test
async def test_customers_messages_are_counted_separately(api: EmbeddedApi) -> None:
    """A summary counts the customer's messages, and the answered ones among them."""
    for role in ("USER", "USER", "AGENT", "USER", "ASSISTANT", "USER"):
        await api.send_message("a", "u", "text", role)
    await api.send_message("greeted", "agent_1", "hello", "ASSISTANT")
    await api.send_message("new", "u", "text", "USER")
    counted = [(chat.id, chat.count, chat.received, chat.answered) for chat in await api.chats(10)]
    assert counted == [("new", 1, 1, 0), ("greeted", 1, 0, 0), ("a", 6, 4, 3)]


@pytest.mark.gen_test
async def test_a_list_of_chats_has_only_the_beginnings_of_messages(api: EmbeddedApi) -> None:
    """The list of chats contains only previews of long messages."""
    await api.send_message("c", "u", "y" * 100_000, "USER")
    assert [chat.lastMessage.content for chat in await api.chats(10)] == ["y" * 200]
    assert len((await api.history("c", 1))[0].content) == 100_000


@pytest.mark.gen_test
async def test_a_database_of_an_older_version(path: str) -> None:
    """Its chats are counted like new ones, also after an older version wrote to it."""
    first = EmbeddedApi(make_settings(embedded_db=path))
    await first.start()
    await first.send_message("c", "u", "hello", "USER")
    await first.close()
    with sqlite3.connect(path) as other:
        for index in ("messages_received", "messages_answers"):
            other.execute(f"DROP INDEX {index}")
    other.close()
    second = EmbeddedApi(make_settings(embedded_db=path))
    await second.start()
    assert [(chat.received, chat.answered) for chat in await second.chats(1)] == [(1, 0)]
    await second.close()


@pytest.mark.gen_test
async def test_visitor_is_known_after_a_message(api: EmbeddedApi) -> None:
    """A visitor becomes a user with their first message."""
    with pytest.raises(ApiError):
        await api.user("anon_1_x")
    await api.send_message("c", "anon_1_x", "hello", "USER")
    assert (await api.user("anon_1_x")).name is None


@pytest.mark.gen_test
async def test_messages_survive_a_restart(path: str) -> None:
    """Messages and their keys survive a restart."""
    settings = make_settings(embedded_db=path)
    first = EmbeddedApi(settings)
    await first.start()
    message = await first.send_message("c", "u", "hello", "USER", "k")
    await first.close()
    second = EmbeddedApi(settings)
    await second.start()
    assert await second.history("c", 10) == [message]
    assert (await second.send_message("c", "u", "hello", "USER", "k")).id == message.id
    await second.close()


async def trouble(call: Any) -> ApiError:
    """The retryable ApiError of a disk failure."""
    with pytest.raises(ApiError) as caught:
        await call
    error = caught.value
    assert (error.code, error.retryable, error.outcome_unknown) == ("api_unavailable", True, False)
    return error


@pytest.mark.gen_test
@patch("eclipse_ws.application.embedded.MAX_BYTES", 100_000)
async def test_full_disk(path: str) -> None:
    """A full database refuses, saves nothing partially, can be read, and works once there is room."""
    api = EmbeddedApi(make_settings(embedded_db=path))
    await api.start()
    saved = 0
    with pytest.raises(ApiError) as caught:
        for _ in range(100):
            await api.send_message("c", "u", "x" * 5000, "USER")
            saved += 1
    assert (caught.value.code, caught.value.retryable) == ("api_unavailable", True)
    assert "SQLITE_FULL" in str(caught.value)
    assert api.state == "down"
    assert saved > 0
    assert len(await api.history("c", 1000)) == saved
    assert (await api.chats(1))[0].count == saved

    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM messages WHERE seq <= 5")
    other.close()
    await api.send_message("c", "u", "x" * 5000, "USER")
    assert api.state == "up"
    await api.close()


@pytest.mark.gen_test
async def test_locked(path: str) -> None:
    """A database locked by another process fails in time, and works when the lock is released."""
    api = EmbeddedApi(make_settings(embedded_db=path, api_timeout=0.2))
    await api.start()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    errors = await asyncio.gather(*(trouble(api.send_message("c", "u", "hello", "USER")) for _ in range(4)))
    assert any("SQLITE_BUSY" in str(error) for error in errors)
    assert any("busy for" in str(error) for error in errors)
    assert await api.history("c", 10) == []
    other.execute("ROLLBACK")
    other.close()
    await api.send_message("c", "u", "hello", "USER")
    await api.close()


@pytest.mark.gen_test
async def test_deleted_file(path: str) -> None:
    """A deleted database file is created again, rather than written to after its deletion."""
    api = EmbeddedApi(make_settings(embedded_db=path))
    await api.start()
    await api.send_message("c", "u", "hello", "USER")
    for name in Path(path).parent.iterdir():
        name.unlink()
    await api.send_message("c", "u", "hello again", "USER")
    await api.close()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT content FROM messages").fetchall() == [("hello again",)]
    other.close()


@pytest.mark.gen_test
async def test_failing_disk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an I/O error the database is opened again, and is as it was."""
    api = EmbeddedApi(make_settings(embedded_db=path))
    await api.start()
    await api.send_message("c", "u", "hello", "USER")
    first = api._store

    def broken(*args: Any) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        error.sqlite_errorname = "SQLITE_IOERR"
        raise error

    monkeypatch.setattr(Store, "save", broken)
    await trouble(api.send_message("c", "u", "hello", "USER"))
    monkeypatch.undo()
    assert len(await api.history("c", 10)) == 1
    assert api._store is not first
    await api.close()


@pytest.mark.gen_test
async def test_read_only(path: str) -> None:
    """A database that can't be written is an error, can be read, and works when it can be written again."""
    api = EmbeddedApi(make_settings(embedded_db=path))
    await api.start()
    await api.send_message("c", "u", "hello", "USER")
    worker, store = api._worker, api._store
    assert worker is not None
    assert store is not None
    await asyncio.wrap_future(worker.submit(store._db.execute, "PRAGMA query_only = 1"))
    error = await trouble(api.send_message("c", "u", "hello", "USER"))
    assert "SQLITE_READONLY" in str(error)
    await api.send_message("c", "u", "hello", "USER")
    assert len(await api.history("c", 10)) == 2
    await api.close()


@pytest.mark.gen_test
async def test_file_that_is_not_a_database(path: str) -> None:
    """A start on a file that is not a database fails, names the path, and leaves nothing open."""
    Path(path).write_bytes(b"no database at all" * 1000)  # noqa: ASYNC240
    api = EmbeddedApi(make_settings(embedded_db=path))
    with pytest.raises(ApiError, match=r"chats\.sqlite3") as caught:
        await api.start()
    assert caught.value.code == "api_unavailable"
    await trouble(api.user("agent_1"))


@pytest.mark.gen_test
async def test_missing_directory(tmp_path: Path) -> None:
    """A start in a directory that is missing fails; the same object starts once it is there."""
    api = EmbeddedApi(make_settings(embedded_db=str(tmp_path / "new" / "chats.sqlite3")))
    await trouble(api.start())
    (tmp_path / "new").mkdir()
    await api.start()
    await api.send_message("c", "u", "hello", "USER")
    await api.close()


@pytest.mark.gen_test
async def test_queue_is_bounded() -> None:
    """Calls past the bound fail at once; those before it complete."""
    api = EmbeddedApi(make_settings(api_max_waiting=3))
    await api.start()
    sends = [asyncio.ensure_future(api.send_message("c", "u", "hello", "USER")) for _ in range(5)]
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Message"] * 3 + ["ApiError"] * 2
    await api.close()


@pytest.mark.gen_test
async def test_one_user_has_a_part_of_the_queue() -> None:
    """One user's calls fill a tenth of the queue, whatever others do."""
    api = EmbeddedApi(make_settings(api_max_waiting=200))
    await api.start()
    sends = [api.send_message("c", "u", "hello", "USER", share=Share("user:u")) for _ in range(25)]
    results = await asyncio.gather(*sends, return_exceptions=True)
    refused = [result for result in results if isinstance(result, ApiError)]
    assert [(error.code, error.retryable) for error in refused] == [("api_busy", True)] * 5
    await api.send_message("c", "u", "hello", "USER", share=Share("user:u"))
    await api.close()


@pytest.mark.gen_test
async def test_cancelled_call() -> None:
    """A cancelled call does not affect others."""
    api = EmbeddedApi(make_settings())
    await api.start()
    call = asyncio.ensure_future(api.send_message("c", "u", "hello", "USER"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await api.user("agent_1")
    assert (api.stats.active, api.stats.calls["cancelled"]) == (0, 1)
    await api.close()


@pytest.mark.gen_test
async def test_values_that_sqlite_refuses() -> None:
    """A value that the database rejects fails finally, is not an outage, and changes nothing."""
    api = EmbeddedApi(make_settings())
    await api.start()
    with pytest.raises(ApiError) as caught:
        await api.send_message("c", "u", "hello", None)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.retryable, api.state) == ("api_rejected", False, "up")
    with pytest.raises(ApiError, match="unknown user"):
        await api.user("u")
    await api.send_message("c", "u", "hello", "USER")
    await api.close()


# -- the routes ---------------------------------------------------------------------------------


DRAFT = {"content": "hello", "role": "USER", "userId": "anon_1_x"}
DEEP = '{"content":"hello","role":"USER","userId":"anon_1_x","x":%s}'


@pytest.mark.gen_test
async def test_send_route(site: Site) -> None:
    """The route responds like the application's, requires the secret, and honours keys."""
    path = "/api/chats/c%2F1/messages/send"
    first = await site.ask(path, DRAFT, X_Internal_Secret=SECRET, Idempotency_Key="k")
    second = await site.ask(path, DRAFT, X_Internal_Secret=SECRET, Idempotency_Key="k")
    answer = json.loads(first.body)
    assert (first.code, answer["success"]) == (200, True)
    assert first.headers["Content-Type"] == "application/json"
    assert set(answer["message"]) == {"id", "content", "role", "createdAt", "sender"}
    assert answer["message"]["sender"] == {"id": "anon_1_x", "name": None, "email": None, "avatar": None}
    assert json.loads(second.body) == answer
    assert [message.content for message in await site.api.history("c/1", 10)] == ["hello"]


@pytest.mark.gen_test
async def test_deepest_request(site: Site) -> None:
    """A draft may have fields that we don't know, as deep as the limit."""
    saved = await site.ask("/api/chats/c/messages/send", DEEP % nested(DEEPEST), X_Internal_Secret=SECRET)
    assert json.loads(saved.body)["message"]["content"] == "hello"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chats//messages/send", DRAFT, 400),
        ("/api/chats/a%00b/messages/send", DRAFT, 400),
        (f"/api/chats/{'x' * 201}/messages/send", DRAFT, 400),
        ("/api/chats/%FF/messages/send", DRAFT, 400),
        ("/api/chats/c/messages/send", "not JSON", 400),
        ("/api/chats/c/messages/send", b"\xff\xff", 400),
        ("/api/chats/c/messages/send", "[" * 100_000, 400),
        *(("/api/chats/c/messages/send", DEEP % nested(levels), 400) for levels in TOO_DEEP),
        ("/api/chats/c/messages/send", "[]", 400),
        ("/api/chats/c/messages/send", {}, 400),
        ("/api/chats/c/messages/send", {**DRAFT, "content": 7}, 400),
        ("/api/chats/c/messages/send", {**DRAFT, "content": " \n"}, 400),
        ("/api/chats/c/messages/send", {**DRAFT, "content": "x" * 100_001}, 413),
        ("/api/chats/c/messages/send", {**DRAFT, "role": "ADMIN"}, 400),
        ("/api/chats/c/messages/send", {**DRAFT, "userId": ""}, 400),
        ("/api/chats/c/messages/send", {**DRAFT, "userId": "x" * 201}, 400),
        ("/api/chats/c/messages/send", None, 405),
        ("/api/chats/c/messages", {}, 405),
        ("/api/users/nobody", None, 404),
        ("/api/users/", None, 404),
        ("/api/chats//messages", None, 400),
        ("/api/chats/c/messages?limit=0", None, 400),
        ("/api/chats/c/messages?limit=1001", None, 400),
        ("/api/chats/c/messages?limit=-1", None, 400),
        ("/api/chats?limit=many", None, 400),
        ("/api/chats?before=", None, 400),
        ("/api/chats?before=-1", None, 400),
        ("/api/chats?before=9999999999999999999", None, 400),
        ("/api/ws/token", None, 400),
        ("/api/ws/token?chatId=", None, 400),
        ("/api/ws/token?chatId=a%0Ab", None, 400),
        ("/api/ws/token?chatId=c&agent=agent_9", None, 400),
        (f"/api/ws/token?chatId=c&userId={'x' * 201}", None, 400),
    ],
)
async def test_bad_requests(site: Site, path: str, body: Any, status: int) -> None:
    """Each bad request gets its status and a JSON error."""
    response = await site.ask(path, body, X_Internal_Secret=SECRET)
    assert response.code == status
    assert set(json.loads(response.body)) == {"error"}
    assert json.loads(response.body)["error"]
    assert await site.api.chats(10) == []


@pytest.mark.gen_test
@pytest.mark.parametrize("given", [{}, {"X_Internal_Secret": ""}, {"X_Internal_Secret": "wröng"}])
async def test_secret_is_needed(site: Site, given: dict[str, str]) -> None:
    """Without the secret nothing is saved and no user is returned."""
    for path, body in (("/api/chats/c/messages/send", DRAFT), ("/api/users/agent_1", None)):
        response = await site.ask(path, body, **given)
        assert (response.code, SECRET in response.body.decode()) == (401, False)
    assert await site.api.history("c", 1) == []


@pytest.mark.gen_test
async def test_no_secret_configured(site: Site) -> None:
    """Without a configured secret every request gets 503, also one with an empty secret."""
    site.api.settings = site.api.settings.model_copy(update={"internal_api_secret": SecretStr("")})
    response = await site.ask("/api/users/agent_1", X_Internal_Secret="")
    assert (response.code, json.loads(response.body)) == (503, {"error": "Service Unavailable"})


@pytest.mark.gen_test
async def test_lists(site: Site) -> None:
    """History, chats and agents in the form that the pages read."""
    for n in range(3):
        await site.ask("/api/chats/c/messages/send", {**DRAFT, "content": f"{n}"}, X_Internal_Secret=SECRET)
    history = json.loads((await site.ask("/api/chats/c/messages?limit=2")).body)
    assert [message["content"] for message in history["messages"]] == ["1", "2"]
    ((chat),) = json.loads((await site.ask("/api/chats")).body)["chats"]
    assert (chat["id"], chat["count"], chat["lastMessage"]["content"]) == ("c", 3, "2")
    assert chat["updatedAt"] == chat["lastMessage"]["createdAt"]
    agents = json.loads((await site.ask("/api/agents")).body)["agents"]
    assert [agent["id"] for agent in agents] == ["agent_1", "agent_2", "agent_3"]
    assert set(agents[0]) == {"id", "name", "email", "image"}
    user = json.loads((await site.ask("/api/users/agent_1", X_Internal_Secret=SECRET)).body)
    assert user == agents[0]


@pytest.mark.gen_test
async def test_chats_in_pages(site: Site) -> None:
    """The pages together have every chat once, also if some move to the front meanwhile; the last says so."""
    for n in range(5):
        await site.api.send_message(f"c{n}", "u", "hello", "USER")
    pages, following = [], ""
    for _ in range(3):
        answer = json.loads((await site.ask(f"/api/chats?limit=2{following}")).body)
        pages.append([chat["id"] for chat in answer["chats"]])
        following = f"&before={answer['next']}"
        await site.api.send_message("c4", "u", "hello again", "USER")
    assert (pages, following) == ([["c4", "c3"], ["c2", "c1"], ["c0"]], "&before=None")
    assert json.loads((await site.ask("/api/chats?limit=5")).body)["next"] is None


@pytest.mark.gen_test
async def test_token_of_a_visitor(site: Site) -> None:
    """A visitor gets a new user with every token, valid for two hours, and the WebSocket's URL."""
    first, second = [json.loads((await site.ask("/api/ws/token?chatId=c%2F1")).body) for _ in range(2)]
    assert set(first) == {"token", "wsUrl", "userId", "chatId"}
    assert first["wsUrl"] == f"ws://{site.host}/ws"
    assert first["userId"].startswith("anon_")
    assert first["userId"] != second["userId"]
    claims = jwt.decode(first["token"], JWT_SECRET, algorithms=["HS256"])
    assert (claims["userId"], claims["chatId"], claims["isAuthenticated"]) == (first["userId"], "c/1", False)
    assert claims["exp"] - claims["iat"] == 7200


@pytest.mark.gen_test
async def test_token_for_a_server_that_requires_claims(site: Site) -> None:
    """If the settings require an issuer and an audience, the route's tokens have both."""
    site.api.settings = make_settings(jwt_issuer="https://app.example.com", jwt_audience="chat")
    answer = json.loads((await site.ask("/api/ws/token?chatId=c")).body)
    claims = jwt.decode(
        answer["token"], JWT_SECRET, algorithms=["HS256"], issuer="https://app.example.com", audience="chat"
    )
    assert claims["chatId"] == "c"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("query", "user", "authenticated"),
    [("agent=1", "agent_1", True), ("agent=agent_3", "agent_3", True), ("userId=me", "me", False)],
)
async def test_token_of_a_user(site: Site, query: str, user: str, authenticated: bool) -> None:
    """An agent's token is authenticated; any other user's is not."""
    answer = json.loads((await site.ask(f"/api/ws/token?chatId=c&{query}", X_Forwarded_Proto="https")).body)
    claims = jwt.decode(answer["token"], JWT_SECRET, algorithms=["HS256"])
    assert (answer["userId"], claims["userId"], claims["isAuthenticated"]) == (user, user, authenticated)
    assert answer["wsUrl"].startswith("wss://")


@pytest.mark.gen_test
async def test_failures_reveal_only_their_code(site: Site) -> None:
    """When the store fails, the response has a code, and only the log has the detail."""
    await site.api.close()
    response = await site.ask("/api/chats/c/messages")
    assert (response.code, json.loads(response.body)) == (503, {"error": "api_unavailable"})


@pytest.mark.gen_test
async def test_a_start_has_no_timeout() -> None:
    """A start completes even on a machine where calls would time out."""
    api = EmbeddedApi(make_settings(api_timeout=1e-9))
    await api.start()
    with pytest.raises(ApiError, match="busy"):
        await api.history("c1", 1)
    await api.close()
