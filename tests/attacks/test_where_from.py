"""Origins of web pages, and addresses of clients."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from eclipse_ws.security.origins import Origins, shown
from tests.client import UPGRADE, Client, http, running, token, until
from tests.conftest import make_settings

LISTED = {
    "allowed_origins": ("https://app.example.com", "https://*.example.org", "https://*.example.net:8443")
}
FLY = {"client_address_header": "Fly-Client-IP"}


async def refused(port: int, **headers: str) -> Any:
    """The answer to an upgrade that is refused, as (status, body, Retry-After)."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await http(port, f"/ws?token={token()}", headers={**UPGRADE, **names})
    return answer.status, answer.json if answer.status != 101 else None, answer.headers.get("retry-after")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("HTTPS://App.Example.COM", True),
        ("https://a.example.org", True),
        ("https://a.b.example.org", True),
        ("https://a.example.net:8443", True),
        ("http://app.example.com", False),
        ("https://app.example.com:444", False),
        ("https://app.example.com.evil.com", False),
        ("https://evilapp.example.com", False),
        ("https://example.org", False),
        ("https://.example.org", False),
        ("https://evilexample.org", False),
        ("https://evil.com/.example.org", False),
        ("https://evil.com#.example.org", False),
        ("https://user@a.example.org", False),
        ("https://*.example.org", False),
        ("https://a..example.org", False),
        ("https://evil.com:1.example.org", False),
        ("https://a.example.net", False),
        ("https://a.example.org, https://app.example.com", False),
        ("null", False),
        ("", False),
        ("*", False),
        ("https://[", False),
        ("file://", False),
        ("http://localhost:3000", False),
    ],
)
@pytest.mark.parametrize("profile", ["prod", "test"])
def test_which_origins_are_allowed(origin: str, allowed: bool, profile: str) -> None:
    """Exact origins, and names below a wildcard; nothing that only looks like one."""
    assert Origins(make_settings(profile=profile, **LISTED)).allows(origin, "chat.example.com") is allowed


def test_without_a_list() -> None:
    """An empty list allows this machine's and the server's own pages, and none in production."""
    test, prod = Origins(make_settings()), Origins(make_settings(profile="prod"))
    for origin in ("http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:1"):
        assert test.allows(origin)
        assert not prod.allows(origin)
    assert test.allows("http://chat.local:8080", "chat.local:8080")
    assert not prod.allows("http://chat.local:8080", "chat.local:8080")
    assert not test.allows("https://evil.com", "chat.local")
    assert not test.allows("https://localhost.evil.com")


@pytest.mark.parametrize("profile", ["prod", "test"])
@pytest.mark.parametrize(
    "origin", ["null", "file://", "capacitor://localhost", "tauri://localhost", "chrome-extension://abc"]
)
def test_an_origin_that_is_not_a_web_page(origin: str, profile: str) -> None:
    """If it is listed it is allowed, but only as a whole, not as a prefix."""
    origins = Origins(make_settings(profile=profile, allowed_origins=(origin,)))
    assert origins.allows(origin, "chat.example.com")
    assert not origins.allows(origin + "x", "chat.example.com")
    assert not origins.allows("capacitor://evil", "chat.example.com")


LOOPBACK = ("http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000")


@pytest.mark.parametrize("listed", LOOPBACK)
def test_names_of_this_machine_are_equivalent(listed: str) -> None:
    """In development each of them allows all, with the same scheme and port; in production only itself."""
    test, prod = (
        Origins(make_settings(profile=profile, allowed_origins=(listed, "https://app.example.com")))
        for profile in ("test", "prod")
    )
    for origin in LOOPBACK:
        assert test.allows(origin)
        assert prod.allows(origin) is (origin == listed)
    for origin in ("http://localhost:3001", "https://localhost:3000", "http://localhost", "http://evil:3000"):
        assert not test.allows(origin)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("https://evil.com", "https://evil.com"),
        ("null", "null"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("https://user:secret@evil.com/chat?token=secret#secret", "https://evil.com"),
        ("evil.com/chat?token=secret", "evil.com"),
        ("https://evil.com\x1b[2J", "https://evil.com\\x1b[2J"),
        ("https://" + "x" * 1000, "https://" + "x" * 92),
        ("", ""),
    ],
)
def test_an_origin_in_the_log(given: str, written: str) -> None:
    """Only its scheme, name and port are written, printable, and no more than 100 characters."""
    assert shown(given) == written


