"""The examples agree with the documents, and their locks with any registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.application.test_nextjs import documented

ROOT = Path(__file__).parents[2]
NEXTJS = ROOT / "examples" / "nextjs"


@pytest.mark.parametrize("name", sorted(documented()))
def test_the_next_application_is_the_documented_one(name: str) -> None:
    """Each file that docs/integrate-nextjs.md shows is word for word in examples/nextjs."""
    assert (NEXTJS / name).read_text(encoding="utf-8") == documented()[name]


def test_the_next_application_has_what_the_document_leaves_to_it() -> None:
    """Of the routes and the modules around them, the example adds the store and the sign-in alone."""
    routes = {str(path.relative_to(NEXTJS)) for path in (NEXTJS / "app" / "api").rglob("*.ts")}
    assert routes == {name for name in documented() if name.startswith("app/")}


def test_the_lock_names_no_registry() -> None:
    """Installing the example uses the registry that npm is configured with."""
    packages = json.loads((NEXTJS / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    resolved = {name: about["resolved"] for name, about in packages.items() if "resolved" in about}
    assert resolved == {"node_modules/eclipse-chat": "file:../../web"}
