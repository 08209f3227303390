"""`eclipse-ws check` with sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from eclipse_ws.commands import report
from eclipse_ws.commands.report import Finding
from tests import needs
from tests.commands.conftest import Check, gen_test, verdicts
from tests.sentinels import SERVICE, Sentinels, ask
from tests.servers import free_port


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    """A primary, two replicas and three sentinels."""
    made = Sentinels(needs.server())
    try:
        yield made.start()
    finally:
        made.stop()


def of(findings: list[Finding], name: str) -> list[tuple[str, str]]:
    """The verdicts and texts of this name."""
    return [(found.verdict, found.text) for found in findings if found.name == name]


@gen_test
async def test_valid_sentinels(check: Check, sentinels: Sentinels) -> None:
    """All that is well is said in two lines; a primary that may lose events in a failover is a warning."""
    findings = await check(REDIS_URL=sentinels.url)
    assert of(findings, "Sentinel") == [
        ("ok", f"3 of 3 name 127.0.0.1:{sentinels.primary.port} as the primary of 'chats'")
    ]
    assert verdicts(findings)["REDIS_URL"] == verdicts(findings)["Redis rights"] == "ok"
    assert verdicts(findings)["Redis replicas"] == "warning"
    ask(sentinels.primary.port, "CONFIG", "SET", "min-replicas-to-write", "1")
    assert of(await check(REDIS_URL=sentinels.url), "Redis replicas") == [("ok", "2 could be promoted")]


@gen_test
async def test_a_sentinel_that_is_gone(check: Check, sentinels: Sentinels) -> None:
    """It is named; the others suffice."""
    port = free_port()
    findings = await check(REDIS_URL=sentinels.url.replace("//", f"//127.0.0.1:{port},"))
    (warning, fine) = of(findings, "Sentinel")
    assert warning[0] == "warning" and f"127.0.0.1:{port} names no primary" in warning[1]
    assert fine[1].startswith("3 of 4 name")
    assert verdicts(findings)["REDIS_URL"] == "ok"


@pytest.mark.parametrize(
    ("place", "says", "fix"),
    [
        ("{sentinel}/other", "knows no service 'other'", "sentinel monitor"),
        ("{free}/chats", "no sentinel names a primary", "behind NAT"),
        ("{redis}/chats", "it is not a sentinel", "not Redis itself"),
    ],
)
@gen_test
async def test_wrong_sentinels(check: Check, sentinels: Sentinels, place: str, says: str, fix: str) -> None:
    """A wrong name, a wrong port, and Redis in place of a sentinel: each has a text and a fix of its own."""
    where = place.format(
        sentinel=f"127.0.0.1:{sentinels.sentinels[0].port}",
        free=f"127.0.0.1:{free_port()}",
        redis=f"127.0.0.1:{sentinels.primary.port}",
    )
    findings = await check(REDIS_URL=f"redis+sentinel://{where}")
    (problem,) = [found for found in findings if found.verdict == "problem"]
    assert problem.name == "REDIS_URL", report.table(findings)
    assert says in problem.text
    assert fix in problem.fix


@gen_test
async def test_a_primary_without_replicas(check: Check, expect_log: Any) -> None:
    """Sentinels can't promote what is not there; and while they disagree, nobody knows which is right."""
    expect_log("sentinels disagree")
    made = Sentinels(needs.server())
    other = Sentinels(needs.server())
    try:
        for each in (made.servers[0], made.sentinels[0], other.servers[0], other.sentinels[0]):
            await asyncio.to_thread(each.start)
        for port in (sentinel.sentinels[0].port for sentinel in (made, other)):
            await asyncio.to_thread(made.until, lambda port=port: ask(port, "PING"))
        places = [f"127.0.0.1:{each.sentinels[0].port}" for each in (made, other)]
        findings = await check(REDIS_URL=f"redis+sentinel://{places[0]}/{SERVICE}")
        assert "no replica" in of(findings, "Redis replicas")[0][1]
        findings = await check(REDIS_URL=f"redis+sentinel://{','.join(places)}/{SERVICE}")
        assert [verdict for verdict, text in of(findings, "Sentinel") if "disagree" in text] == ["warning"]
    finally:
        made.stop()
        other.stop()
