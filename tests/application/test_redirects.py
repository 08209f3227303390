"""Redirects of the application: which are followed, which are remembered, and what errors the others give."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eclipse_ws.application.call import ApiRequest
from eclipse_ws.application.http import HttpApi
from eclipse_ws.application.redirects import Address, target_of
from tests.application.conftest import CONTENT, failure, send
from tests.application.stub import SECRET, Fault, Stub

SEND = "/api/chats/chat-1/messages/send"


def paths(stub: Stub) -> list[str]:
    """The paths requested since the last call."""
    asked = [uri for _, uri, _ in stub.requests]
    stub.requests.clear()
    return asked


def to(location: str, status: int = 308, **fields: Any) -> Fault:
    """A redirect."""
    return Fault("status", status, "", {"Location": location}, **fields)


# -- redirects that are followed ----------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_slash_at_the_end(api: HttpApi, stub: Stub) -> None:
    """With `trailingSlash: true` a message is saved once, whole, and only the first is redirected."""
    stub.trailing_slash = True
    for key in ("k-1", "k-2"):
        assert (await send(api, key=key)).content == CONTENT
    assert [saved["key"] for saved in stub.saved] == ["k-1", "k-2"]
    assert {headers["X-Internal-Secret"] for _, _, headers in stub.requests} == {SECRET}
    assert {method for method, _, _ in stub.requests} == {"POST"}
    assert paths(stub) == [SEND, f"{SEND}/", f"{SEND}/"]
    assert api.stats.calls == {"ok": 2}


@pytest.mark.gen_test
@pytest.mark.parametrize(("status", "remembered"), [(301, True), (302, False), (307, False), (308, True)])
async def test_a_slash_after_a_user(api: HttpApi, stub: Stub, status: int, remembered: bool) -> None:
    """A lookup follows each status that keeps a GET unchanged; permanent ones are remembered."""
    stub.trailing_slash, stub.redirect = True, status
    for _ in range(2):
        assert (await api.user("agent_1")).name == "Name of agent_1"
    bare, slash = "/api/users/agent_1", "/api/users/agent_1/"
    assert paths(stub) == ([bare, slash, slash] if remembered else [bare, slash] * 2)


@pytest.mark.gen_test
async def test_a_base_path(api: HttpApi, stub: Stub) -> None:
    """A prefix within the origin is followed, and remembered, also together with a slash."""
    stub.base_path, stub.trailing_slash = "/support", True
    await send(api)
    await send(api, "a/b ü")
    assert [saved["chatId"] for saved in stub.saved] == ["chat-1", "a/b ü"]
    there = "/support/api/chats/a%2Fb%20%C3%BC/messages/send/"
    assert paths(stub) == [SEND, f"/support{SEND}/", there]


@pytest.mark.gen_test
async def test_a_remembered_address_that_redirects(api: HttpApi, stub: Stub) -> None:
    """When the application redirects from there too, the new address is followed and remembered instead."""
    for slash in (True, False, True):
        stub.trailing_slash = slash
        await send(api)
        paths(stub)
        await send(api)
        assert paths(stub) == [f"{SEND}/" if slash else SEND]
    assert len(stub.saved) == 6


@pytest.mark.gen_test
async def test_a_remembered_address_that_is_gone(api: HttpApi, stub: Stub) -> None:
    """If a remembered address is gone, this call and later ones go to the configured address."""
    stub.base_path = "/support"
    await send(api)
    stub.base_path = ""
    paths(stub)
    await send(api)
    await send(api)
    assert paths(stub) == [f"/support{SEND}", SEND, SEND]


@pytest.mark.gen_test
async def test_a_chat_that_is_missing_at_a_remembered_address(api: HttpApi, stub: Stub) -> None:
    """The application's own 404 is about the chat, and not a reason to try elsewhere."""
    stub.trailing_slash = True
    await send(api)
    paths(stub)
    assert (await failure(send(api, "missing-1"))).code == "chat_not_found"
    await send(api)
    assert paths(stub) == ["/api/chats/missing-1/messages/send/", f"{SEND}/"]


