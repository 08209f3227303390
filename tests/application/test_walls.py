"""Proxies and firewalls in front of the application that answer in its place; the headers that pass them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from eclipse_ws.application.base import ApiError
from eclipse_ws.application.http import HttpApi
from tests.application.conftest import make_settings
from tests.application.stub import BYPASS, Fault, Stub

Open = Callable[[Any], Any]
PASS = "the-value-that-leads-through-0123456789"
HTML = "<!doctype html><html><title>Sign in</title></html>"
OWN = '{"error": "Unauthorized"}'


async def failure(call: Any) -> ApiError:
    """The ApiError that a call must end with."""
    with pytest.raises(ApiError) as caught:
        await call
    assert PASS not in str(caught.value)
    return caught.value


def start(opened: Open, stub: Stub, headers: str = "") -> HttpApi:
    """An HttpApi that sends these headers to the stub."""
    given = make_settings(next_api_url=stub.url, api_headers=SecretStr(headers))
    api: HttpApi = opened(HttpApi(given))
    return api


@pytest.mark.gen_test
async def test_deployment_protection_is_named(api: HttpApi, stub: Stub) -> None:
    """A call that it refuses was not saved; the error names the setting for it, and not the secret."""
    stub.bypass = PASS
    for call in (api.send_message("c", "u", "hello", "USER"), api.user("u")):
        error = await failure(call)
        assert (error.code, error.retryable, error.outcome_unknown) == ("api_unauthorized", False, False)
        assert "ECLIPSE_API_HEADERS" in str(error)
        assert "INTERNAL_API_SECRET" not in str(error)
    assert api.state == "up"


@pytest.mark.gen_test
async def test_configured_headers_are_sent(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    """The setting's headers are sent with every call, also after a redirect, and are never logged."""
    stub.bypass, stub.trailing_slash = PASS, True
    given = make_settings(next_api_url=stub.url, api_headers=SecretStr(f"{BYPASS}: {PASS}\nX-More: 1"))
    api = HttpApi(given)
    await api.start()
    with caplog.at_level(logging.DEBUG):
        assert (await api.send_message("c", "u", "hello", "USER", "key")).content == "hello"
        assert (await api.user("u")).id == "u"
    assert {headers["X-More"] for _, _, headers in stub.requests} == {"1"}
    assert PASS not in caplog.text
    await api.close()


@pytest.mark.gen_test
async def test_a_reload_changes_the_headers(api: HttpApi, stub: Stub) -> None:
    """The headers may be changed while the server runs."""
    stub.bypass = PASS
    assert (await failure(api.user("u"))).code == "api_unauthorized"
    api.reload(make_settings(api_headers=SecretStr(f'{{"{BYPASS}": "{PASS}"}}')))
    assert (await api.user("u")).id == "u"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("status", "media", "body", "names"),
    [
        (401, "application/json", OWN, "INTERNAL_API_SECRET"),
        (403, "text/plain", OWN, "INTERNAL_API_SECRET"),
        (401, "text/html; charset=utf-8", HTML, "ECLIPSE_API_HEADERS"),
        (403, "Text/HTML", HTML, "ECLIPSE_API_HEADERS"),
        (200, "text/html", HTML, "ECLIPSE_API_HEADERS"),
        (401, "text/plain", "Unauthorized", "both"),
        (403, "application/json", '{"message": "Forbidden"}', "both"),
        (403, "application/json", '{"error": {"code": "403", "message": "Forbidden"}}', "both"),
        (403, "", "", "both"),
        (404, "text/html", HTML, "NEXT_API_URL"),
        (404, "application/json", '{"error": "Chat not found"}', "nothing"),
    ],
)
async def test_the_error_names_who_has_answered(  # noqa: PLR0917
    api: HttpApi, stub: Stub, status: int, media: str, body: str, names: str
) -> None:
    """A firewall, a sign-in page, or the application itself: the error says what to check."""
    stub.fault = Fault("status", status, body, {"Content-Type": media})
    for call in (api.send_message("c", "u", "hello", "USER"), api.user("u")):
        text = str(await failure(call))
        settings = ("INTERNAL_API_SECRET", "ECLIPSE_API_HEADERS", "NEXT_API_URL")
        named = [setting for setting in settings if setting in text]
        assert named == {"both": list(settings[:2]), "nothing": []}.get(names, [names])
