"""Origins that a list omits by a common mistake."""

from __future__ import annotations

import pytest

from eclipse_ws.security.origins import Origins
from tests.conftest import make_settings


@pytest.mark.parametrize(
    ("listed", "siblings"),
    [
        (["https://example.com"], ["https://www.example.com"]),
        (["https://www.example.com:8443"], ["https://example.com:8443"]),
        (["https://www.chat.example.com"], ["https://chat.example.com"]),
        (["https://chat.example.com", "http://localhost:3000", "https://192.0.2.1"], []),
        (["https://example.com", "https://www.example.com"], []),
        (
            ["https://wwwexample.com", "http://example.org"],
            ["https://www.wwwexample.com", "http://www.example.org"],
        ),
    ],
)
def test_siblings(listed: list[str], siblings: list[str]) -> None:
    """Only a site's own name and its ``www.`` are siblings, and only while one of them isn't allowed."""
    origins = Origins(make_settings(profile="prod", allowed_origins=listed))
    assert origins.siblings(listed) == siblings
    assert all(origins.allows(origin) for origin in listed)
    assert not any(origins.allows(origin) for origin in siblings)