@pytest.mark.gen_test
async def test_a_refused_page_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the refused page, and the response says how to allow it."""
    caplog.set_level("INFO")
    async with running(**LISTED) as server:
        _, body, _ = await refused(server.port, Origin="https://www.example.com/path?token=secret")
        assert "ALLOWED_ORIGINS" in body["error"]
    (line,) = [record.msg for record in caplog.records if record.name == "eclipse_ws.session"]
    assert isinstance(line, dict)
    assert (line["event"], line["origin"]) == ("upgrade refused", "https://www.example.com")


@pytest.mark.gen_test
async def test_every_line_has_the_clients_address_under_one_name(caplog: pytest.LogCaptureFixture) -> None:
    """Behind a proxy, lines about requests, calls and sessions name the client, not the proxy."""
    caplog.set_level("INFO")
    client = {"Fly-Client-IP": "8.8.8.8"}
    async with running(**FLY) as server:
        await http(server.port, "/nowhere", headers=client)
        await http(server.port, "/api/chats/c1/events", "POST", {}, headers=client)
        await http(server.port, "/ws?token=x", headers={**UPGRADE, **client})
        session = await Client.join(server.port, additional_headers=client)
        await session.close()
        await until(lambda: server.node.counts.ended)
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    found = {line["event"]: line["client_address"] for line in lines if "client_address" in line}
    events = ("Request", "call refused", "session refused", "session ended")
    assert found == dict.fromkeys(events, "8.8.8.8")


@pytest.mark.gen_test
async def test_a_page_refused_by_cors_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same for the HTTP routes, where a browser says only that a header is missing."""
    caplog.set_level("INFO")
    async with running(**LISTED) as server:
        for origin in ("https://app.example.com", "https://evil.com/x"):
            await http(server.port, "/api/ws/token?chatId=c1", headers={"Origin": origin})
        await http(server.port, "/api/ws/token?chatId=c1")
    (line,) = [record.msg for record in caplog.records if "origin" in record.msg]
    assert isinstance(line, dict)
    assert (line["origin"], line["limit"]) == ("https://evil.com", "allowed_origins")
    assert "ALLOWED_ORIGINS is https://app.example.com, " in line["why"]


@pytest.mark.gen_test
async def test_an_unlisted_page_is_refused_before_the_upgrade(caplog: pytest.LogCaptureFixture) -> None:
    """403 names the limit, the log the list; the listed page and a non-browser are accepted."""
    caplog.set_level("INFO")
    async with running(**LISTED) as server, await Client.join(server.port) as neighbour:
        status, body, retry = await refused(server.port, Origin="https://evil.com")
        assert (status, body["limit"], retry) == (403, "allowed_origins", None)
        status, _, _ = await refused(server.port, Sec_Websocket_Origin="https://evil.com")
        assert status == 403
        async with await Client.join(server.port, origin="https://app.example.com"):
            pass
        await neighbour.quiet()
        assert server.node.limits.refused["allowed_origins"] == 2
    reasons = [record.msg["why"] for record in caplog.records if "origin" in record.msg]
    assert reasons
    assert all("ALLOWED_ORIGINS is https://app.example.com, " in why for why in reasons)


