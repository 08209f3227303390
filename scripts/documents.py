"""Writes the documents of the interface into ``docs/``: ``make documents``."""

from __future__ import annotations

from pathlib import Path

import yaml

from eclipse_ws import documents

DOCS = Path(__file__).parents[1] / "docs"
HEAD = "# Made from the code's own types by `make documents`; don't edit.\n"


def written() -> dict[str, str]:
    """What belongs into each file."""
    made = {}
    for name, document in (("asyncapi", documents.asyncapi()), ("openapi", documents.openapi())):
        made[f"{name}.yaml"] = HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
        made[f"{name}.md"] = documents.page(document)
    return made


if __name__ == "__main__":
    for file, text in written().items():
        (DOCS / file).write_text(text, encoding="utf-8")
