"""`eclipse-ws check` on a valid configuration, of which a test changes some variables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from eclipse_ws.commands import check as check_module
from eclipse_ws.commands.report import Finding
from tests import needs
from tests.application.stub import Stub
from tests.servers import RedisServer, free_port

ROOT = Path(__file__).parents[2]
SECRETS = {
    "JWT_SECRET": "an-honest-jwt-secret-0123456789-abcdef",
    "INTERNAL_API_SECRET": "an-honest-internal-secret-0123456789-ab",
}
gen_test = pytest.mark.gen_test(timeout=40)
Check = Callable[..., Awaitable[list[Finding]]]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A valid Redis."""
    server = RedisServer(needs.server()).start()
    yield server
    server.stop()


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis: RedisServer) -> Check:
    """`check` with a valid configuration, of which some variables are changed; None removes one."""
    monkeypatch.chdir(tmp_path)

    async def run(fly_file: Path | None = None, **given: str | None) -> list[Finding]:
        stub = Stub(SECRETS["INTERNAL_API_SECRET"])
        await stub.start()
        environ: dict[str, str | None] = {
            **SECRETS,
            "REDIS_URL": redis.url,
            "NEXT_API_URL": stub.url,
            "PORT": str(free_port()),
            "ECLIPSE_API_TIMEOUT": "2",
            "ECLIPSE_REDIS_TIMEOUT": "1",
            **given,
        }
        try:
            return await check_module.check(
                "prod", fly_file, {k: v for k, v in environ.items() if v is not None}
            )
        finally:
            await stub.stop()

    return run


def verdicts(findings: list[Finding]) -> dict[str, str]:
    """The worst verdict by name."""
    worst: dict[str, str] = {}
    order = ("ok", "skipped", "warning", "problem")
    for finding in findings:
        worst[finding.name] = max(worst.get(finding.name, "ok"), finding.verdict, key=order.index)
    return worst
