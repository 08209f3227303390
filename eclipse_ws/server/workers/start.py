"""What a worker starts with: the supervisor's settings, and what it inherits."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from pydantic import SecretStr

from eclipse_ws.config.settings import Settings
from eclipse_ws.server.workers import shares

HEARTBEAT: Final = 1.0
"""Seconds between two signs of life of a worker."""


class Start(msgspec.Struct):
    """Sent to a worker as its first message, and with a reload. So all workers of a machine have the same
    settings, even if a file has changed between the starts of two of them.
    """

    number: int
    """From 1 on."""
    of: int
    """How many workers there are."""
    values: dict[str, Any]
    """The machine's settings; secrets are plain, because the channel is private to the two processes."""
    generated: list[str]
    """Settings that no source sets."""
    sockets: dict[str, list[int]]
    """File descriptors that listen, by the setting that has their port."""
    table: int
    """The file descriptor of `Table`."""

    def settings(self) -> Settings:
        """The worker's own settings: its share."""
        return shares.share(Settings(**self.values), self.number, self.of)


def plain(settings: Settings) -> dict[str, Any]:
    """Settings in a form that can be sent."""
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in values.items()
    }