@pytest.mark.gen_test
async def test_cors_follows_the_list() -> None:
    """A listed page may read the application's routes, another may not; health is for all."""
    async with running(**LISTED) as server:
        path = "/api/ws/token?chatId=c1"
        listed = await http(server.port, path, headers={"Origin": "https://app.example.com"})
        assert listed.headers["access-control-allow-origin"] == "https://app.example.com"
        assert listed.headers["vary"] == "Origin"
        other = await http(server.port, path, headers={"Origin": "https://evil.com"})
        assert "access-control-allow-origin" not in other.headers
        assert (await http(server.port, "/health")).headers["access-control-allow-origin"] == "*"


@pytest.mark.gen_test
async def test_sessions_of_one_address_are_limited() -> None:
    """429 names the limit; another address is let in, and so is this one when a session has ended."""
    async with running(max_sessions_per_address=2, **FLY) as server:
        mine = {"additional_headers": {"Fly-Client-IP": "93.184.216.34"}}
        async with await Client.join(server.port, user="n") as neighbour:
            first = await Client.join(server.port, **mine)
            second = await Client.join(server.port, **mine)
            status, body, retry = await refused(server.port, Fly_Client_IP="93.184.216.34")
            assert (status, body["limit"], retry) == (429, "max_sessions_per_address", "5")
            await (await Client.join(server.port, additional_headers={"Fly-Client-IP": "8.8.8.8"})).close()
            await neighbour.quiet()
            await first.close()
            await until(lambda: server.node.addresses.sessions("93.184.216.34") == 1)
            await (await Client.join(server.port, **mine)).close()
            await second.close()
            await until(lambda: server.node.addresses.sessions("93.184.216.34") == 0)
        assert server.node.limits.refused["max_sessions_per_address"] == 1


@pytest.mark.gen_test
async def test_a_limit_that_is_set_applies_to_any_address() -> None:
    """A limit that is set explicitly applies to loopback as well."""
    async with running(max_sessions_per_address=1) as server, await Client.join(server.port) as neighbour:
        assert (await refused(server.port))[0] == 429
        await neighbour.quiet()


@pytest.mark.gen_test
async def test_upgrades_of_one_address_are_limited() -> None:
    """After so many upgrades a minute, whatever their tokens, 429 comes before any verification."""
    async with (
        running(max_sessions_per_address=100, **{"security.limits.UPGRADES": 0.03}, **FLY) as server,
        await Client.join(server.port) as neighbour,
    ):
        for _ in range(3):
            bad = await Client.open(
                server.port, "token=bad", additional_headers={"Fly-Client-IP": "93.184.216.34"}
            )
            assert (await bad.ended())[0] == 4002
        status, body, _ = await refused(server.port, Fly_Client_IP="93.184.216.34")
        assert (status, body["limit"]) == (429, "upgrades_per_minute")
        await neighbour.quiet()
        counts = server.node.limits.refused
        assert (counts["token"], counts["upgrades_per_minute"]) == (3, 1)


@pytest.mark.gen_test
async def test_a_header_that_no_setting_names_is_ignored() -> None:
    """A client that sends another address with each request still counts as one address."""
    async with running(max_sessions_per_address=100, **{"security.limits.UPGRADES": 0.01}) as server:
        headers = {"X-Forwarded-For": "1.1.1.1", "Fly-Client-IP": "1.1.1.1", "X-Real-Ip": "1.1.1.1"}
        await (await Client.join(server.port, additional_headers=headers)).close()
        with pytest.raises(InvalidStatus) as caught:
            await Client.join(server.port, additional_headers={name: "2.2.2.2" for name in headers})
        assert caught.value.response.status_code == 429


@pytest.mark.gen_test
async def test_the_node_is_full() -> None:
    """503 names the limit, also while a chat is still being joined; a session that ends makes room."""
    async with running(max_sessions=1) as server:
        async with await Client.join(server.port):
            status, body, retry = await refused(server.port)
            assert (status, body["limit"], retry) == (503, "max_sessions", "5")
        await until(lambda: server.node.sessions == 0)
        async with await Client.join(server.port):
            pass