@pytest.mark.gen_test
async def test_a_temporary_redirect_is_not_remembered(api: HttpApi, stub: Stub) -> None:
    """307 applies to one call."""
    stub.trailing_slash, stub.redirect = True, 307
    for _ in range(2):
        await send(api)
    assert paths(stub) == [SEND, f"{SEND}/"] * 2


@pytest.mark.gen_test
async def test_a_redirect_that_sets_a_cookie(api: HttpApi, stub: Stub) -> None:
    """A redirect to where the call came from is followed, with the cookie that it sets."""
    stub.fault = to(SEND, 307, times=1)
    stub.fault.headers["Set-Cookie"] = "_vercel_jwt=pass; Path=/"
    await send(api)
    assert [headers.get("Cookie") for _, _, headers in stub.requests] == [None, "_vercel_jwt=pass"]


# -- redirects that are not followed ------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["", "/base"])
async def test_another_origin(api: HttpApi, stub: Stub, status: int, path: str) -> None:
    """Nothing is sent to another origin; the error says what NEXT_API_URL has to be, and nothing more."""
    other = Stub()
    await other.start()
    stub.fault = to(f"{other.url}{path}{SEND}/?token=private", status)
    for call in (send(api), api.user("u")):
        error = await failure(call)
        assert (error.code, error.retryable) == ("api_redirected", False)
        assert other.url in str(error)
        assert "private" not in str(error)
        if call is not None and "POST" in str(error):
            assert f"set NEXT_API_URL to {other.url}{path}" in str(error)
    assert other.requests == []
    await other.stop()


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        f"/login?next={SEND}",
        "/api/chats/chat-2/messages/send",
        "/api/chats/CHAT-1/messages/send",
        "/api/auth/signin",
        f"/%2e%2e{SEND}",
        f"//x@127.0.0.1{SEND}",
        f"{SEND}/more",
    ],
)
async def test_another_route(api: HttpApi, stub: Stub, status: int, location: str) -> None:
    """Neither a sign-in page nor another chat gets the message; the error says where the redirect leads."""
    stub.fault = to(location, status, times=1)
    error = await failure(send(api))
    assert (error.code, error.retryable) == ("api_redirected", False)
    assert error.outcome_unknown == (status == 303)
    assert "ECLIPSE_API_HEADERS" in str(error)
    assert "next=" not in str(error)
    assert paths(stub) == [SEND]


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [301, 302])
async def test_a_status_that_turns_a_post_into_a_get(api: HttpApi, stub: Stub, status: int) -> None:
    """The same route, by a status after which clients send a GET: the error names the right one."""
    stub.fault = to(f"{SEND}/", status)
    error = await failure(send(api))
    assert (error.code, error.outcome_unknown) == ("api_redirected", False)
    assert "308" in str(error)
    assert paths(stub) == [SEND]


@pytest.mark.gen_test
@pytest.mark.parametrize("location", [None, "", "http://[", "mailto:x@y", "https://", "http://a:b/"])
async def test_a_redirect_to_nowhere(api: HttpApi, stub: Stub, location: str | None) -> None:
    """A redirect without a target is an error like the others."""
    stub.fault = Fault("status", 308, "", {} if location is None else {"Location": location})
    error = await failure(send(api))
    assert (error.code, error.outcome_unknown) == ("api_redirected", False)
    assert "NEXT_API_URL" in str(error)
    assert paths(stub) == [SEND]


@pytest.mark.gen_test
async def test_a_redirect_loop(api: HttpApi, stub: Stub) -> None:
    """A redirect loop is followed a few times, and no outcome is unknown afterwards."""
    stub.fault = to(f"{SEND}/")
    error = await failure(send(api))
    assert (error.code, error.outcome_unknown) == ("api_redirected", False)
    assert paths(stub) == [SEND, f"{SEND}/"] * 2
    stub.fault = Fault()
    await send(api)
    assert paths(stub) == [SEND]


# -- a call that is redirected is one call ------------------------------------------------------


