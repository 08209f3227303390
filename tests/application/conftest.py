"""Fixtures of the chat API's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr
from tornado.ioloop import IOLoop

from eclipse_ws.application.base import ApiError, ChatApi
from eclipse_ws.application.embedded import EmbeddedApi
from eclipse_ws.application.http import HttpApi
from eclipse_ws.config.settings import Settings
from tests.application.site import Site
from tests.application.stub import SECRET, Stub

CONTENT = "the visitor's own words"
JWT_SECRET = "a-secret-for-the-tokens-of-the-tests-0123456789"


def make_settings(**fields: Any) -> Settings:
    """Settings for tests, with short timeouts."""
    given = {"api_timeout": 4, **fields}
    return Settings(
        internal_api_secret=SecretStr(SECRET), jwt_secret=SecretStr(JWT_SECRET), backend="memory", **given
    )


def send(api: ChatApi, chat: str = "chat-1", key: str | None = None) -> Any:
    """One message in progress."""
    return api.send_message(chat, "anon_1_x", CONTENT, "USER", key)


async def failure(call: Any) -> ApiError:
    """The ApiError that a call must end with; its detail may not reveal a secret or the content."""
    with pytest.raises(ApiError) as caught:
        await call
    assert SECRET not in str(caught.value)
    assert CONTENT not in str(caught.value)
    return caught.value


@pytest.fixture
def stub(io_loop: IOLoop) -> Iterator[Stub]:
    """The application's API, listening."""

    async def begin() -> Stub:
        stub = Stub()
        await stub.start()
        return stub

    stub = io_loop.run_sync(begin)
    yield stub
    io_loop.run_sync(stub.stop)


@pytest.fixture
def authority() -> trustme.CA:
    """An authority that nobody trusts by default; created outside of the loop, because that is slow."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    """The authority's PEM file."""
    path = str(tmp_path / "authority.pem")
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def opened(io_loop: IOLoop) -> Iterator[Callable[[Any], Any]]:
    """A function that starts a ChatApi, which is closed at the test's end."""
    apis: list[Any] = []

    def start(api: Any) -> Any:
        apis.append(api)
        io_loop.run_sync(api.start)
        return api

    yield start
    for api in apis:
        io_loop.run_sync(api.close)


@pytest.fixture
def api(stub: Stub, opened: Callable[[Any], Any]) -> HttpApi:
    """An HttpApi that talks to the stub."""
    api: HttpApi = opened(HttpApi(make_settings(next_api_url=stub.url)))
    return api


@pytest.fixture
def site(io_loop: IOLoop) -> Iterator[Site]:
    """The routes of an API in memory."""

    async def begin() -> Site:
        api = EmbeddedApi(make_settings())
        await api.start()
        return Site(api)

    async def stop() -> None:
        site.server.stop()
        await site.server.close_all_connections()
        await site.api.close()

    site = io_loop.run_sync(begin)
    yield site
    io_loop.run_sync(stop)
