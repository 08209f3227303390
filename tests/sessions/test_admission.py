"""Admission over a real socket: what is not upgraded, and which sessions may not begin."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.client import UPGRADE, Client, http, leaving_nothing, running, token, until


@pytest.mark.gen_test
async def test_token_in_a_header() -> None:
    """A token may come as a bearer in Authorization."""
    async with running() as server:
        headers = {"Authorization": f"bearer {token()}"}
        async with await Client.open(server.port, greet=True, additional_headers=headers) as client:
            assert client.connected["chatId"] == "c1"


@pytest.mark.gen_test
async def test_token_in_a_subprotocol() -> None:
    """A token may come beside our subprotocol, which is selected; the token is never said back."""
    async with running() as server:
        offered = [Subprotocol("eclipse.v1"), Subprotocol(f"bearer.{token()}")]
        async with await Client.open(server.port, greet=True, subprotocols=offered) as client:
            assert client.connected["chatId"] == "c1"
            assert client.socket.subprotocol == "eclipse.v1"
            assert client.socket.response is not None
            assert "bearer" not in str(client.socket.response.headers)


@pytest.mark.gen_test
async def test_no_subprotocol_is_selected_that_is_not_ours() -> None:
    """A client that offers other subprotocols gets none, and is let in by its token."""
    async with running() as server:
        offered = [Subprotocol("chat"), Subprotocol(f"bearer.{token()}")]
        async with await Client.open(server.port, greet=True, subprotocols=offered) as client:
            assert client.socket.subprotocol is None


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("", 4001, "Missing authentication token"),
        ("token=", 4001, "Missing authentication token"),
        ("other=1", 4001, "Missing authentication token"),
        ("token=garbage", 4002, "Invalid token"),
        ("token=%ff%fe", 4002, "Invalid token"),
        ("token=" + "x" * 9000, 4002, "Invalid token"),
        (f"token={token(secret='y' * 40)}", 4002, "Invalid token"),
        (f"token={token(exp=1)}", 4002, "Token expired"),
        (f"token={token(userId=None)}", 4002, "Invalid token payload: missing userId or chatId"),
        (f"token={token(chatId=None)}", 4002, "Invalid token payload: missing userId or chatId"),
        (f"token={token('')}", 4002, "Invalid token payload: missing userId or chatId"),
    ],
)
async def test_refused_by_a_close_code(query: str, code: int, reason: str) -> None:
    """The upgrade is accepted, and then refused in a way that a browser can read; nothing stays behind."""
    async with running() as server, leaving_nothing(server):
        client = await Client.open(server.port, query)
        assert await client.ended() == (code, reason)


@pytest.mark.gen_test
async def test_of_an_argument_that_comes_twice_the_last_one_counts() -> None:
    """A page that appends its own token or cursor to a URL that has one is heard with it."""
    async with running() as server:
        twice = await Client.open(server.port, f"token=bad&token={token()}&cursor=x.1", greet=True)
        now = twice.connected["cursor"]
        again = await Client.open(server.port, f"token={token()}&cursor=x.1&cursor={now}", greet=True)
        assert again.connected["recovered"] is True
        bad = await Client.open(server.port, f"token={token()}&token=bad")
        assert await bad.ended() == (4002, "Invalid token")
        for client in (twice, again):
            await client.close()


@pytest.mark.gen_test
async def test_commands_of_a_refused_client_do_not_run() -> None:
    """Commands that came along with a bad token are not carried out."""
    async with running() as server, await Client.join(server.port) as neighbour:
        client = await Client.open(server.port, "token=bad")
        for _ in range(3):
            try:
                await client.say(type="message", content="let me in", role="USER")
            except Exception:
                break
        await until(lambda: client.socket.close_code)
        assert client.socket.close_code == 4002
        await neighbour.quiet()
        assert server.node.commands.handled["message"] == 0


@pytest.mark.gen_test
async def test_get_without_an_upgrade() -> None:
    """The sockets' path answers a plain GET with 426, a JSON sentence and what to upgrade to."""
    async with running() as server:
        answer = await http(server.port, "/ws")
        assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
        assert "WebSocket" in answer.json["error"]


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/nope", "/ws/", "/ws/x", "/health/x", "//", "/..%2fws"])
async def test_upgrade_on_another_path(path: str) -> None:
    """Any other path is 404, upgrade or not."""
    async with running() as server, leaving_nothing(server):
        answer = await http(server.port, f"{path}?token={token()}", headers=UPGRADE)
        assert answer.status == 404
        assert "Unknown path" in answer.json["error"]
        with pytest.raises(InvalidStatus):
            await Client.open(server.port, f"token={token()}", path=path)


@pytest.mark.gen_test
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_other_methods(path: str, method: str) -> None:
    """Other methods are 405 in JSON, with what is allowed."""
    async with running() as server:
        answer = await http(server.port, path, method)
        allowed = "GET, HEAD, OPTIONS" if path == "/" else "GET"
        assert (answer.status, answer.headers["allow"]) == (405, allowed)
        assert answer.json == {"error": "Method Not Allowed"}
        for other in ("HEAD", "OPTIONS"):
            assert (await http(server.port, "/ws", other)).status == 405


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Key": "x"},
        {"Sec-WebSocket-Key": ""},
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": ""},
        {"Connection": "close"},
        {"Upgrade": "websocket2"},
    ],
)
async def test_invalid_upgrade(headers: dict[str, str]) -> None:
    """A wrong handshake is a 4xx answer and leaves nothing."""
    async with running() as server, leaving_nothing(server):
        answer = await http(server.port, f"/ws?token={token()}", headers={**UPGRADE, **headers})
        assert answer.status in (400, 426)


@pytest.mark.gen_test
@pytest.mark.parametrize("version", ["8", ""])
async def test_another_version_of_the_protocol(version: str) -> None:
    """It is 426 with the version that is spoken, in a header and in a sentence."""
    async with running() as server:
        headers = {**UPGRADE, "Sec-WebSocket-Version": version}
        answer = await http(server.port, f"/ws?token={token()}", headers=headers)
        assert (answer.status, answer.headers["sec-websocket-version"]) == (426, "13")
        assert "Sec-WebSocket-Version: 13" in answer.json["error"]


@pytest.mark.gen_test
async def test_a_full_node_refuses_upgrades() -> None:
    """A full node answers 503 with Retry-After, and its sessions stay."""
    async with running(max_sessions=1) as server:
        async with await Client.join(server.port) as client:
            answer = await http(server.port, f"/ws?token={token()}", headers=UPGRADE)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.json["limit"] == "max_sessions"
            await client.quiet()
        await until(lambda: not server.hub.sessions)
        async with await Client.join(server.port):
            pass


@pytest.mark.gen_test
@pytest.mark.parametrize("setting", [False, True])
async def test_compression_is_a_setting(setting: bool) -> None:
    """permessage-deflate is negotiated where the setting says so, without context takeover; both sorts of
    session hear each other."""
    async with running(compression=setting) as server:
        asking = await Client.join(server.port, user="asks", compression="deflate")
        plain = await Client.join(server.port, user="plain")
        agreed = asking.socket.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in agreed) is setting
        assert ("server_no_context_takeover" in agreed) is setting
        await asking.say(type="message", content="word " * 200, role="USER")
        for client in (asking, plain):
            assert (await client.next("message"))["data"]["content"] == "word " * 200
        await asking.close()
        await plain.close()