@pytest.mark.gen_test
async def test_a_message_that_is_lost_after_a_redirect(api: HttpApi, stub: Stub) -> None:
    """The outcome of a message is unknown only after it was sent to its final address."""
    stub.trailing_slash = True
    stub.fault = Fault("close", times=1, saves=True)
    error = await failure(send(api))
    assert (error.code, error.outcome_unknown) == ("api_connection_lost", True)
    assert len(stub.saved) == 1


@pytest.mark.gen_test
async def test_an_application_that_goes_away_in_between(api: HttpApi, stub: Stub) -> None:
    """If the port is closed after a redirect, it is certain that nothing was saved."""
    stub.fault = to(f"{SEND}/", delay=0.01)
    stub.fault.headers["Connection"] = "close"
    call = asyncio.ensure_future(send(api))
    await stub.arrived.wait()
    stub.server.stop()
    error = await failure(call)
    assert (error.code, error.outcome_unknown) == ("api_unavailable", False)


@pytest.mark.gen_test
async def test_one_deadline(api: HttpApi, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a redirect a call has only the remaining time, and the same connection."""
    left, held = [], []
    session = api._session
    assert session is not None
    fetch = session.fetch

    def note(request: ApiRequest, **options: Any) -> Any:
        left.append(request.deadline)
        held.append(api.stats.active)
        return fetch(request, **options)

    monkeypatch.setattr(session, "fetch", note)
    stub.trailing_slash = True
    await send(api)
    assert left[0] == left[1] <= asyncio.get_running_loop().time() + 4
    assert held == [1, 1]
    assert api.stats.active == 0


@pytest.mark.gen_test
async def test_a_caller_that_cancels_in_between(api: HttpApi, stub: Stub) -> None:
    """A caller that cancels a call while it is redirected ends it there, and its connection is free again."""
    stub.trailing_slash = True
    stub.delay = 0.01
    call = asyncio.ensure_future(send(api))
    await stub.arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert api.stats.active == 1
    while api.stats.active:  # noqa: ASYNC110 - what is awaited is a counter
        await asyncio.sleep(0.001)
    assert (paths(stub), stub.saved) == ([SEND], [])


@pytest.mark.gen_test
async def test_close_in_between(api: HttpApi, stub: Stub) -> None:
    """A server that stops while a call is redirected sends it nowhere else."""
    stub.trailing_slash = True
    stub.delay = 0.01
    call = asyncio.ensure_future(send(api))
    await stub.arrived.wait()
    await api.close()
    error = await failure(call)
    assert (error.code, error.outcome_unknown) == ("api_unavailable", False)
    assert (paths(stub), stub.saved, api.stats.active) == ([SEND], [], 0)


# -- where a redirect leads ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("/api/users/a%2Fb%3A/", Address("http://x:3000", "", "/")),
        ("/api/users/a%2fb:", Address("http://x:3000")),
        ("http://X:3000/en/api/users/a%2Fb:", Address("http://x:3000", "/en")),
        ("https://y/v1.2/base/api/users/a%2Fb:/", Address("https://y", "/v1.2/base", "/")),
        ("//y/api/users/a%2Fb:", Address("http://y")),
        ("/../api/users/a%2Fb:", Address("http://x:3000")),
        ("/..%2Fapi/users/a%2Fb:", None),
        ("/\\y/api/users/a%2Fb:", None),
        ("/a//api/users/a%2Fb:", None),
        (f"/{'x' * 200}/api/users/a%2Fb:", None),
        ("/api/users/A%2FB:", None),
        ("/api/users/a%2Fb:/?x#there", Address("http://x:3000", "", "/")),
        ("/api/users/", None),
    ],
)
def test_where_a_redirect_leads(location: str, address: Address | None) -> None:
    """The same route is recognized by its ids, whatever surrounds it; our own path is sent."""
    target = target_of("http://x:3000/api/users/a%2Fb%3A", "/api/users/a%2Fb%3A", location)
    assert target is not None
    assert target.address == address
