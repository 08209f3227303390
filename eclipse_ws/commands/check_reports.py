"""Checks that the application takes reports: it gets batches without any, which change nothing."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

from pydantic import SecretStr

from eclipse_ws.application.reports_client import ApplicationBusy, BatchRefused, ReportsClient
from eclipse_ws.application.response_errors import LET_IN
from eclipse_ws.commands import connectivity
from eclipse_ws.commands.report import Finding
from eclipse_ws.config.settings import Settings, variable

NAME: Final = variable("app_events_url")
SIGN: Final = (
    "compute the HMAC-SHA256 of the body's bytes as they arrive, with the INTERNAL_API_SECRET of this "
    "server, and compare it with X-Signature after sha256="
)


async def reports(value: Settings) -> list[Finding]:
    """Whether the application takes a batch, and refuses one with a wrong signature; nothing if none is to be
    sent.
    """
    if not value.app_events_url:
        return []
    wrong_secret = value.model_copy(update={"internal_api_secret": SecretStr(secrets.token_urlsafe(48))})
    began = time.monotonic()
    right, wrong = await asyncio.gather(_post(value), _post(wrong_secret))
    took = time.monotonic() - began
    if isinstance(right, BatchRefused):
        text = f"answers {right} to a batch without reports"
        return [Finding(NAME, "problem", text, 'answer {"events": [], ...} with a status of 2xx')]
    if right is not None:
        return [_failure(value, right, took)]
    findings = [Finding(NAME, "ok", f"takes reports, and answers in {took * 1000:.0f} ms")]
    if wrong is None:
        text = "takes reports with a wrong signature, so that anybody can send some"
        findings.append(Finding(NAME, "warning", text, f"answer them with 401: {SIGN}"))
    return findings


async def _post(value: Settings) -> BatchRefused | ApplicationBusy | None:
    """Send a batch without reports as the server would. Returns the error, None if it is taken."""
    client = ReportsClient(value)
    await client.start()
    try:
        await client.post([])
    except (BatchRefused, ApplicationBusy) as error:
        return error
    finally:
        await client.close()
    return None


def _failure(value: Settings, error: ApplicationBusy, took: float) -> Finding:
    """Why a batch was not taken."""
    text = f"answers {error}"
    match error.status:
        case 0:
            return connectivity.application(NAME, value.app_events_url, value, error, took)
        case 401 | 403:
            fix = f"{SIGN}; if the response comes from something in front of the application, {LET_IN}"
        case 404 | 405:
            fix = "set it to the address of a route of the application that takes a POST"
        case status if 300 <= status < 400:
            # The client's own text: it leaves out the query, which may contain a secret.
            text, _, fix = str(error).rpartition("; ")
        case _:
            fix = "see the application's log"
    return Finding(NAME, "problem", text, fix)
